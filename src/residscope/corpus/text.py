"""Text: where a corpus comes from."""

import ast
import gzip
import json
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from residscope.corpus.hub import DataSet, data_set
from residscope.errors import CorpusError, MissingExtra
from residscope.once import once

Source = str | Path | DataSet | Iterable[str]
BUILT_IN = ("python-docs", "english")


class NamedTexts(list[str]):
    """Texts that have a name: that of the file they were pasted from."""

    def __init__(self, name: str, texts: Iterable[str]) -> None:
        super().__init__(texts)
        self.name = name


def texts(source: Source) -> Iterator[str]:
    """The texts of a corpus.

    source: `"python-docs"` or `"english"`; a .txt file (its paragraphs) or a .jsonl file (its `text` fields); a hub's data set,
    `"hub:org/name"`, `"hub:org/name@revision#field"`; or the texts themselves.

    Raises:
        CorpusError: no such file or data set, or a line that is not of the form; the line is named. Offline: no hub answers.
        MissingExtra: a data set of Parquet files without pyarrow.
    """
    source = opened(source)
    if isinstance(source, DataSet):
        for path in source.fetched():
            yield from _of_file(path, source.field)
    elif isinstance(source, Path):
        yield from _of_file(source)
    elif isinstance(source, str):
        yield from {"python-docs": python_docs, "english": english}[source]()
    else:
        yield from source


def opened(source: Source) -> Source:
    """The same corpus, known to exist: a built-in's name, a path to a file, a data set at its commit, or texts."""
    if isinstance(source, str) and source.startswith("hub:"):
        return data_set(source)
    if not isinstance(source, str | Path) or source in BUILT_IN:
        return source
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix not in (".txt", ".jsonl"):
        raise CorpusError(
            "no such text",
            received=str(source),
            allowed=", ".join(BUILT_IN) + ", a .txt or .jsonl file, hub:org/name for a data set, or a list of texts",
        )
    return path


def called(source: Source) -> str:
    """What a corpus is called where a direction says what it was fitted on."""
    if isinstance(source, DataSet | NamedTexts):
        return source.name
    return str(source) if isinstance(source, str | Path) else "texts"


def typed(name: str, text: str) -> NamedTexts:
    """Text that was typed or pasted, as what a file of that name would hold: JSON lines for .jsonl, paragraphs for the rest."""
    if name.endswith(".jsonl"):
        return NamedTexts(name, json_lines(text.splitlines(), name))
    return NamedTexts(name, paragraphs(text))


def paragraphs(text: str) -> Iterator[str]:
    return (part for part in text.split("\n\n") if part.strip())


def json_lines(lines: Iterable[str | bytes], name: str, field: str = "text") -> Iterator[str]:
    """The `field` of each line's JSON object; empty lines, and fields that are null, give nothing. Raises CorpusError by line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[field]
        except (ValueError, KeyError, TypeError, IndexError):
            value = 0
        yield from _text(
            value, f"line {number} of {name} has no text", _short(line), f'{{"{field}": "..."}} on each line'
        )


def python_docs() -> Iterator[str]:
    """Python's language reference topics and the standard library's docstrings: English prose on every machine."""
    from pydoc_data.topics import topics

    yield from topics.values()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield from _docstrings(file)


def english() -> Iterator[str]:
    """General English of a megabyte, in the public domain: State of the Union addresses since 1961, and Moby-Dick, by turns."""
    yield from gzip.decompress((files("residscope") / "data" / "english.txt.gz").read_bytes()).decode().split("\n\n")


@once
def _docstrings(file: Path) -> tuple[str, ...]:
    """The long docstrings of a module; `ast.parse` is not for several threads at one time (it counts its depth for all)."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    docs = (ast.get_docstring(node) for node in nodes)
    return tuple(doc for doc in docs if doc and len(doc) > 200)


def _of_file(path: Path, field: str = "text") -> Iterator[str]:
    match path.suffix.lower():
        case ".parquet":
            yield from _parquet(path, field)
        case ".jsonl":
            with path.open("rb") as lines:
                yield from json_lines(lines, path.name, field)
        case ".txt":
            yield from paragraphs(path.read_text(encoding="utf-8", errors="replace"))
        case other:
            raise CorpusError(f"{path.name} is no file of text", received=other, allowed=".txt, .jsonl or .parquet")


def _parquet(path: Path, field: str) -> Iterator[str]:
    """A column of a Parquet file, a batch of rows at a time."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra(
            "Parquet files need pyarrow", received=path.name, fix="`pip install residscope[parquet]`"
        ) from error
    file = ParquetFile(path)
    if field not in file.schema_arrow.names:
        raise CorpusError(
            f"{path.name} has no column {field}",
            received=field,
            allowed=", ".join(file.schema_arrow.names),
            fix="name the column behind a #: hub:org/name#column",
        )
    number = 0
    for batch in file.iter_batches(batch_size=256, columns=[field]):
        for value in batch.column(0).to_pylist():
            number += 1
            yield from _text(
                value, f"row {number} of {path.name} has no text", _short(repr(value)), f"text in column {field}"
            )


def _text(value: Any, failed: str, received: str, allowed: str) -> Iterator[str]:
    if value is not None and not isinstance(value, str):
        raise CorpusError(failed, received=received, allowed=allowed)
    if value:
        yield value


def _short(line: str | bytes) -> str:
    return (line.decode(errors="replace") if isinstance(line, bytes) else line).strip()[:80]
