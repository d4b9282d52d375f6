"""Activation patching: put one activation of one prompt's run into another's, everywhere, and read what it does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import Sweep, sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep
from residscope.methods._lib.cells import Cells, Positions, grid, price, run
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.pairs import Pair, Side, paired
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, keeping
from residscope.results import Result


@method("activation-patching", title="Patch everything once", group="patching", tokens=price)
def activation_patching(
    model: Model,
    clean: Annotated[Prompt, fields.prompts()],
    corrupted: Annotated[Prompt | None, fields.prompts(begin="typed")],
    metric: Annotated[Readout, fields.metric()],
    *,
    site: Annotated[str, fields.site(every=True, usual="resid_pre")] = "resid_pre",
    mode: Annotated[str, fields.choice("denoise", "noise")] = "denoise",
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"), named=True)] = None,
    normalize: Annotated[bool, fields.flag(help="as a share of the gap: 0 the corrupted run, 1 the clean one")] = False,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    screen: Annotated[str | None, fields.choice("bfloat16", "neighbours", "gradient")] = None,
    over: Annotated[float, fields.number(low=0, high=1)] = 0.05,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """The metric after patching each layer, position and head of a site, exactly: one forward's number for every cell.

    mode: "denoise" runs the corrupted prompt and patches the clean one's values in; "noise" the other way round. site: any
    with positions or heads (`resid_pre`, `resid_mid`, `attn_out`, `mlp_out`, `z`, `q`, `k`, `v`, `pattern`, `mlp_post` ...).
    positions: "each", "all" at once (the default where the site has heads), a list (negative: from the end), or names from
    the prompt sets, each of which names its own tokens. corrupted: None takes the set's own. metric: one for both ends and all
    cells; `rs.logit_diff()` goes by the clean set's answers, else the corrupted set's, and `rs.loss()` by the clean prompts'
    tokens. normalize: (patched - corrupted) / (clean - corrupted), so that 0 is the corrupted run and 1 the clean one. screen:
    "bfloat16", "neighbours" or "gradient" (`rs.screened`) leaves as estimates what the evidence says is under `over` of the
    gap; the result's label bounds how many of those may be over it.

    Returns a `Result` over layer, pos and head (kv_head), and prompt where there are several, in the metric's unit. Its
    provenance has the metric of both runs, and under "task check" what `rs.task_check` says of prompts with answers.

    Raises:
        UnalignedPrompts: the pair differ in length. BadSweep, SiteError, PromptError, SweepCancelled (with `partial`).

    Vig et al. 2020 (2004.12265), Meng et al. 2022 (2202.05262); Heimersheim and Nanda 2024 (2404.15255) on its use.
    """
    plan, cells = planned(model, clean, corrupted, metric, site, mode, layers, positions, background, memory)
    ends = {"clean": cells.ends[0].tolist(), "corrupted": cells.ends[1].tolist()}
    gap = cells.ends[0] - cells.ends[1]
    if (normalize or screen) and not bool((gap != 0).all()):
        raise BadSweep("clean and corrupted have the same metric", received=str(ends), fix="choose another pair")
    source = cells.pair.clean if mode == "denoise" else cells.pair.corrupted
    about: dict[str, Any] = {"method": f"activation patching of {site}, {mode}", **ends, "normalized": normalize}
    about["no effect"] = float(mode == "noise") if normalize else ends["corrupted" if mode == "denoise" else "clean"]
    if cells.pair.scored_by is not None:
        about["scored by"] = cells.pair.scored_by
    about |= verdict(model, clean, corrupted, progress=progress, cancel=cancel)

    def made(swept: Result) -> Result:
        result = cells.grid.result(swept, about=about)
        if not normalize:
            return result
        several = result.dims[-1] == "prompt"
        low, high = (end if several else end[0] for end in (cells.ends[1].cpu(), cells.ends[0].cpu()))
        name = f"share of the gap restored, {result.name}"
        return replace(result, values=(result.values - low) / (high - low), name=name, unit="share")

    with keeping(made):
        swept = run(plan, cells.grid, gap, screen, over, progress, cancel, donor=source.batch)
    return made(swept)


class Ends:
    """The grid of a sweep over a pair, the pair, and the metric of its clean and its corrupted run."""

    def __init__(self, cells: Cells, ends: tuple[Tensor, Tensor], pair: Pair) -> None:
        self.grid, self.ends, self.pair = cells, ends, pair


def planned(
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
) -> tuple[Sweep, Ends]:
    """The sweep, its grid, and the metric of the clean and the corrupted run."""
    if mode not in ("denoise", "noise"):
        raise BadSweep("no such mode", received=repr(mode), allowed='"denoise" or "noise"')
    pair = paired(model, clean, corrupted, metric)
    target, source = (pair.corrupted, pair.clean) if mode == "denoise" else (pair.clean, pair.corrupted)
    cells = grid(model, site, layers=layers, positions=positions, tokens=target.batch, names=target.names)
    wanted = dict.fromkeys(cells.sites)
    with torch.no_grad():
        source_run = model.run(source.batch, capture=[*map(str, wanted), *pair.metric.sites], edits=background)
        unpatched = model.run(target.batch, pair.metric.sites, edits=background)
        ends = pair.metric(source_run), pair.metric(unpatched)
    values = {str(model.sites.canonical(s)): source_run[s] for s in wanted}
    several = [
        _patch(s, values[str(model.sites.canonical(s))], w, target, source)
        for s, w in zip(cells.sites, cells.where, strict=True)
    ]
    plan = sweep(model, target.batch, several, pair.metric, background, memory=memory)
    return plan, Ends(cells, ends if mode == "denoise" else ends[::-1], pair)


def _patch(site: Site, value: Tensor, where: dict[str, Any], target: Side, source: Side) -> Edit:
    """One cell's edit; a named position is each set's own: {the target's token: the source's}, prompt by prompt."""
    rest = {k: v for k, v in where.items() if k != "named"}
    align: Any = None
    if (name := where.get("named")) is not None:
        align = tuple({to: source_at} for to, source_at in zip(target.at(name), source.at(name), strict=True))
    return edits.patch(str(site), {str(site): value}, align=align, **rest)
