"""Activation patching: put one activation of one prompt's run into another's, everywhere, and read what it does."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from residscope import edits
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import Sweep, sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, UnalignedPrompts
from residscope.methods.grids import Positions, grid, run
from residscope.model.prompts import PromptSet
from residscope.progress import Progress
from residscope.results import Result


def activation_patching(
    model: Model,
    clean: Prompt,
    corrupted: Prompt | None,
    metric: Readout,
    *,
    site: str = "resid_pre",
    mode: str = "denoise",
    layers: Sequence[int] | None = None,
    positions: Positions = None,
    normalize: bool = False,
    background: Sequence[Edit] = (),
    screen: str | None = None,
    over: float = 0.05,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Any = None,
) -> Result:
    """The metric after patching each layer, position and head of a site, exactly: one forward's number for every cell.

    mode: "denoise" runs the corrupted prompt and patches the clean one's values in; "noise" the other way round. site: any
    with positions or heads (`resid_pre`, `resid_mid`, `attn_out`, `mlp_out`, `z`, `q`, `k`, `v`, `pattern`, `mlp_post` ...).
    positions: "each", "all" at once (the default where the site has heads), a list (negative: from the end), or names from
    the prompt set. corrupted: None takes the set's own. normalize: (patched - corrupted) / (clean - corrupted), so that 0
    is the corrupted run and 1 the clean one. screen: "neighbours" (every fourth layer first), "bfloat16" or "gradient" estimates
    all cells, and makes exact those over `over` of the gap; the result is labelled so.

    Returns a `Result` over layer, pos and head (kv_head), and prompt where there are several, in the metric's unit. Its
    provenance has the metric of both runs.

    Raises:
        UnalignedPrompts: the pair differ in length. BadSweep, SiteError, PromptError, SweepCancelled (with `partial`).

    Vig et al. 2020 (2004.12265), Meng et al. 2022 (2202.05262); Heimersheim and Nanda 2024 (2404.15255) on its use.
    """
    plan, cells = _plan(model, clean, corrupted, metric, site, mode, layers, positions, background, memory)
    ends = {"clean": cells.ends[0].tolist(), "corrupted": cells.ends[1].tolist()}
    gap = cells.ends[0] - cells.ends[1]
    if (normalize or screen) and not bool((gap != 0).all()):
        raise BadSweep("clean and corrupted have the same metric", received=str(ends), fix="choose another pair")
    found = run(plan, cells.grid, gap, screen, over, progress, cancel)
    about = {"method": f"activation patching of {site}, {mode}", **ends, "normalized": normalize}
    result = cells.grid.result(found, name=type(metric).__name__, about=about)
    if not normalize:
        return result
    from dataclasses import replace

    several = result.dims[-1] == "prompt"
    low, high = (end if several else end[0] for end in (cells.ends[1].cpu(), cells.ends[0].cpu()))
    return replace(result, values=(result.values - low) / (high - low), name="share of the gap restored")


class _Cells:
    def __init__(self, found: Any, ends: tuple[Tensor, Tensor]) -> None:
        self.grid, self.ends = found, ends


def _plan(
    model: Model,
    clean: Prompt,
    corrupted: Prompt | None,
    metric: Readout,
    site: str,
    mode: str,
    layers: Sequence[int] | None,
    positions: Positions,
    background: Sequence[Edit],
    memory: int | None,
) -> tuple[Sweep, _Cells]:
    """The sweep, its grid, and the metric of the clean and the corrupted run."""
    if mode not in ("denoise", "noise"):
        raise BadSweep("no such mode", received=repr(mode), allowed='"denoise" or "noise"')
    names = clean if isinstance(clean, PromptSet) else None
    if corrupted is None:
        if names is None or names.corrupted is None:
            raise BadSweep(
                "there is no corrupted prompt", received="None", allowed="prompts, or a PromptSet with its own"
            )
        corrupted = PromptSet(names.corrupted, answers=names.answers, positions=names.positions)
    a, b = model.batch(clean), model.batch(corrupted)
    if a.lengths != b.lengths:
        at = next((i for i, pair in enumerate(zip(a.lengths, b.lengths, strict=False)) if pair[0] != pair[1]), 0)
        raise UnalignedPrompts(
            "clean and corrupted prompts must correspond token by token",
            received=f"prompt {at}: {_length(a.lengths, at)} and {_length(b.lengths, at)} tokens",
            allowed="equal lengths",
            fix="choose words of as many tokens, or give edits.patch(..., align=...) cells to rs.sweep",
        )
    target, source = (b, a) if mode == "denoise" else (a, b)
    cells = grid(model, site, layers=layers, positions=positions, tokens=target, names=names)
    wanted = dict.fromkeys(cells.sites)
    with torch.no_grad():
        held = model.run(source, capture=[*map(str, wanted), *metric.sites], edits=background)
        ends = metric(held), metric(model.run(target, metric.sites, edits=background))
    values = {str(model.sites.canonical(s)): held[s] for s in wanted}
    several = [
        _patch(s, values[str(model.sites.canonical(s))], model, w)
        for s, w in zip(cells.sites, cells.where, strict=True)
    ]
    plan = sweep(model, target, several, metric, background, memory=memory)
    return plan, _Cells(cells, ends if mode == "denoise" else ends[::-1])


def _patch(site: Any, value: Tensor, model: Model, where: dict[str, Any]) -> Edit:
    named = where.get("named")
    rest = {k: v for k, v in where.items() if k != "named"}
    source = {str(model.sites.canonical(site)): value}
    align: Any = None if named is None else tuple({p: p} for p in named)
    return edits.patch(str(site), source, align=align, **rest)


def _length(lengths: Sequence[int], at: int) -> int | str:
    return lengths[at] if at < len(lengths) else "no"
