"""A document of a corpus, and what its labels may be."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from residscope.errors import CorpusError
from residscope.progress import Tell

Label = str | int | float | bool | None
KINDS = ((bool,), (int, float), (str,))


@dataclass(frozen=True)
class Document:
    """One text of a corpus with its labels. ids: its tokens, where a model wrote it and they are known."""

    text: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Piece:
    """A part of a corpus that is read from its beginning: a file, a built-in text, texts in memory.

    key: what says that it is still the same text, where that can be said; asked when it is first read. read: its documents.
    """

    name: str
    key: Callable[[], str | None]
    read: Callable[[Tell], Iterator[Document]]


class Labels:
    """The label fields of a file's rows: each is there in every row, and of one kind in all of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._kinds: dict[str, tuple[type, ...]] = {}

    def of(self, row: Mapping[str, Any], where: str) -> dict[str, Label]:
        """A row's labels. Raises CorpusError: one that is not there, is no plain value, or of another kind than before."""
        return {name: self._one(name, row, where) for name in self.names}

    def _one(self, name: str, row: Mapping[str, Any], where: str) -> Label:
        if name not in row:
            raise CorpusError(f"{where} has no label {name}", received=name, allowed=", ".join(map(str, row)) or "none")
        value = row[name]
        if value is None:
            return None
        kind = next((kind for kind in KINDS if type(value) in kind), None)
        if kind is None:
            raise CorpusError(
                f"the label {name} of {where} is no plain value",
                received=type(value).__name__,
                allowed="a text, a number, true, false or null",
            )
        if self._kinds.setdefault(name, kind) != kind:
            raise CorpusError(
                f"the label {name} changes its kind at {where}",
                received=repr(value)[:80],
                allowed=" or ".join(one.__name__ for one in self._kinds[name]) + ", as in the rows before",
            )
        return value


def content_hash(text: str) -> int:
    """64 bits of a document's text, white space at its ends left out: what says that two documents are the same."""
    content = text.strip().encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def share(content: int) -> float:
    """A number from 0 up to 1 that a document's content alone says, even over documents: its place in a split."""
    digest = hashlib.blake2b(content.to_bytes(8, "little", signed=True), digest_size=8, person=b"split").digest()
    return int.from_bytes(digest, "little") / 2.0**64
