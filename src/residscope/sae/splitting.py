"""Splitting and absorption: what becomes of a smaller dictionary's features in a larger one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.directions import Dictionary
from residscope.errors import WrongWidth
from residscope.reports import Report
from residscope.views import Grid, Histogram, Table

ALIKE = 0.7  # cosine of write vectors from which on one feature counts as a child of another
SHOWN = 50


@dataclass(frozen=True, eq=False, repr=False)
class Splitting(Report):
    """Children of each feature of a smaller dictionary among a larger one's: those whose write vectors' cosine is over `alike`.

    children: how many each has. best: its greatest cosine. A feature with two or more is split, one with none is gone, or has
    been taken up into others.
    """

    kind: ClassVar[str] = "report:sae_splitting"
    smaller: str
    larger: str
    children: Float[Tensor, " n"]
    best: Float[Tensor, " n"]
    alike: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> float:
        """The share of the smaller one's features that are split."""
        return float((self.children >= 2).float().mean())

    @property
    def gone(self) -> float:
        return float((self.children == 0).float().mean())

    def view(self) -> Grid:
        most = self.children.argsort(descending=True, stable=True)[:SHOWN].tolist()
        rows = [[i, int(self.children[i]), float(self.best[i])] for i in most]
        note = f"{self.split:.1%} are split, {self.gone:.1%} have none, at a cosine over {self.alike:g}"
        table = Table(["feature", "children", "greatest cosine"], rows, title="Most children", note=note)
        histogram = Histogram({"features": self.best}, title="Greatest cosine in the larger one", x_title="cosine")
        return Grid([table, histogram], columns=2, title=f"{self.smaller} in {self.larger}")

    def __repr__(self) -> str:
        return f"Splitting({len(self.children)} features: {self.split:.1%} split, {self.gone:.1%} without a child)"


def split_features(smaller: Dictionary, larger: Dictionary, *, alike: float = ALIKE) -> Splitting:
    """Which features of a smaller dictionary are several in a larger one of the same place, by the cosine of write vectors.

        children_i = #{ j : cos(write_i, write'_j) > alike }

    That two features write alike does not say that the one's tokens are parted among the others: look at their examples.

    Raises WrongWidth: they write at places of another width.
    """
    a, b = (torch.nn.functional.normalize(one.write.float(), dim=1) for one in (smaller, larger))
    if a.shape[1] != b.shape[1]:
        raise WrongWidth("these write at places of different width", received=f"{a.shape[1]} and {b.shape[1]}")
    counts, best = [], []
    for some in torch.split(a, 1024):
        cosines = some @ b.T
        counts.append((cosines > alike).sum(1).float())
        best.append(cosines.amax(1))
    names = (f"{smaller.name} of {len(smaller)}", f"{larger.name} of {len(larger)}")
    about = {"method": "sae-splitting", "smaller": smaller.hash, "larger": larger.hash, "alike": alike}
    return Splitting(*names, torch.cat(counts).cpu(), torch.cat(best).cpu(), alike, about)


def absorbed(
    parent: Float[Tensor, " token"],
    others: Float[Tensor, "token n"],
    label: Bool[Tensor, " token"],
    along: Float[Tensor, " n"],
) -> float:
    """The share of a label's tokens at which its own feature is silent and another gives the label's direction instead.

        absorbed = #{ label, parent = 0, max_j a_j along_j > sum_j a_j along_j / 2 > 0 } / # label

    parent: the activation of the feature that stands for the label. others: all other activations; along: what one unit of each
    adds along the label's direction, write_j . v. After Chanin et al. (2024), arXiv:2409.14507, whose measure for first letters
    this is but for the threshold on the cosine: at a token counted here one feature gives over half of what all give. NaN
    without a label.

    >>> label = torch.tensor([True, True, True, False])
    >>> absorbed(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([[0.0, 0.0], [3.0, 0.1], [0.0, 0.0], [3.0, 0.0]]), label,
    ...          torch.tensor([1.0, 1.0]))
    0.3333...
    """
    given = others * along
    total = given.sum(1)
    one = given.amax(1) > total / 2
    counted = label & (parent <= 0) & one & (total > 0)
    return float(counted.sum() / label.sum()) if bool(label.any()) else float("nan")
