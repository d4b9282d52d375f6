"""Rows of tokens out of documents: each by itself, or one after the other without a gap."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """What a row has of one document: its tokens from `start` on, from place `at` of the row on; the separator is the end's."""

    text: int
    start: int
    at: int
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Tokens that a model reads together: those of the corpus' text number `text`, from its token `start` on.

    parts: the documents in it, the first of which those two are of; more than one where rows are packed.
    """

    ids: list[int]
    text: int
    start: int
    parts: tuple[Part, ...] = ()

    @property
    def labels(self) -> Mapping[str, Any]:
        """The labels of the document that the row begins with."""
        return self.parts[0].labels if self.parts else {}

    def text_at(self, pos: int) -> Part:
        """The part that a position of the row belongs to."""
        return next(part for part in reversed(self.parts) if part.at <= pos)


def cut(ids: list[int], number: int, labels: Mapping[str, Any], *, length: int, begin: int = 0) -> Iterator[Row]:
    """One document's rows."""
    for start in range(begin, len(ids), length):
        yield Row(ids[start : start + length], number, start, (Part(number, start, 0, labels),))


class Packer:
    """Documents joined into rows of `length`; what is left over waits for the next one."""

    def __init__(self, length: int, carry: Sequence[Any] = ()) -> None:
        self.length = length
        self.ids: list[int] = []
        self.parts: list[Part] = []
        for text, start, labels, ids in carry:
            self.parts.append(Part(text, start, len(self.ids), labels))
            self.ids += ids

    @property
    def carry(self) -> tuple[Any, ...]:
        """What is left over, as plain values: each part's text, start, labels and ids."""
        ends = [part.at for part in self.parts[1:]] + [len(self.ids)] * bool(self.parts)
        return tuple(
            (part.text, part.start, dict(part.labels), self.ids[part.at : end])
            for part, end in zip(self.parts, ends, strict=True)
        )

    def add(self, ids: Sequence[int], number: int, labels: Mapping[str, Any]) -> Iterator[Row]:
        done = 0
        while done < len(ids):
            taken = min(self.length - len(self.ids), len(ids) - done)
            self.parts.append(Part(number, done, len(self.ids), labels))
            self.ids += ids[done : done + taken]
            done += taken
            if len(self.ids) == self.length:
                yield self.rest()

    def rest(self) -> Row:
        """What is there, as a row."""
        row = Row(self.ids, self.parts[0].text, self.parts[0].start, tuple(self.parts))
        self.ids, self.parts = [], []
        return row
