"""AtP*: first-order estimates that softmaxes and cancellations spoil less."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.engine.gradients import gradients
from residscope.engine.planner import Sweep
from residscope.engine.planner.first_order import first_order
from residscope.engine.protocols import At, Edit
from residscope.errors import BadSweep, SweepCancelled, SweepInterrupted
from residscope.model.sites import Site, SiteTable
from residscope.progress import Cancel, Progress, stage

OUTSIDE = ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post")


@dataclass(frozen=True)
class Cut(Edit):
    """No gradient goes through what one layer's attention and MLP write; the values are as they were."""

    layer: int

    def places(self, table: SiteTable) -> list[Site]:
        return [Site(name, self.layer) for name in ("attn_out", "mlp_out") if name not in table.absent]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return value.detach()


def estimated(
    plan: Sweep, active: Bool[Tensor, "cell"], layers: Sequence[int], *, qk_fix: bool, grad_drop: bool, inside: bool,
    progress: Progress, cancel: Cancel,
) -> Float[Tensor, "cell prompt"]:  # fmt: skip
    """Of each cell, at one of the `layers`, its first-order estimate; with `grad_drop` the mean size of several.

    inside: whether the cells are parts of their layers, so that no gradient is left of one where its own layer is cut.
    """
    if grad_drop and plan.model.n_layers < 2:
        raise BadSweep(
            "where the only layer is left out there is no gradient", received="grad_drop=True", allowed="False"
        )
    cuts = [Cut(layer) for layer in range(plan.model.n_layers)] if grad_drop else []
    if qk_fix:
        found = _by_attention(plan, active, layers, cuts, progress, cancel)
    else:
        found, _ = first_order(plan, None, active, cuts=cuts, progress=progress, cancel=cancel)
    if not grad_drop:
        return found[0]
    of = torch.tensor([*layers])
    counted = torch.ones(len(cuts), len(of), dtype=found.dtype)
    if inside:
        counted[of, torch.arange(len(of))] = 0
    return (found.abs() * counted[..., None]).sum(0) / counted.sum(0)[:, None]


def _by_attention(
    plan: Sweep, active: Bool[Tensor, "cell"], layers: Sequence[int], cuts: Sequence[Edit], progress: Progress, cancel: Cancel
) -> Float[Tensor, "cut cell prompt"]:  # fmt: skip
    """sum of (pattern' - pattern) . dm/d pattern, with the pattern that each cell's query or key gives."""
    model, n = plan.model, len(plan.batch)
    where = sorted({*layers})
    slopes = _slopes(plan, [Site("pattern", layer) for layer in where], cuts, progress, cancel)
    found = torch.zeros(max(1, len(cuts)), len(plan.cells), n, dtype=torch.float64)
    for layer in where:
        cells = [i for i, at in enumerate(layers) if at == layer and bool(active[i])]
        if not cells:
            continue
        site = Site("pattern", layer)
        again = Sweep(
            model, plan.batch, [plan.cells[i] for i in cells], _Pattern(str(site)), plan.background, memory=plan.memory
        )
        base: dict[int, Tensor] = {}
        for told in again.each(progress, cancel, what=f"Computing attention anew in layer {layer}"):
            for row, value in zip(told.prompts, told.values, strict=True):
                if told.cell is None:
                    base[row] = value
                    continue
                change = (value - base[row]).flatten()
                for end, slope in enumerate(slopes):
                    found[end, cells[told.cell], row] = float(change.double() @ slope[site][row].flatten().double())
    return found


def _slopes(
    plan: Sweep, sites: Sequence[Site], cuts: Sequence[Edit], progress: Progress, cancel: Cancel
) -> list[dict[Site, Tensor]]:
    """The metric's gradient at some sites in the base run, under each cut."""
    stopped: dict[str, Any] = {"cancelled": SweepCancelled, "interrupted": SweepInterrupted}
    parts = plan.with_graphs()
    under: list[tuple[Edit, ...]] = [(cut,) for cut in cuts] or [()]
    found = []
    with stage("Taking gradients", len(parts) * len(under), progress, cancel, **stopped) as tell:
        for number, cut in enumerate(under):
            grads = []
            for i, rows in enumerate(parts):
                batch = plan.batch if len(rows) == len(plan.batch) else plan.batch.take(rows)
                grads.append(gradients(plan.model, batch, plan.readout, sites, edits=[*plan.background, *cut])[1])
                tell(number * len(parts) + i + 1)
            found.append({site: torch.cat([part[site] for part in grads]) for site in sites})
    return found


@dataclass(frozen=True)
class _Pattern:
    """A readout of a layer's attention."""

    site: str
    unit = "share"

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    def __call__(self, recording: Any) -> Float[Tensor, "row head query key"]:
        value: Tensor = recording[self.site]
        return value
