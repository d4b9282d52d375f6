"""The mean of a site at each position: what mean ablation puts in a value's place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics.base import Partial, added
from residscope.corpus.vectors import one_vector
from residscope.directions import place
from residscope.engine.model import Model
from residscope.errors import BadArguments, EmptyCorpus
from residscope.reports import Record


@dataclass(frozen=True, eq=False)
class PositionMeans(Record):
    """The mean at each position (NaN where no token was), and of how many tokens. Position 0 is that of the first tokens."""

    kind: ClassVar[str] = "position_means"
    place: str
    mean: Float[Tensor, "pos d"]
    counts: Int[Tensor, " pos"]

    @property
    def overall(self) -> Float[Tensor, " d"]:
        """The mean over all tokens but the first of each row."""
        if not int(self.counts[1:].sum()):
            raise EmptyCorpus("every row has its first token alone", fix="give longer texts")
        weights = (self.counts[1:] / self.counts[1:].sum())[:, None]
        return (self.mean[1:].nan_to_num() * weights).sum(0)


@dataclass(frozen=True, eq=False)
class MeansByPosition:
    """`PositionMeans` of a site over rows of up to `length` tokens; as `edits.ablate(..., to="mean", by="position")` has them."""

    site: str
    head: int | None = None
    length: int = 128

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadArguments("no positions", received=f"length={self.length}", allowed="1 or more")

    @property
    def name(self) -> str:
        return f"means by position of {place(self.site, self.head)}"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    @property
    def told(self) -> Mapping[str, Any]:
        return {"kind": "positions", "site": self.site, "head": self.head, "length": self.length}

    def check(self, model: Model) -> None:
        one_vector(model, self.site, self.head)

    def start(self, model: Model) -> Partial:
        width = model.sites.width(model.sites.parse(self.site))
        return {
            "total": torch.zeros(self.length, width, dtype=torch.float64),
            "counts": torch.zeros(self.length, dtype=torch.int64),
        }

    def add(self, partial: Partial, chunk: Chunk) -> None:
        x, use = chunk.at(self.site, self.head)[:, : self.length], chunk.keep(self.site)[:, : self.length].clone()
        use[:, 0] = True  # a mean by position has the first tokens' own at position 0
        read = x.shape[1]
        partial["counts"][:read] += use.sum(0).cpu()
        partial["total"][:read] += torch.where(use[..., None].to(x.device), x, 0).sum(0, dtype=torch.float64).cpu()

    def merge(self, first: Partial, second: Partial) -> Partial:
        return added(first, second)

    def finish(self, partial: Partial, model: Model) -> PositionMeans:
        counts = partial["counts"]
        mean = torch.where(counts[:, None] > 0, partial["total"] / counts[:, None].clamp_min(1), torch.nan)
        return PositionMeans(place(self.site, self.head), mean.float(), counts)
