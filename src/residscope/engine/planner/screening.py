"""Screening: a sweep estimated cheaply, then made exact where it matters, and audited where it does not."""

import copy
import time
from collections.abc import Sequence
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

_SLACK = 0.8  # cells estimated at this share of the threshold are made exact too: an estimate has its own error


def screened(
    plan: Sweep,
    gap: float | Tensor,
    *,
    by: str = "bfloat16",
    over: float = 0.05,
    audit: float = 0.05,
    seed: int = 0,
    progress: Progress = None,
    cancel: Any = None,
) -> Result:
    """A sweep with every cell whose effect is over a share of the gap exact, and the rest estimated.

    gap: the difference (clean - corrupted) that effects are shares of, one number or one a prompt. by: "bfloat16" runs the
    same sweep on a copy of the model in that precision; "gradient" takes the first-order estimate
    readout + sum over sites of grad . (edited value - value), for three passes in all. over: the share. audit: the share
    of the remaining cells, drawn by `seed`, that are made exact as well.

    The result's column `known` says of each cell whether it is "exact" or "estimate"; its provenance has the audit: the largest
    error found, and how many cells over the threshold the estimate had missed.

    Raises:
        BadSweep: an unknown way of screening, a gap of zero. SweepCancelled, WeightsChanged: as `Sweep.run`.
    """
    if by not in ("bfloat16", "gradient"):
        raise BadSweep("no such way of screening", received=repr(by), allowed='"bfloat16" or "gradient"')
    threshold = over * torch.as_tensor(gap).abs().to(plan.model.device)
    if not bool((threshold > 0).all()):
        raise BadSweep(
            "effects are shares of the gap, which is zero", received=f"gap={gap}", fix="choose other prompts"
        )
    began = time.monotonic()
    estimate, base = (_in_bfloat16 if by == "bfloat16" else _by_gradient)(plan, progress, cancel)
    effect = (estimate - base).abs()
    share = (effect / threshold).amax(1)
    wanted = share >= _SLACK
    rest = (~wanted).nonzero()[:, 0].tolist()
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
    for i in chosen:
        known[i] = "exact"
    about = {
        "method": f"sweep, screened by {by}",
        **plan.model.provenance,
        "seconds": round(time.monotonic() - began, 3),
        "exact over": float(over),
        "gap": torch.as_tensor(gap).tolist(),
        "exact cells": len(chosen),
        "audit": audited,
        "seed": seed,
    }
    words = f"estimated by {by}; exact where the effect is over {over:.0%} of the gap, and in an audited {audit:.0%} of the rest"
    coords = {"edits": plan.labels, "known": tuple(known)}
    along = {"edits": "cell", "known": "cell"}
    name = type(plan.readout).__name__
    return Result(values, ("cell", "prompt"), coords, along, name=name, exact=words, provenance=about)


def _in_bfloat16(plan: Sweep, progress: Progress, cancel: Any) -> tuple[Tensor, Tensor]:
    """Estimates of all cells from a copy of the model in bfloat16, set upon the exact base."""
    model = plan.model
    hf = copy.deepcopy(model.hf).to(torch.bfloat16)
    low = Model(hf, model.tokenizer, name=model.name, hash=model.hash, bos=model.bos)
    rough = plan.of(plan.cells, model=low)
    found = rough.run(progress, cancel).values.to(model.device)
    base = plan.baseline()
    return (found - rough.base.to(model.device)).to(base) + base, base


def _by_gradient(plan: Sweep, progress: Progress, cancel: Any) -> tuple[Tensor, Tensor]:
    """First-order estimates of all cells: the gradient at the sites they edit, times what they change there."""
    model, table = plan.model, plan.model.sites
    sites = {site for cell in plan.cells for edit in cell for site in edit.places(table)}
    held = {s for cell in plan.cells for edit in cell if edit.needs_unedited for s in edit.places(table)}
    recording, grads = gradients(model, plan.batch, plan.readout, [*sites], edits=plan.background)
    unedited = model.run(plan.batch, [*held]) if held else recording
    base = Base(recording, {site: unedited[site] for site in held})
    start = plan.baseline()
    found = [start + _first_order(cell, base, grads) for cell in plan.cells]
    return torch.stack(found), start


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
