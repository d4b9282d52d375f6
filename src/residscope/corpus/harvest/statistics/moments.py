"""Mean and covariance of a site's vectors, the products in the model's own precision, the sums in float64."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics.base import Partial
from residscope.corpus.moments import Moments
from residscope.corpus.vectors import one_vector
from residscope.directions import place
from residscope.engine.model import Model
from residscope.reports import Record

BLOCK = 2048  # vectors of one product
STRIPS = 4


@dataclass(frozen=True, eq=False)
class SiteMoments(Record):
    """Count, mean and scatter (sum of (x - mean) (x - mean)^T) of a site's vectors, in float64."""

    kind: ClassVar[str] = "moments"
    place: str
    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "d d"]

    @property
    def moments(self) -> Moments:
        return Moments(self.count, self.mean.clone(), self.scatter.clone())

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        return self.moments.covariance


@dataclass(frozen=True, eq=False)
class MomentsOf:
    """`SiteMoments`: what PCA, SVD and mean differences are found from.

        total = sum of (x - s)          squares = sum of (x - s) (x - s)^T          s: a shift near the mean
        mean = s + total / n            scatter = squares - total total^T / n

    s is the first block's mean, in float32, so that x - s is as exact as x. Products of up to 2,048 vectors are summed in
    float32 (in float64 for a float64 model), and these in float64: an entry of the covariance is wrong by at most 2048 * 2^-24
    of the root mean squares of both its axes about s, and by a thousandth of that as rounding goes. Chan et al. (1983).
    """

    site: str
    head: int | None = None

    @property
    def name(self) -> str:
        return f"moments of {place(self.site, self.head)}"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    @property
    def told(self) -> Mapping[str, Any]:
        return {"kind": "moments", "site": self.site, "head": self.head}

    def check(self, model: Model) -> None:
        one_vector(model, self.site, self.head)

    def start(self, model: Model) -> Partial:
        width = model.sites.width(model.sites.parse(self.site))
        at: dict[str, Any] = {"dtype": torch.float64, "device": model.device}
        return {
            "count": torch.zeros((), dtype=torch.int64),
            "shift": torch.zeros(width, **at),
            "total": torch.zeros(width, **at),
            "squares": torch.zeros(width, width, **at),
        }

    def add(self, partial: Partial, chunk: Chunk) -> None:
        add_block(partial, chunk.vectors(self.site, self.head))

    def merge(self, first: Partial, second: Partial) -> Partial:
        return merged(first, second)

    def finish(self, partial: Partial, model: Model) -> SiteMoments:
        count, mean, scatter = centred(partial)
        return SiteMoments(place(self.site, self.head), count, mean, scatter)


def add_block(partial: Partial, x: Float[Tensor, "n d"]) -> None:
    """Vectors into a partial, in place."""
    for block in torch.split(x, BLOCK):
        if not len(block):
            continue
        wide = block if block.dtype == torch.float64 else block.float()
        if not partial["count"]:
            partial["shift"].copy_(wide.mean(0))
        apart = wide - partial["shift"].to(wide.dtype)
        partial["count"] += len(block)
        partial["total"] += apart.sum(0, dtype=torch.float64)
        partial["squares"] += gram(apart)


def gram(x: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """x^T x, of which only the upper strips are multiplied out: five eighths of the work."""
    width = x.shape[1]
    product = x.new_empty(width, width)
    strip = max(64, -(-width // STRIPS))
    for first in range(0, width, strip):
        last = min(first + strip, width)
        upper = x[:, first:last].T @ x[:, first:]
        product[first:last, first:] = upper
        product[last:, first:last] = upper[:, last - first :].T
    return product


def centred(partial: Partial) -> tuple[int, Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Count, mean and the scatter about it."""
    count, total = int(partial["count"]), partial["total"]
    share = total / max(count, 1)
    return count, partial["shift"] + share, partial["squares"] - torch.outer(total, share)


def merged(first: Partial, second: Partial) -> Partial:
    """Both together, about the first's shift, which float32 has exactly."""
    if not first["count"] or not second["count"]:
        return {name: x.clone() for name, x in (second if not first["count"] else first).items()}
    step = second["shift"] - first["shift"]
    n, total = second["count"].to(step.device), second["total"]
    crossed = torch.outer(total, step)
    return {
        "count": first["count"] + second["count"],
        "shift": first["shift"].clone(),
        "total": first["total"] + total + n * step,
        "squares": first["squares"] + second["squares"] + crossed + crossed.T + n * torch.outer(step, step),
    }
