"""First-order estimates of a sweep's cells: what each changes at its sites, times the readout's gradient there."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.engine.gradients import gradients
from residscope.engine.planner.strands import Base, by_site
from residscope.engine.planner.sweep import Sweep
from residscope.engine.protocols import At, Edit
from residscope.errors import NoGradient, QuantisedModel, SweepCancelled, SweepInterrupted
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress, Tell, stage


def first_order(
    plan: Sweep,
    donor: Batch | None,
    active: Bool[Tensor, "cell"],
    *,
    cuts: Sequence[Edit] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> tuple[Float[Tensor, "end cell prompt"], int]:
    """sum over sites of grad . (edited value - value), with the gradient at the base; at the donor's run too, where there is one.

    Both ends: where a softmax or a norm is flat at one of them, the estimate there says nothing of the way between. NaN where
    there is no estimate: cells that change weights or how one receiver reads, quantised weights, a readout without gradient.
    Zero for cells that are not `active`. cuts: edits that leave values as they are, but not gradients: instead of the ends, one
    estimate under each, all at the base. Also how many passes it took, forward and backward.
    """
    ends: list[tuple[Batch, tuple[Edit, ...]]] = [(plan.batch, (cut,)) for cut in cuts] or [(plan.batch, ())]
    ends += [] if donor is None else [(donor, ())]
    estimates = torch.zeros(len(ends), len(plan.cells), len(plan.batch), dtype=torch.float64)
    estimates[:, [i for i in active.nonzero()[:, 0].tolist() if not _differentiable(plan, i)]] = float("nan")
    cells = [i for i in active.nonzero()[:, 0].tolist() if _differentiable(plan, i)]
    if not cells:
        return estimates, 0
    passes = 0
    try:
        plan.model.require_exact_weights("gradients")
        stopped: dict[str, Any] = {"cancelled": SweepCancelled, "interrupted": SweepInterrupted}
        with stage("Taking gradients", len(plan.batch), progress, cancel, **stopped) as tell:
            for rows in plan.with_graphs():
                passes += 2 * len(ends) + 1
                estimates[:, cells, rows.start : rows.stop] = _of_rows(plan, cells, ends, rows, tell)
                tell(rows.stop)
    except (NoGradient, QuantisedModel):
        estimates[:, cells] = float("nan")
    return estimates, passes


def _of_rows(
    plan: Sweep, cells: Sequence[int], ends: Sequence[tuple[Batch, tuple[Edit, ...]]], rows: range, tell: Tell
) -> Float[Tensor, "end cell prompt"]:
    model, table = plan.model, plan.model.sites
    edits = [edit for i in cells for edit in plan.cells[i]]
    sites = {site for edit in edits for site in edit.places(table)}
    held_sites = {site for edit in edits if edit.needs_unedited for site in edit.places(table)}
    seen = {site for edit in edits for site in edit.reads(table)}
    batches = [end if len(rows) == len(end) else end.take(rows) for end, _ in ends]
    grads = []
    for batch, (_, cut) in zip(batches, ends, strict=True):
        grads.append(gradients(model, batch, plan.readout, sites, edits=[*plan.background, *cut])[1])
        tell()
    recording = model.run(batches[0], [*sites, *seen], edits=plan.background)
    unedited = model.run(batches[0], [*held_sites]) if held_sites else recording
    base = Base(recording, {site: unedited[site] for site in held_sites})
    return torch.stack([_first_order(plan.cells[i], base, grads) for i in cells], 1)


def _first_order(cell: Sequence[Edit], base: Base, ends: Sequence[dict[Any, Tensor]]) -> Float[Tensor, "end prompt"]:
    table, every = base.recording.model.sites, range(len(base.batch))
    total = torch.zeros(len(ends), len(base.batch), dtype=torch.float64)
    for site, edits in by_site(cell, table).items():
        value = new = base[site]
        at = At(site, table, base.batch, 0, lambda s: base.unedited_at(s, every), lambda s: base[s])
        for edit in edits:
            new = edit.apply(new, at)
        change = torch.where(new == value, 0, new - value)  # the masked scores are minus infinity, or as good as
        total += torch.stack([(change * grads[site]).flatten(1).sum(1).double().cpu() for grads in ends])
    return total


def _differentiable(plan: Sweep, cell: int) -> bool:
    """Whether all that a cell does is to change values at sites, each by what stands there."""
    if plan.together[cell] is not None:
        return False
    layout = plan.model.layout
    return not any(edit.rereads or edit.overlays(layout) for edit in plan.cells[cell])
