"""Quantiles and histograms of every column of a site or a dictionary: exact while they fit, else within a bin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics.base import OfColumns, Partial
from residscope.corpus.harvest.statistics.bins import LEAST, coarsened, counted, edges, exponents, indices
from residscope.engine.model import Model
from residscope.errors import BadArguments, EmptyCorpus
from residscope.reports import Record

EXACT = 8192  # tokens whose values are kept as they are
BINS = 512  # on either side of zero


@dataclass(frozen=True, eq=False)
class Distribution(Record):
    """How the numbers of each column are spread over a text.

    values: all of them, where there were few (then quantiles are exact), else none. counts: in 2 B bins of the width
    2^exponent / B about zero. low, high: the least and the greatest.
    """

    kind: ClassVar[str] = "distribution"
    place: str
    count: int
    values: Float[Tensor, "token column"]
    exponent: Int[Tensor, " column"]
    counts: Int[Tensor, "column bin"]
    low: Float[Tensor, " column"]
    high: Float[Tensor, " column"]

    @property
    def exact(self) -> bool:
        return len(self.values) == self.count

    @property
    def bins(self) -> int:
        return self.counts.shape[1] // 2

    @property
    def bound(self) -> Float[Tensor, " column"]:
        """By how much a quantile may be wrong: 0, or the width of a bin, at most 1 / B times twice the largest |x|."""
        width = torch.ldexp(torch.ones(len(self.exponent), dtype=torch.float64), self.exponent) / self.bins
        return torch.zeros_like(width) if self.exact else width

    def quantile(self, q: float | Sequence[float]) -> Float[Tensor, "... column"]:
        """The q-quantile of each column, as numpy has it: between the values of rank floor and ceil of q (n - 1), linearly.

        Raises BadArguments for a share outside 0 to 1.
        """
        shares = torch.as_tensor(q, dtype=torch.float64)
        if not bool(((shares >= 0) & (shares <= 1)).all()):
            raise BadArguments("no such quantile", received=str(q), allowed="0 to 1")
        at = shares.reshape(-1) * (self.count - 1)
        low, high = self._ranked(at.floor().long()), self._ranked(at.ceil().long())
        found = low + (high - low) * (at - at.floor())[:, None]
        return found.reshape(*shares.shape, -1)

    def _ranked(self, rank: Int[Tensor, " q"]) -> Float[Tensor, "q column"]:
        """The value of each rank, 0 for the least: its own, or where it would be if a bin's were evenly spread."""
        if self.exact:
            return self.values.double().sort(0).values[rank]
        before = self.counts.cumsum(1)
        wanted = rank[None].expand(len(before), -1).contiguous()
        bin = torch.searchsorted(before, wanted, right=True)
        inside = self.counts.gather(1, bin)
        place = (wanted - (before.gather(1, bin) - inside) + 0.5) / inside
        lower = edges(self.exponent, self.bins).gather(1, bin)
        found = torch.clamp((lower + place * self.bound[:, None]).T, self.low.double(), self.high.double())
        found = torch.where((rank == 0)[:, None], self.low.double(), found)
        return torch.where((rank == self.count - 1)[:, None], self.high.double(), found)

    def histogram(self, column: int) -> tuple[Float[Tensor, " edge"], Int[Tensor, " bin"]]:
        """The ends of the bins, and how many values each holds; exact."""
        return edges(self.exponent, self.bins)[column], self.counts[column]


@dataclass(frozen=True, eq=False)
class Quantiles(OfColumns):
    """A `Distribution` of each column of a site, a head or a dictionary.

    bins: a power of two, on either side of zero. exact: while so few tokens have been seen, their values are kept too.
    """

    kind = "quantiles"
    called = "quantiles"
    bins: int = BINS
    exact: int = EXACT

    def __post_init__(self) -> None:
        if self.bins < 1 or self.bins & (self.bins - 1):
            raise BadArguments("bins are halved", received=f"bins={self.bins}", allowed="a power of two")

    def start(self, model: Model) -> Partial:
        n = self.columns.count(model)
        return {
            "count": torch.zeros((), dtype=torch.int64),
            "values": torch.empty(0, n),
            "exponent": torch.full((n,), LEAST, dtype=torch.int32),
            "counts": torch.zeros(n, 2 * self.bins, dtype=torch.int64),
            "low": torch.full((n,), torch.inf),
            "high": torch.full((n,), -torch.inf),
        }

    def add(self, partial: Partial, chunk: Chunk) -> None:
        x = self.columns.kept(chunk)
        if not len(x):
            return
        exponent = exponents(x).cpu()
        counts = counted(indices(x, exponent, self.bins), self.bins)
        seen = {
            "count": torch.tensor(len(x)), "values": x.cpu(), "exponent": exponent, "counts": counts,
            "low": x.amin(0).cpu(), "high": x.amax(0).cpu(),
        }  # fmt: skip
        partial.update(self.merge(partial, seen))

    def merge(self, first: Partial, second: Partial) -> Partial:
        count = first["count"] + second["count"]
        exponent = torch.maximum(first["exponent"], second["exponent"])
        counts = sum(coarsened(part["counts"], exponent - part["exponent"]) for part in (first, second))
        fits = int(count) <= self.exact
        values = torch.cat([first["values"], second["values"]]) if fits else first["values"][:0]
        return {
            "count": count, "values": values, "exponent": exponent, "counts": torch.as_tensor(counts),
            "low": torch.minimum(first["low"], second["low"]), "high": torch.maximum(first["high"], second["high"]),
        }  # fmt: skip

    def finish(self, partial: Partial, model: Model) -> Distribution:
        require_tokens(partial["count"], self.columns.label)
        parts = {name: x for name, x in partial.items() if name != "count"}
        return Distribution(self.columns.label, int(partial["count"]), **parts)


def require_tokens(count: Tensor | int, where: str) -> None:
    """Raises EmptyCorpus where no token was kept."""
    if not int(count):
        raise EmptyCorpus(
            f"every token of the text is left out at {where}", received="0 tokens", fix="give longer texts"
        )
