"""In what order documents come, and how to go on from a place among them."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from residscope.corpus.sources.documents import Piece, share
from residscope.errors import CorpusError
from residscope.progress import Tell

WINDOW = 1000  # documents that are shuffled together
SIDES = ("train", "held-out")


@runtime_checkable
class Hashed(Protocol):
    @property
    def content(self) -> int: ...


T = TypeVar("T", bound=Hashed)


@dataclass(frozen=True)
class Order:
    """Which documents are read, and in which order.

    shuffle: a seed; files come in an order of its own, and of each `window` documents of a corpus the order is drawn. split: of
    the documents whose content falls into the share `held_out`, those ("held-out") or the others ("train").
    """

    shuffle: int | None = None
    window: int = WINDOW
    split: str | None = None
    held_out: float = 0.05

    def __post_init__(self) -> None:
        whole = {"shuffle": self.shuffle, "window": self.window}
        for name, value in whole.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise CorpusError(f"{name} is a number", received=f"{name}={value!r}", allowed="0, 1, 2 ...")
        if self.window < 1:
            raise CorpusError("no documents to shuffle", received=f"window={self.window}", allowed="1 or more")
        if self.split not in (None, *SIDES):
            raise CorpusError("no such side of a split", received=repr(self.split), allowed=", ".join(SIDES))
        if isinstance(self.held_out, bool) or not 0 < self.held_out < 1:
            raise CorpusError(
                "held_out is a share of the documents", received=repr(self.held_out), allowed="over 0, under 1"
            )

    def takes(self, content: int) -> bool:
        """Whether a document of this content is on the side that is read."""
        return self.split is None or (share(content) < self.held_out) == (self.split == "held-out")

    def pieces(self, pieces: Sequence[Piece]) -> list[Piece]:
        ordered = [*pieces]
        if self.shuffle is not None:
            random.Random(f"pieces {self.shuffle}").shuffle(ordered)
        return ordered

    def chance(self, block: int, what: str = "rows") -> random.Random | None:
        """What draws the order of what is in a block; None where nothing is shuffled."""
        return None if self.shuffle is None else random.Random(f"{what} {block} {self.shuffle}")


@dataclass(frozen=True)
class Place:
    """Before a block of documents: which piece and document of it is next, how many went by in all, and what is carried over."""

    piece: int = 0
    document: int = 0
    number: int = 0
    block: int = 0
    gone: int = 0
    unread: int = 0
    carry: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Block:
    """Documents that are shuffled together, each with its number in the order of reading, and the place behind them."""

    number: int
    documents: list[tuple[int, Any]]
    after: Place


def blocks(
    pieces: Sequence[Piece], order: Order, read: Callable[[Piece, int], Iterator[T]], place: Place, tell: Tell
) -> Iterator[Block]:
    """A corpus in blocks of `window` documents (of one, where nothing is shuffled), from a place on."""
    most = 1 if order.shuffle is None else order.window
    taken: list[tuple[int, T]] = []
    at = place
    for index in range(place.piece, len(pieces)):
        first = at.document if index == at.piece else 0
        at = replace(at, piece=index, document=first)
        for document in read(pieces[index], first):
            tell()
            number = at.number
            at = replace(at, document=at.document + 1, number=number + 1)
            if not order.takes(document.content):
                continue
            taken.append((number, document))
            if len(taken) == most:
                yield _shuffled(taken, order, at)
                taken, at = [], replace(at, block=at.block + 1)
    if taken:
        yield _shuffled(taken, order, at)


def _shuffled(taken: list[tuple[int, T]], order: Order, at: Place) -> Block:
    chance = order.chance(at.block, "documents")
    if chance is not None:
        chance.shuffle(taken)
    return Block(at.block, taken, replace(at, block=at.block + 1))
