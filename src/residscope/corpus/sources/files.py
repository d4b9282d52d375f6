"""Documents of files: paragraphs of text, lines of JSON, columns of Parquet, packed or not."""

import io
import json
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from residscope.corpus.hub import ENDINGS
from residscope.corpus.sources.bytes_in import BROKEN, unpacked
from residscope.corpus.sources.documents import Document, Labels
from residscope.errors import CorpusError, MissingExtra
from residscope.incoming import Unreadable, opened

CHUNK = 1 << 20  # bytes
ROWS = 256  # of a Parquet file, at a time


def is_text(name: str | Path) -> bool:
    """Whether a file's name ends as one of text does, in whatever case."""
    return str(name).lower().endswith(ENDINGS)


def documents_of(path: Path, field: str = "text", labels: Sequence[str] = ()) -> Iterator[Document]:
    """The documents of a file, in order, without ever holding the whole of it.

    Raises:
        CorpusError: a line or row that is not of the form or without a label, or a file that is damaged: it is named.
        MissingExtra: Parquet without pyarrow, Zstandard without zstandard.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet(path, field, Labels(labels))
    elif name.endswith((".txt", ".txt.gz", ".txt.zst")):
        if labels:
            raise CorpusError(
                f"{path.name} has no labels", received=", ".join(labels), allowed="labels of .jsonl and .parquet files"
            )
        yield from map(Document, _paragraphs_of(path))
    elif name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        yield from json_documents(_lines_of(path), path.name, field, Labels(labels))
    else:
        raise CorpusError(f"{path.name} is no file of text", received=path.suffix, allowed=", ".join(ENDINGS))


def paragraphs(parts: Iterable[str]) -> Iterator[str]:
    """The paragraphs of a text that comes in parts: what `"".join(parts).split("\\n\\n")` has, blank ones left out.

    >>> list(paragraphs(["one\\n", "\\ntwo"]))
    ['one', 'two']
    """
    begun: list[str] = []
    ends = ""
    for part in parts:
        whole = ends + part
        ends = whole[len(whole.rstrip("\n")) :]
        *done, rest = whole.removesuffix(ends).split("\n\n")
        for paragraph in done:
            begun.append(paragraph)
            if (text := "".join(begun)).strip():
                yield text
            begun = []
        begun.append(rest)
    for text in ("".join(begun) + ends).split("\n\n"):
        if text.strip():
            yield text


def json_documents(lines: Iterable[str | bytes], name: str, field: str, labels: Labels) -> Iterator[Document]:
    """The `field` of each line's JSON object; empty lines, and fields that are null, give nothing. Raises CorpusError by line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        value: Any = 0
        row: Any = None
        try:
            row = json.loads(line)
            value = row[field]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            pass
        text = _checked(value, f"line {number} of {name}", short(line), f'{{"{field}": "..."}} on each line')
        if text:
            yield Document(text, labels.of(row, f"line {number} of {name}"))


def short(line: str | bytes) -> str:
    return (line.decode(errors="replace") if isinstance(line, bytes) else line).strip()[:80]


def _checked(value: Any, where: str, received: str, allowed: str) -> str:
    if value is not None and not isinstance(value, str):
        raise CorpusError(f"{where} has no text", received=received, allowed=allowed)
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise CorpusError(
            f"{where} has half of a character (a lone surrogate)", received=received, fix="write whole characters"
        ) from None
    return value or ""


def _lines_of(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with unpacked(path) as content:
            for line in content:
                yield line
                number += 1
    except BROKEN as error:
        raise damaged(path, f"line {number + 1}", error) from error
    except (OSError, Unreadable) as error:
        raise _unreadable(path, error) from error


def _paragraphs_of(path: Path) -> Iterator[str]:
    lines = 1

    def parts(content: Any) -> Iterator[str]:
        nonlocal lines
        decoder = io.IncrementalNewlineDecoder(getincrementaldecoder("utf-8")("replace"), translate=True)
        while raw := content.read(CHUNK):
            yield (part := decoder.decode(raw))
            lines += part.count("\n")
        yield decoder.decode(b"", final=True)

    try:
        with unpacked(path) as content:
            yield from paragraphs(parts(content))
    except BROKEN as error:
        raise damaged(path, f"what follows line {lines}", error) from error
    except (OSError, Unreadable) as error:
        raise _unreadable(path, error) from error


def damaged(path: Path, where: str, error: Exception) -> CorpusError:
    return CorpusError(
        f"{path.name} is damaged at {where}",
        received=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
        fix="fetch or pack the file again",
    )


def _unreadable(path: Path, error: Exception) -> CorpusError:
    return CorpusError(f"{path.name} cannot be read", received=getattr(error, "strerror", None) or str(error))


def _parquet(path: Path, field: str, labels: Labels) -> Iterator[Document]:
    """A column of a Parquet file, a batch of rows at a time."""
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra(
            "Parquet files need pyarrow", received=path.name, fix="`pip install residscope[parquet]`"
        ) from error
    number = 0
    try:
        with opened(path) as content, ParquetFile(content) as file:
            for missing in {field, *labels.names} - {*file.schema_arrow.names}:
                raise CorpusError(
                    f"{path.name} has no column {missing}",
                    received=missing,
                    allowed=", ".join(file.schema_arrow.names),
                    fix="name the column behind a #: hub:org/name#column" if missing == field else None,
                )
            for batch in file.iter_batches(batch_size=ROWS, columns=[*dict.fromkeys((field, *labels.names))]):
                for row in batch.to_pylist():
                    number += 1
                    yield from _of_row(row, f"row {number} of {path.name}", field, labels)
    except (ArrowException, OSError, UnicodeDecodeError, Unreadable) as error:
        raise damaged(path, f"row {number + 1}", error) from error


def _of_row(row: Mapping[str, Any], where: str, field: str, labels: Labels) -> Iterator[Document]:
    text = _checked(row[field], where, short(repr(row[field])), f"text in column {field}")
    if text:
        yield Document(text, labels.of(row, where))
