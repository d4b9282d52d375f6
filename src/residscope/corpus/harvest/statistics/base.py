"""What a statistic is, and what it reads: the vectors of a site, or their coordinates in a dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.vectors import one_vector
from residscope.directions import Dictionary, place
from residscope.edits.features import joined as end_to_end
from residscope.engine.model import Model
from residscope.errors import WrongWidth

Partial = dict[str, Tensor]
"""What a statistic has seen so far, as plain tensors: so that it is a safetensors file, and travels."""

POSITIONS = 1 << 24  # more than a row has


@runtime_checkable
class Statistic(Protocol):
    """What can be gathered from a text in any number of pieces.

        finish(merge(merge(p1, p2), p3))        p = start(), then add(p, chunk) for each chunk of a shard

    `add` changes its partial in place. `merge` is associative, exactly, or to rounding where it adds floats: partials that are
    merged in the order of the text give the same bits, whoever made them. name: what its result is called. told: plain facts that
    say which statistic it is, for a checkpoint.
    """

    @property
    def name(self) -> str: ...

    @property
    def sites(self) -> tuple[str, ...]: ...

    @property
    def told(self) -> Mapping[str, Any]: ...

    def check(self, model: Model) -> None:
        """Refuse what this model does not have. Raises SiteError, DirectionError."""

    def start(self, model: Model) -> Partial: ...

    def add(self, partial: Partial, chunk: Chunk) -> None: ...

    def merge(self, first: Partial, second: Partial) -> Partial: ...

    def finish(self, partial: Partial, model: Model) -> Any:
        """Raises CorpusError where the text gave too little."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What is read at each token: a number a column.

    Of a site its dimensions (of mlp_post, the neurons), of one head where it has heads; of a dictionary its coordinates; or those
    of `indices` alone.
    """

    site: str
    head: int | None = None
    dictionary: Dictionary | None = None
    indices: tuple[int, ...] | None = None

    @classmethod
    def of(cls, what: "str | Dictionary | Columns", head: int | None = None) -> "Columns":
        if isinstance(what, Dictionary):
            return cls(what.site, what.head, what)
        return what if isinstance(what, Columns) else cls(str(what), head)

    @property
    def label(self) -> str:
        where = place(self.site, self.head)
        return where if self.dictionary is None else f"{self.dictionary.name} of {where}"

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = {"site": self.site, "head": self.head}
        if self.dictionary is not None:
            told["dictionary"] = self.dictionary.hash
        if self.indices is not None:
            told["indices"] = list(self.indices)
        return told

    def check(self, model: Model) -> None:
        """Raises SiteError for what has no vector a token, WrongWidth for a dictionary of another width, DirectionError."""
        width = self._width(model)
        if self.dictionary is not None:
            if self.dictionary.read.shape[1] != width:
                raise WrongWidth(
                    f"{self.dictionary.name} reads another width than {self.site} has",
                    received=f"{self.dictionary.read.shape[1]}",
                    allowed=f"{width}",
                )
            self.dictionary.check_index(*(self.indices or ()))

    def _width(self, model: Model) -> int:
        """Of what is read: of a dictionary over heads that of all their vectors end to end."""
        if self.dictionary is None or not self.dictionary.flat:
            return model.sites.width(one_vector(model, self.site, self.head))
        heads = model.sites.parse(self.site)
        return model.sites.width(heads) * (model.sites.size(heads, heads.kind.axes[-2]) or 1)

    def count(self, model: Model) -> int:
        if self.indices is not None:
            return len(self.indices)
        where = model.sites.parse(self.site)
        return model.sites.width(where) if self.dictionary is None else len(self.dictionary)

    def number(self, column: int) -> int:
        """Which dimension or direction a column is."""
        return column if self.indices is None else self.indices[column]

    def whole(self, chunk: Chunk) -> Float[Tensor, "row pos column"]:
        """The numbers at every token, in float32."""

        def read() -> Tensor:
            x = chunk.at(self.site, self.head)
            if self.dictionary is not None:
                x = end_to_end(self.dictionary, x)
                return self.dictionary.encode(x, model=chunk.record.model, indices=self.indices).float()
            return (x if self.indices is None else x[..., list(self.indices)]).float()

        return chunk.once(("whole", *self._key), read)

    def kept(self, chunk: Chunk) -> Float[Tensor, "n column"]:
        """The numbers at the tokens that are kept, in the order of the text, in float32."""

        def picked() -> Tensor:
            x = self.whole(chunk)
            return x[self.keep(chunk).to(x.device)]

        return chunk.once(("kept", *self._key), picked)

    def keep(self, chunk: Chunk) -> Bool[Tensor, "row pos"]:
        return chunk.keep(self.site)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.site, self.head, None if self.dictionary is None else self.dictionary.hash, self.indices


@dataclass(frozen=True, eq=False)
class OfColumns:
    """What statistics of columns share. of: a site, or a dictionary; head: whose, at a site with heads."""

    kind: ClassVar[str]
    called: ClassVar[str]
    of: str | Dictionary | Columns
    head: int | None = None

    @cached_property
    def columns(self) -> Columns:
        return Columns.of(self.of, self.head)

    @property
    def name(self) -> str:
        return f"{self.called} of {self.columns.label}"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.columns.site,)

    @property
    def told(self) -> Mapping[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("of", "head")}
        return {"kind": self.kind, **self.columns.told, **own}

    def check(self, model: Model) -> None:
        self.columns.check(model)


def numbers(chunk: Chunk, keep: Bool[Tensor, "row pos"]) -> Int[Tensor, " n"]:
    """One number for each token kept, rising along the text: its row's number and its position."""
    row, pos = keep.nonzero(as_tuple=True)
    return ((row + chunk.first) * POSITIONS + pos).cpu()


def row_and_pos(number: Int[Tensor, "..."]) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."]]:
    return number // POSITIONS, number % POSITIONS


def added(first: Partial, second: Partial) -> Partial:
    """Two partials whose tensors are all sums."""
    return {name: first[name] + second[name] for name in first}


def joined(first: Partial, second: Partial) -> Partial:
    """Two partials whose tensors are all lists, one after the other."""
    return {name: torch.cat([first[name], second[name]]) for name in first}
