"""Ablation sweeps: take each head, layer or position out in turn, and read what it does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.edits.base import indices
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.engine.recording import Recording
from residscope.engine.sinks import streams
from residscope.errors import BadSweep
from residscope.methods._lib.cells import Positions, grid, price
from residscope.methods._lib.checklist import verdict
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, keeping
from residscope.results import Result


@method("ablation-sweep", title="Ablate everything once", group="patching", tokens=price)
def ablation_sweep(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    site: Annotated[str, fields.site(every=True, usual="z")] = "z",
    to: Annotated[str | Tensor, fields.choice("zero", "mean")] = "zero",
    over: Annotated[Any, fields.prompts(live=True, when=("to", ("mean",)))] = None,
    by: Annotated[str | None, fields.choice("position", when=("to", ("mean",)))] = None,
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"), named=True)] = None,
    relative: Annotated[
        bool, fields.flag(help="less the unedited run's, so that below zero means that the part helped")
    ] = False,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """The metric after ablating each head (or layer, or position) of a site, exactly.

    to, over, by: as in `edits.ablate`: "zero", a tensor, or "mean" over data: of all its tokens but position 0 and attention
    sinks, or `by="position"`; the provenance says, under "averaged", of each site of how many. positions: "all" at once unless
    said; "each", a list, or the prompt set's names. relative: ablated minus baseline, so that negative means the part helped.

    Returns a `Result` over layer, pos and head (kv_head), and prompt where there are several; its provenance has the baseline.

    Raises:
        BadSweep, SiteError, PromptError, EditError, SweepCancelled (with `partial`).
    """
    names = prompts if isinstance(prompts, PromptSet) else None
    batch = model.batch(prompts)
    cells = grid(
        model, site, layers=layers, positions="all" if positions is None else positions, tokens=batch, names=names
    )
    if any("named" in where for where in cells.where):
        raise BadSweep("ablation takes positions by number", received=str(positions), allowed='"each", "all", a list')
    sites = list(dict.fromkeys(cells.sites))
    if over is not None and not isinstance(over, Recording):
        over = model.run(over, capture=dict.fromkeys(s for site in sites for s in (site, *streams(model, site))))
    whole = {site: edits.ablate(str(site), to=to, over=over, by=by).prepare(model) for site in sites}
    several = [replace(whole[s], **indices(where)) for s, where in zip(cells.sites, cells.where, strict=True)]
    plan = sweep(model, batch, several, metric, background, memory=memory)
    baseline = plan.baseline().cpu()
    about: dict[str, Any] = {
        "method": f"ablation of {site} to {to if isinstance(to, str) else 'a tensor'}",
        "baseline": baseline.tolist(),
    }
    averaged = {str(site): dict(counts) for site, edit in whole.items() if (counts := edit.averaged)}
    if averaged:
        about["averaged"] = averaged
    about |= verdict(model, prompts, progress=progress, cancel=cancel)

    def made(values: Result) -> Result:
        without = 0.0 if relative else baseline.tolist()
        result = cells.result(values, about={**about, "relative": relative, "no effect": without})
        if not relative:
            return result
        base = baseline if result.dims[-1] == "prompt" else baseline[0]
        return replace(result, values=result.values - base, name=f"change of {result.name}")

    with keeping(made):
        values = plan.run(progress, cancel)
    return made(values)
