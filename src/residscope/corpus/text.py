"""Text: where a corpus comes from."""

import ast
import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from residscope.errors import CorpusError, EmptyCorpus

Source = str | Path | Iterable[str]
BUILT_IN = ("python-docs",)


def texts(source: Source) -> Iterator[str]:
    """The texts of a corpus.

    source: `"python-docs"`, a .txt file (its paragraphs), a .jsonl file (its `text` fields), or the texts themselves.

    Raises:
        CorpusError: no such file, or a line that is not of the form; the line is named.
    """
    if isinstance(source, str) and source in BUILT_IN:
        yield from python_docs()
        return
    if not isinstance(source, str | Path):
        yield from source
        return
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix not in (".txt", ".jsonl"):
        raise CorpusError(
            "no such text",
            received=str(source),
            allowed=", ".join(BUILT_IN) + ", a .txt or .jsonl file, or a list of texts",
        )
    if path.suffix == ".txt":
        yield from (part for part in path.read_text(errors="replace").split("\n\n") if part.strip())
        return
    for number, line in enumerate(path.open(), 1):
        try:
            yield json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            raise CorpusError(
                f"line {number} of {path.name} has no text", received=line[:80], allowed='{"text": "..."} on each line'
            ) from None


def called(source: Source) -> str:
    """What a corpus is called where a direction says what it was fitted on."""
    return str(source) if isinstance(source, str | Path) else "texts"


def python_docs() -> Iterator[str]:
    """Python's language reference topics and the standard library's docstrings: English prose on every machine."""
    from pydoc_data.topics import topics

    yield from topics.values()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                doc = ast.get_docstring(node)
                if doc and len(doc) > 200:
                    yield doc


def rows(tokenized: Iterable[list[int]], *, length: int, budget: int) -> Iterator[list[int]]:
    """Cut token lists into rows of at most `length`, until `budget` tokens have been given. Rows under 8 tokens are dropped.

    Raises:
        EmptyCorpus: there was not one row.
    """
    given = 0
    for ids in tokenized:
        for start in range(0, len(ids), length):
            row = ids[start : start + length]
            if len(row) < 8:
                continue
            yield row
            given += len(row)
            if given >= budget:
                return
    if given == 0:
        raise EmptyCorpus("the text gave no row of 8 tokens or more", fix="give longer texts")
