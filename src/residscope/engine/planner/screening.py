"""Screening: a sweep estimated cheaply, then made exact where it matters, and audited where it does not."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from residscope.engine.gradients import gradients
from residscope.engine.model import Model
from residscope.engine.planner.strands import Base, by_site
from residscope.engine.planner.sweep import Sweep
from residscope.engine.protocols import At, Edit
from residscope.errors import BadSweep
from residscope.progress import Progress
from residscope.results import Result

# cells estimated at this share of the threshold are made exact too: an estimate has its own error
_SLACK = {"bfloat16": 0.7, "gradient": 0.8, "neighbours": 0.8}


def screened(
    plan: Sweep,
    gap: float | Tensor,
    *,
    by: str = "bfloat16",
    chains: Sequence[Sequence[int]] = (),
    over: float = 0.05,
    audit: float = 0.05,
    seed: int = 0,
    progress: Progress = None,
    cancel: Any = None,
) -> Result:
    """A sweep with every cell whose effect is over a share of the gap exact, and the rest estimated.

    gap: the difference (clean - corrupted) that effects are shares of, one number or one a prompt. by: "bfloat16" runs the
    same sweep on a copy of the model in that precision, every third cell of each of the `chains` where they are given (cells
    in an order along which effects change little, such as the layers at one position), and takes the others to be between the
    two beside them; "neighbours" does so with every fourth cell, exactly; "gradient" takes the first-order estimate
    readout + sum over sites of grad . (edited value - value), for three passes in all. over: the share. audit: the share of
    the remaining cells, drawn by `seed`, that are made exact as well.

    The result's column `known` says of each cell whether it is "exact" or "estimate"; its provenance has the audit: the largest
    error found, and how many cells over the threshold the estimate had missed.

    Raises:
        BadSweep: an unknown way of screening, a gap of zero. SweepCancelled, WeightsChanged: as `Sweep.run`.
    """
    if by not in _WAYS:
        raise BadSweep("no such way of screening", received=repr(by), allowed=", ".join(_WAYS))
    if (by == "neighbours" or chains) and sorted(i for chain in chains for i in chain) != [*range(len(plan.cells))]:
        raise BadSweep(
            "chains must hold every cell once", received=f"{sum(map(len, chains))} of {len(plan.cells)} cells"
        )
    threshold = over * torch.as_tensor(gap).abs().to(plan.model.device)
    if not bool((threshold > 0).all()):
        raise BadSweep(
            "effects are shares of the gap, which is zero", received=f"gap={gap}", fix="choose other prompts"
        )
    began = time.monotonic()
    rough = _WAYS[by](plan, chains, progress, cancel)
    estimate, base = rough.values, rough.base
    share = (rough.largest / threshold).amax(1)
    wanted = share >= _SLACK[by]
    wanted[rough.exact] = False
    rest = sorted({*(~wanted).nonzero()[:, 0].tolist()} - {*rough.exact})
    generator = torch.Generator().manual_seed(seed)
    drawn = [rest[i] for i in torch.randperm(len(rest), generator=generator)[: round(audit * len(rest))].tolist()]
    chosen = [*wanted.nonzero()[:, 0].tolist(), *drawn]
    values = estimate.clone()
    audited: dict[str, Any] = {"cells": len(drawn)}
    if chosen:
        exact = plan.of([plan.cells[i] for i in chosen])
        found = exact.run(progress, cancel).values.to(values)
        values[chosen] = found
        if drawn:
            true = found[len(chosen) - len(drawn) :]
            audited["largest error"] = float((true - estimate[drawn]).abs().max())
            audited["missed"] = int((((true - base).abs() / threshold).amax(1) >= 1).sum())
    known = ["estimate"] * len(plan.cells)
    for i in (*chosen, *rough.exact):
        known[i] = "exact"
    about = {
        "method": f"sweep, screened by {by}",
        **plan.model.provenance,
        "seconds": round(time.monotonic() - began, 3),
        "exact over": float(over),
        "gap": torch.as_tensor(gap).tolist(),
        "exact cells": len(chosen) + len(rough.exact),
        "audit": audited,
        "seed": seed,
    }
    words = f"estimated by {by}; exact where the effect is over {over:.0%} of the gap, and in an audited {audit:.0%} of the rest"
    coords = {"edits": plan.labels, "known": tuple(known)}
    along = {"edits": "cell", "known": "cell"}
    name = type(plan.readout).__name__
    return Result(values, ("cell", "prompt"), coords, along, name=name, exact=words, provenance=about)


@dataclass(frozen=True)
class Rough:
    """Estimates of all cells, the base they are of, how large an effect may be, and which cells are exact already."""

    values: Tensor
    base: Tensor
    largest: Tensor
    exact: list[int]


def _in_bfloat16(plan: Sweep, chains: Sequence[Sequence[int]], progress: Progress, cancel: Any) -> Rough:
    """The sweep on a copy of the model in bfloat16, of every third cell of each chain; its effects set upon the exact base."""
    model = plan.model
    hf = copy.deepcopy(model.hf).to(torch.bfloat16)
    low = Model(hf, model.tokenizer, name=model.name, hash=model.hash, bos=model.bos)
    chosen, between = _thinned(chains or [[i] for i in range(len(plan.cells))], _STRIDES["bfloat16"])
    rough = plan.of([plan.cells[i] for i in chosen], model=low)
    found = rough.run(progress, cancel).values.to(model.device)
    base = plan.baseline()
    effect = base.new_zeros(len(plan.cells), len(base))
    effect[chosen] = (found - rough.base.to(model.device)).to(base)
    return Rough(base + effect, base, between(effect), [])


def _by_gradient(plan: Sweep, _: Any, progress: Progress, cancel: Any) -> Rough:
    """The gradient at the sites that the cells edit, times what they change there."""
    model, table = plan.model, plan.model.sites
    sites = {site for cell in plan.cells for edit in cell for site in edit.places(table)}
    held = {s for cell in plan.cells for edit in cell if edit.needs_unedited for s in edit.places(table)}
    recording, grads = gradients(model, plan.batch, plan.readout, [*sites], edits=plan.background)
    unedited = model.run(plan.batch, [*held]) if held else recording
    base = Base(recording, {site: unedited[site] for site in held})
    effect = torch.stack([_first_order(cell, base, grads) for cell in plan.cells])
    start = plan.baseline()
    return Rough(start + effect, start, effect.abs(), [])


def _by_neighbours(plan: Sweep, chains: Sequence[Sequence[int]], progress: Progress, cancel: Any) -> Rough:
    """Every fourth cell of each chain, exactly; the others on the line between the two beside them."""
    exact, between = _thinned(chains, _STRIDES["neighbours"])
    base = plan.baseline()
    found = plan.of([plan.cells[i] for i in exact]).run(progress, cancel).values.to(base)
    effect = base.new_zeros(len(plan.cells), len(base))
    effect[exact] = found - base
    largest = between(effect)
    return Rough(base + effect, base, largest, exact)


def _thinned(chains: Sequence[Sequence[int]], stride: int) -> tuple[list[int], Callable[[Tensor], Tensor]]:
    """Every so many cells of each chain (and its last); and a function that puts those between on the line between their two.

    It fills `effect` in, and answers how large each may be: for a cell between two, as large as the larger of them.
    """
    steps = [sorted({*range(0, len(chain), stride), len(chain) - 1}) for chain in chains]

    def between(effect: Tensor) -> Tensor:
        largest = effect.abs()
        for chain, here in zip(chains, steps, strict=True):
            for a, b in pairwise(here):
                low, high = effect[chain[a]], effect[chain[b]]
                for i in range(a + 1, b):
                    effect[chain[i]] = low + (high - low) * (i - a) / (b - a)
                    largest[chain[i]] = torch.maximum(low.abs(), high.abs())
        return largest

    return [chain[i] for chain, here in zip(chains, steps, strict=True) for i in here], between


_STRIDES = {"bfloat16": 3, "neighbours": 4}
_WAYS = {"bfloat16": _in_bfloat16, "gradient": _by_gradient, "neighbours": _by_neighbours}


def _first_order(cell: Sequence[Edit], base: Base, grads: dict[Any, Tensor]) -> Tensor:
    table, every = base.recording.model.sites, range(len(base.batch))
    total = torch.zeros(len(base.batch), device=base.batch.ids.device)
    for site, edits in by_site(cell, table).items():
        value = new = base[site]
        at = At(site, table, base.batch, 0, lambda s: base.held(s, every), lambda s: base[s])
        for edit in edits:
            new = edit.apply(new, at)
        change = torch.where(new == value, 0, new - value)  # the masked scores are minus infinity, or as good as
        total = total + (change * grads[site]).flatten(1).sum(1)
    return total
