"""How often features fire, alone and together."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics.base import OfColumns, Partial, added
from residscope.corpus.harvest.statistics.quantiles import require_tokens
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.reports import Record

MOST = 8192  # columns whose pairs are counted: 512 MiB


@dataclass(frozen=True, eq=False)
class FiringCounts(Record):
    """At how many of `count` tokens each column was above `above`, and the sum and the sum of squares of its values there."""

    kind: ClassVar[str] = "firing"
    place: str
    count: int
    above: float
    fired: Int[Tensor, " column"]
    total: Float[Tensor, " column"]
    squares: Float[Tensor, " column"]

    @property
    def density(self) -> Float[Tensor, " column"]:
        """The share of tokens at which it fires."""
        return self.fired.double() / self.count

    @property
    def mean_active(self) -> Float[Tensor, " column"]:
        """The mean value where it fires; NaN where it never does."""
        return self.total / self.fired


@dataclass(frozen=True, eq=False)
class CoFiring(Record):
    """together[i, j]: at how many of `count` tokens both columns were above `above`; on the diagonal, one alone."""

    kind: ClassVar[str] = "co_firing"
    place: str
    count: int
    above: float
    together: Int[Tensor, "column column"]

    @property
    def given(self) -> Float[Tensor, "column column"]:
        """given[i, j] = P(j fires | i fires); NaN where i never does."""
        return self.together.double() / self.together.diagonal()[:, None]

    @property
    def lift(self) -> Float[Tensor, "column column"]:
        """P(i and j) / (P(i) P(j)): 1 where they fire independently; NaN where one never fires."""
        own = self.together.diagonal().double()
        return self.together.double() * self.count / torch.outer(own, own)


@dataclass(frozen=True, eq=False)
class Firing(OfColumns):
    """`FiringCounts` of every column of a site, a head or a dictionary."""

    kind = "firing"
    called = "firing"
    above: float = 0.0

    def start(self, model: Model) -> Partial:
        n = self.columns.count(model)
        zero = torch.zeros(n, dtype=torch.float64)
        whole = {"count": torch.zeros((), dtype=torch.int64), "fired": torch.zeros(n, dtype=torch.int64)}
        return {**whole, "total": zero, "squares": zero.clone()}

    def add(self, partial: Partial, chunk: Chunk) -> None:
        x = self.columns.kept(chunk)
        on = x > self.above
        active = torch.where(on, x, 0)
        partial["count"] += len(x)
        partial["fired"] += on.sum(0).cpu()
        partial["total"] += active.sum(0, dtype=torch.float64).cpu()
        partial["squares"] += (active * active).sum(0, dtype=torch.float64).cpu()

    def merge(self, first: Partial, second: Partial) -> Partial:
        return added(first, second)

    def finish(self, partial: Partial, model: Model) -> FiringCounts:
        require_tokens(partial["count"], self.columns.label)
        parts = {name: x for name, x in partial.items() if name != "count"}
        return FiringCounts(self.columns.label, int(partial["count"]), self.above, **parts)


@dataclass(frozen=True, eq=False)
class Together(OfColumns):
    """`CoFiring` of the columns of a site, a head or a dictionary, 8,192 of them at most."""

    kind = "together"
    called = "firing together"
    above: float = 0.0

    def check(self, model: Model) -> None:
        self.columns.check(model)
        if (n := self.columns.count(model)) > MOST:
            raise BadArguments(
                "too many columns to count every pair", received=f"{n:,} columns", allowed=f"{MOST:,} or fewer",
                fix="Together(Columns(site, dictionary=d, indices=(...)))",
            )  # fmt: skip

    def start(self, model: Model) -> Partial:
        n = self.columns.count(model)
        return {"count": torch.zeros((), dtype=torch.int64), "together": torch.zeros(n, n, dtype=torch.int64)}

    def add(self, partial: Partial, chunk: Chunk) -> None:
        on = (self.columns.kept(chunk) > self.above).float()
        partial["count"] += len(on)
        partial["together"] += (on.T @ on).long().cpu()  # whole numbers below 2^24: exact

    def merge(self, first: Partial, second: Partial) -> Partial:
        return added(first, second)

    def finish(self, partial: Partial, model: Model) -> CoFiring:
        require_tokens(partial["count"], self.columns.label)
        return CoFiring(self.columns.label, int(partial["count"]), self.above, partial["together"])
