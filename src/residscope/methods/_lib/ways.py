"""Integrals of a metric's gradient along a straight way between two values of a site."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.memory import budget
from residscope.engine.model import Model
from residscope.engine.protocols import At, Edit, LogitReadout, Readout
from residscope.engine.recording import Recording
from residscope.engine.slopes import graphed
from residscope.errors import NoGradient
from residscope.model.sites import Site, SiteTable, rank
from residscope.progress import Tell

MOST_AT_ONCE = 32  # points that run together


@dataclass(frozen=True, eq=False)
class _Put(Edit):
    """What stands at a site, row by row."""

    site: Site
    value: Tensor

    def places(self, table: SiteTable) -> list[Site]:
        return [self.site]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return self.value.clone()


@dataclass(frozen=True, eq=False)
class Panel:
    """A piece of the way, from share a to b: the metric at its ends, and the mean gradient over it by quadrature."""

    a: float
    b: float
    ends: tuple[float, float]
    slope: Float[Tensor, "pos ..."]

    def sum(self, change: Float[Tensor, "pos ..."]) -> float:
        """What the metric changes by over the piece, by the gradient."""
        return (self.b - self.a) * float((self.slope * change).sum())

    def off(self, change: Float[Tensor, "pos ..."]) -> float:
        """How far that is from what it does change by."""
        return abs(self.sum(change) - (self.ends[1] - self.ends[0]))


class Way:
    """The metric along start + t (end - start) at a site, in a run of one prompt that is recorded.

    record: holds the stream in front of the site's block, and `end` is what it has at the site.
    """

    def __init__(self, record: Recording, metric: Readout, site: Site, start: Tensor) -> None:
        self.record, self.metric, self.site = record, metric, site
        self.end, self.start = record[site][0], start
        self.change = (self.end - start).double()
        self.points = 0
        self._read = _read(record.model, metric, record.edits)

    def integrate(self, steps: int, most: int, enough: float, tell: Tell) -> list[Panel]:
        """The way in pieces, each by Gauss and Legendre's rule with so many points.

        Those that are further off than their part of what is allowed are halved, the furthest first, until all together are
        off by no more, or `most` points have been run.
        """
        nodes, weights = _legendre(steps)
        first, *inner, last = self._at([0.0, *nodes, 1.0], tell)
        panels = [Panel(0.0, 1.0, (first[0], last[0]), _mean([slope for _, slope in inner], weights))]
        while self.off(panels) > (allowed := self.allowed(panels, enough)):
            left = (most - self.points) // (2 * steps + 1)
            if not left:
                break
            order = sorted(panels, key=lambda p: p.off(self.change), reverse=True)
            some = [p for p in order if p.off(self.change) > allowed / (2 * len(panels))][:left]
            panels = [p for p in panels if not any(p is one for one in some)] + self._halves(some, nodes, weights, tell)
        return panels

    def off(self, panels: list[Panel]) -> float:
        """How far off the pieces are in all: no less than the sum is."""
        return sum(p.off(self.change) for p in panels)

    def allowed(self, panels: list[Panel], enough: float) -> float:
        """How far off the sum may be: a share of the change, or a hundredth of what its positions have in all; and rounding."""
        ends = [end for p in panels for end in p.ends]
        parts = float((self.change * self.slope(panels)).flatten(1).sum(1).abs().sum())
        rounding = 32 * torch.finfo(self.record.model.dtype).eps * max(1.0, *map(abs, ends))
        return enough * max(abs(self.changed(panels)), parts / 100) + rounding

    def changed(self, panels: list[Panel]) -> float:
        """What the metric changes by from the start to the end."""
        return sum(p.ends[1] - p.ends[0] for p in panels)

    def slope(self, panels: list[Panel]) -> Float[Tensor, "pos ..."]:
        """The mean gradient over the whole way."""
        return torch.stack([(p.b - p.a) * p.slope for p in panels]).sum(0)

    def _halves(
        self, panels: list[Panel], nodes: list[float], weights: Float[Tensor, " step"], tell: Tell
    ) -> list[Panel]:
        n = len(nodes)
        middles = [(p.a + p.b) / 2 for p in panels]
        sides = [side for p, middle in zip(panels, middles, strict=True) for side in ((p.a, middle), (middle, p.b))]
        found = self._at([*middles, *(a + (b - a) * t for a, b in sides for t in nodes)], tell)
        between = [number for number, _ in found[: len(panels)]]
        ends = [e for p, m in zip(panels, between, strict=True) for e in ((p.ends[0], m), (m, p.ends[1]))]
        slopes = [slope for _, slope in found[len(panels) :]]
        return [Panel(*side, ends[i], _mean(slopes[i * n : (i + 1) * n], weights)) for i, side in enumerate(sides)]

    def _at(self, shares: list[float], tell: Tell) -> list[tuple[float, Float[Tensor, "pos ..."]]]:
        """The metric and its gradient at some points of the way."""
        self.points += len(shares)
        size = _at_once(self.record)
        found = []
        for first in range(0, len(shares), size):
            tell()
            found += self._run(shares[first : first + size])
        return found

    def _run(self, shares: list[float]) -> list[tuple[float, Float[Tensor, "pos ..."]]]:
        t = torch.tensor(shares, dtype=torch.float64).to(self.end.device).reshape(-1, *[1] * self.end.ndim)
        value = (self.start.double() + t * self.change).to(self.end.dtype).requires_grad_()
        rows, n = _repeated(self.record, len(shares)), self.record.model.n_layers
        block = 0 if self.site.layer is None else self.site.layer
        if min(rank(site, n) for site in self._read) < block:
            block = 0
        values = graphed(rows, self._read, [_Put(self.site, value)], start=block)
        with torch.enable_grad():
            number = self.metric(
                Recording(
                    rows.model, rows.batch, values, edits=rows.edits, unedited=rows.unedited, weights=rows.version
                )
            )
        if number.ndim != 1 or not number.requires_grad:
            raise NoGradient(
                f"the metric has no gradient at {self.site}", received=type(self.metric).__name__,
                allowed="a metric of one number a prompt that depends on the run smoothly",
            )  # fmt: skip
        (slope,) = torch.autograd.grad(number.sum(), [value], allow_unused=True)
        slopes = torch.zeros_like(value) if slope is None else slope
        return list(zip(number.detach().double().tolist(), slopes.double(), strict=True))


def _legendre(steps: int) -> tuple[list[float], Float[Tensor, " step"]]:
    """Points and weights on 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), torch.tensor(weights / 2)


def _mean(slopes: list[Tensor], weights: Float[Tensor, " step"]) -> Tensor:
    return torch.einsum("s...,s->...", torch.stack(slopes), weights.to(slopes[0].device))


def _read(model: Model, metric: Readout, edits: tuple[Edit, ...]) -> set[Site]:
    """What is to be seen for the metric: of the logits at one position, what they are made from."""
    table = model.sites
    changed = any(Site("logits") in edit.places(table) for edit in edits)
    names = ["final_norm"] if isinstance(metric, LogitReadout) and not changed else metric.sites
    return {table.canonical(site) for name in names for site in table.expand(name)}


def _repeated(record: Recording, n: int) -> Recording:
    """A run of one prompt as one of so many rows."""
    held = {site: value.expand(n, *value.shape[1:]) for site, value in record.held.items()}
    kept = {site: value.expand(n, *value.shape[1:]) for site, value in record.unedited.items()}
    return Recording(
        record.model, record.batch.take([0] * n), held, edits=record.edits, unedited=kept, weights=record.version
    )


def _at_once(record: Recording) -> int:
    """How many rows' graphs fit into half of what memory is to be had."""
    sizes, length = record.model.layout.sizes, record.batch.ids.shape[1]
    token = 12 * sizes.d_model + 4 * sizes.d_mlp + 3 * sizes.n_heads * length
    each = record.model.dtype.itemsize * (sizes.n_layers * token + 3 * sizes.d_vocab) * length
    return max(1, min(MOST_AT_ONCE, budget(record.model.device) // 2 // each))
