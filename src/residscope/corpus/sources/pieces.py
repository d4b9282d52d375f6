"""A corpus as pieces, each read from its beginning, one after the other."""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from residscope.corpus.hub import DataSet
from residscope.corpus.sources import built_in
from residscope.corpus.sources.documents import Document, Piece
from residscope.corpus.sources.files import documents_of, is_text
from residscope.corpus.sources.sampled import Sampled
from residscope.errors import CorpusError
from residscope.incoming import path_of
from residscope.progress import Tell

Base = str | Path | DataSet | Iterable[str]
WHOLE = 64 << 20  # bytes of a file whose content is hashed whole; of a longer one its ends and its middle are
PART = 1 << 20


@dataclass(frozen=True)
class Files:
    """Files of text on this machine: one whose text stands in another field, those of a folder, or what a pattern finds."""

    name: str
    files: tuple[Path, ...]
    field: str = "text"


def local(source: str | Path) -> Path | Files | None:
    """A file of text, a folder of such, or a pattern of their names, perhaps with `#field` behind it; None: nothing there."""
    words, whole = str(source), path_of(source)
    if whole.is_file():
        return whole if is_text(whole) else None
    place, mark, field = words.partition("#")
    path = path_of(place)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        found = sorted(file for name in glob.glob(str(path), recursive=True) if (file := Path(name)).is_file())
    of_text = tuple(file for file in found if is_text(file))
    if not of_text or (mark and not field):
        return None
    return Files(words, of_text, field or "text")


def pieces_of(source: Base | Files | Sampled, labels: Sequence[str] = ()) -> list[Piece]:
    """The pieces of an opened corpus. Raises CorpusError: labels of texts that have none."""
    if isinstance(source, DataSet):
        return [_of_hub(source, file, labels) for file in source.files]
    if isinstance(source, Files):
        return [_of_file(file, source.field, labels) for file in source.files]
    if isinstance(source, Path):
        return [_of_file(source, "text", labels)]
    if labels:
        raise CorpusError(
            "only rows of files have labels", received=", ".join(labels), allowed="labels of .jsonl and .parquet files"
        )
    if isinstance(source, Sampled):
        return [Piece(source.name, source.key, source.documents)]
    if isinstance(source, str):
        name = source
        return [Piece(name, lambda: built_in.key_of(name), lambda _: map(Document, built_in.texts_of(name)))]
    return [Piece("texts", partial(_key_of_texts, source), lambda _: _checked(source))]


def _of_file(path: Path, field: str, labels: Sequence[str]) -> Piece:
    return Piece(path.name, partial(_key_of_file, path, field), lambda _: documents_of(path, field, labels))


def _of_hub(data: DataSet, file: str, labels: Sequence[str]) -> Piece:
    def read(_: Tell) -> Iterator[Document]:
        yield from documents_of(data.fetch(file), data.field, labels)

    return Piece(file, lambda: f"{data.key(file)} {data.field}", read)


def _checked(texts: Iterable[object]) -> Iterator[Document]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise CorpusError(f"text {number} is no text", received=f"{type(text).__name__}", allowed="strings")
        yield Document(text)


def _key_of_texts(texts: Iterable[str]) -> str | None:
    """The hash of texts in memory; None for what can be read only once."""
    if not isinstance(texts, Sequence):
        return None
    hashed = hashlib.sha256()
    for text in texts:
        if not isinstance(text, str):
            return None
        content = text.encode(errors="surrogatepass")
        hashed.update(len(content).to_bytes(8, "little") + content)
    return hashed.hexdigest()


def _key_of_file(path: Path, field: str) -> str:
    """Where a file is, how long, of when, and the hash of its content: of a very long one, of three parts of it."""
    stat = path.stat()
    with path.open("rb") as file:
        if stat.st_size <= WHOLE:
            content = hashlib.file_digest(file, "sha256")
        else:
            content = hashlib.sha256()
            for at in (0, stat.st_size // 2, stat.st_size - PART):
                file.seek(at)
                content.update(file.read(PART))
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {content.hexdigest()} {field}"
