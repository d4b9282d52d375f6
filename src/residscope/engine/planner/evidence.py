"""Cheap evidence of how large each cell's effect may be: runs in bfloat16, first-order estimates, the cells beside it.

A cell whose effect is estimated has evidence of its own: a cheap run of it, or its first-order estimate. What stands on both
sides of it in a chain gives the estimate its value and is further evidence, but never the only one.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.planner.first_order import first_order
from residscope.engine.planner.sweep import Sweep
from residscope.engine.protocols import LogitReadout
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress

# Evidence is taken for an effect 1 / slack times as large. Measured on SmolLM2: `python -m bench screening`.
_RUN = 0.7  # a run in bfloat16
_BESIDE = {"bfloat16": 0.5, "neighbours": 0.7}  # the larger of the two cells that one stands between
_SECOND = 1.0  # the first-order estimate, where either of these goes with it
_FIRST_ORDER = 0.2  # the first-order estimate as the only evidence
_ONE_END = 0.5  # times the slack of first-order estimates, where there is no donor's end
_STRIDES = {"bfloat16": 3, "neighbours": 4}


@dataclass(frozen=True)
class Ask:
    """What is to be estimated: the cells that change something (`active`), and the chains along which effects change little.

    donor: prompts whose values the cells take, token for token: gradients are then taken at that end too.
    """

    plan: Sweep
    base: Float[Tensor, "prompt"]
    active: Bool[Tensor, "cell"]
    chains: Sequence[Sequence[int]]
    donor: Batch | None
    progress: Progress
    cancel: Cancel


@dataclass(frozen=True)
class CellEvidence:
    """Of each cell and prompt: the estimated effect, and how large the evidence says it may be (infinite where there is none).

    between: cells whose estimate is on a line between two others. exact: cells that were run exactly on the way. basis: in words.
    """

    effect: Float[Tensor, "cell prompt"]
    largest: Float[Tensor, "cell prompt"]
    between: Bool[Tensor, "cell"]
    exact: tuple[int, ...]
    basis: str
    passes: int


def in_bfloat16(ask: Ask) -> CellEvidence:
    """Runs on a copy in bfloat16, of every cell or of every third of each chain; and first-order estimates."""
    plan = ask.plan
    model = plan.model
    hf = copy.deepcopy(model.hf).to(torch.bfloat16)
    low = Model(hf, model.tokenizer, name=model.name, hash=model.hash, bos=model.bos, family=model.family)
    grads = _Gradient(ask)
    lines = _Lines(ask, _STRIDES["bfloat16"], grads.none)
    effect, passes = torch.zeros_like(grads.size), grads.passes
    if lines.run:
        readout = _OnCopy(plan.readout, model) if isinstance(plan.readout, LogitReadout) else plan.readout
        cells = [plan.cells[i] for i in lines.run]
        rough = Sweep(low, plan.batch, cells, readout, plan.background, memory=plan.memory)
        values = rough.run(ask.progress, ask.cancel, what="Screening in bfloat16").values
        effect[lines.run] = (values - rough.base.cpu()).to(effect)
        passes += rough.passes
    own = torch.maximum(effect.abs() / _RUN, grads.size.nan_to_num(0) / _SECOND)
    basis = "a run of the cell in bfloat16 and its first-order estimate"
    if lines.between.any():
        basis += "; for a cell between two, its first-order estimate and both of those in bfloat16"
    return lines.joined(effect, own, grads, _BESIDE["bfloat16"], (), basis, passes)


def by_neighbours(ask: Ask) -> CellEvidence:
    """Every fourth cell of each chain exactly, first-order estimates of those between; of all cells where there are no chains."""
    if not ask.chains:
        return by_gradient(ask)
    plan, grads = ask.plan, _Gradient(ask)
    lines = _Lines(ask, _STRIDES["neighbours"], grads.none)
    effect, passes = torch.zeros_like(grads.size), grads.passes
    if lines.run:
        exact = plan.of([plan.cells[i] for i in lines.run])
        effect[lines.run] = (exact.run(ask.progress, ask.cancel, what="Screening by neighbours").values - ask.base).to(
            effect
        )
        passes += exact.passes
    basis = "its first-order estimate and the two exact cells it stands between"
    return lines.joined(effect, effect.abs(), grads, _BESIDE["neighbours"], tuple(lines.run), basis, passes)


def by_gradient(ask: Ask) -> CellEvidence:
    """First-order estimates alone: the mean of both ends', and as large as the larger."""
    grads = _Gradient(ask)
    largest = torch.where(grads.none[:, None], torch.inf, grads.size / _FIRST_ORDER)
    nowhere = torch.zeros(len(largest), dtype=torch.bool)
    return CellEvidence(grads.mean.nan_to_num(0), largest, nowhere, (), "its first-order estimate", grads.passes)


WAYS = {"bfloat16": in_bfloat16, "gradient": by_gradient, "neighbours": by_neighbours}


class _Gradient:
    """First-order estimates: their mean over the ends, the larger size, and the cells that have none."""

    def __init__(self, ask: Ask) -> None:
        ends, self.passes = first_order(ask.plan, ask.donor, ask.active, progress=ask.progress, cancel=ask.cancel)
        self.mean: Float[Tensor, "cell prompt"] = ends.mean(0)
        self.size: Float[Tensor, "cell prompt"] = ends.abs().amax(0) / (_ONE_END if ask.donor is None else 1)
        self.none: Bool[Tensor, "cell"] = ends.isnan().any(0).any(1)


class _Lines:
    """Which cells are run, and between which two each of the others stands.

    Of each chain every so many cells are run, and its last; also those that have no first-order estimate. Cells that change
    nothing are where they are without a run.
    """

    def __init__(self, ask: Ask, stride: int, blind: Bool[Tensor, "cell"]) -> None:
        self.active, self.between = ask.active, torch.zeros(len(ask.active), dtype=torch.bool)
        self.chains = [([*chain], sorted({*range(0, len(chain), stride), len(chain) - 1})) for chain in ask.chains]
        run = {chain[i] for chain, steps in self.chains for i in steps} if self.chains else {*range(len(ask.active))}
        run |= {*(blind & ask.active).nonzero()[:, 0].tolist()}
        self.run = sorted(i for i in run if ask.active[i])
        self.between[[i for i in ask.active.nonzero()[:, 0].tolist() if i not in run]] = True

    def joined(
        self,
        effect: Float[Tensor, "cell prompt"],
        own: Float[Tensor, "cell prompt"],
        grads: _Gradient,
        beside: float,
        exact: tuple[int, ...],
        basis: str,
        passes: int,
    ) -> CellEvidence:
        """The cells that were run as they are; those between on the line between the two beside them."""
        effect, largest = effect.clone(), own.clone()
        for chain, steps in self.chains:
            for a, b in pairwise(steps):
                low, high = effect[chain[a]], effect[chain[b]]
                for i in range(a + 1, b):
                    if self.between[cell := chain[i]]:
                        effect[cell] = low + (high - low) * (i - a) / (b - a)
                        larger = torch.maximum(low.abs(), high.abs()) / beside
                        largest[cell] = torch.maximum(larger, grads.size[cell] / _SECOND)
        return CellEvidence(effect, largest, self.between, exact, basis, passes)


class _OnCopy:
    """A metric of the original's, on a copy of it: it sees the model that it was made for."""

    def __init__(self, metric: LogitReadout, model: Model) -> None:
        self.metric, self.model, self.sites, self.pos = metric, model, metric.sites, metric.pos

    def columns(self, model: Any, batch: Batch) -> tuple[int, ...] | None:
        return self.metric.columns(self.model, batch)

    def of(self, logits: Tensor, ids: tuple[int, ...] | None, model: Any, batch: Batch) -> Tensor:
        return self.metric.of(logits.to(self.model.dtype), ids, self.model, batch)

    def __call__(self, recording: Any) -> Tensor:
        return self.metric(recording)
