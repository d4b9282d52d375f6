"""Ablations side by side: zero, a data set's mean and resampling, each part in turn, and where the three disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
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
from residscope.methods._lib import cells as grids
from residscope.methods._lib.blind import spearman
from residscope.methods._lib.cells import Cells, Positions, grid
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.dropout import dropout_of, warning_of
from residscope.methods._lib.intervals import bootstrap
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Text, View

SMALL = 0.05  # of the largest effect: below it no disagreement is told
WAYS = ("zero", "mean", "resample")


@dataclass(frozen=True, eq=False, repr=False)
class AblationComparison(Report):
    """What three ways of taking each part out do to the metric: ablated less unedited, means over prompts, with 95 % intervals.

    resample: the mean of several draws; its interval, with one prompt, is over draws. disagree: 1 where the three lie apart by
    over half of the largest of them (so also where they differ in sign), and that is at least 5 % of the largest effect of
    all. agreement: Spearman's rank correlation of each two over all parts.
    """

    kind: ClassVar[str] = "report:ablation_comparison"
    main: ClassVar[str] = "resample"
    zero: Result
    mean: Result
    resample: Result
    disagree: Result
    agreement: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """The three on one scale, where they disagree, and how alike they rank the parts."""
        shown: list[View] = [self.zero.view(), self.mean.view(), self.resample.view(), self.disagree.view()]
        shown.append(self.agreement.view())
        if note := warning_of(dict(self.provenance.get("trained with dropout", {}))):
            shown.append(Text(note))
        return Grid(shown, columns=2, title="Three ways to take a part out")

    def __repr__(self) -> str:
        told = self.disagree.values[~self.disagree.values.isnan()]
        return f"AblationComparison({int(told.sum())} of {told.numel()} parts disagree)"


def _price(model: Model, *, prompts: Prompt, draws: int = 5, **asked: Any) -> float:
    """Tokens through the whole model, about: half of each cell's, for zero, the mean and each draw."""
    return (2 + draws) * grids.price(model, prompts=prompts, **{**asked, "positions": asked.get("positions") or "all"})


@method("compare-ablations", title="Ablations side by side", group="patching", tokens=_price)
def compare_ablations(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    over: Annotated[Any, fields.prompts(live=True)],
    *,
    site: Annotated[str, fields.site(every=True, usual="z")] = "z",
    by: Annotated[str | None, fields.choice("position")] = None,
    draws: Annotated[int, fields.count(low=1, high=1000)] = 5,
    seed: Annotated[int, fields.seed()] = 0,
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"))] = None,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> AblationComparison:
    """The metric after each part is set to zero, to its mean over data, and to its value on other prompts of the data; exactly.

        effect = m(part replaced) - m(unedited)

    Zero is far from anything the model has met; the mean is nearer, and of no one prompt; a resampled value is of another prompt
    whole. Where the three agree an effect is the part's; where they do not, it is also the replacement's.

    over: prompts for the mean and to draw from, such as the task's own with other names. The mean leaves out position 0 and
    attention sinks, or is taken at each position (by="position"). draws: how many seeds of resampling; positions correspond from
    the end, so the data needs other prompts at least as long. site, layers, positions: as in `rs.ablation_sweep`. All ways and
    draws are one sweep.

        rs.compare_ablations(model, data, rs.logit_diff(), over=others).disagree

    Raises:
        BadSweep, BadEdit, CannotAlign (no prompt of the data is long enough), SiteError, PromptError, SweepCancelled.

    Heimersheim and Nanda 2024 (2404.15255); Chan et al. 2022, Causal Scrubbing, on resampling.
    """
    batch = model.batch(prompts)
    names = prompts if isinstance(prompts, PromptSet) else None
    cells = grid(
        model, site, layers=layers, positions="all" if positions is None else positions, tokens=batch, names=names
    )
    if any("named" in where for where in cells.where):
        raise BadSweep("ablation takes positions by number", received=str(positions), allowed='"each", "all", a list')
    if draws < 1:
        raise BadSweep("resampling takes a draw or more", received=f"draws={draws}")
    sites = list(dict.fromkeys(cells.sites))
    if not isinstance(over, Recording):
        over = model.run(over, capture=dict.fromkeys(s for at in sites for s in (at, *streams(model, at))))
    ways: list[dict[str, Any]] = [{"to": "zero"}, {"to": "mean", "over": over, "by": by}]
    ways += [{"to": "resample", "over": over, "seed": seed + i} for i in range(draws)]
    whole = [{s: edits.ablate(str(s), **way).prepare(model) for s in sites} for way in ways]
    several = [
        replace(of[s], **indices(where)) for of in whole for s, where in zip(cells.sites, cells.where, strict=True)
    ]
    plan = sweep(model, batch, several, metric, background, memory=memory)
    swept = plan.run(progress, cancel, what="Ablating")
    baseline = plan.baseline().double().cpu()
    effects = swept.values.double().reshape(len(ways), len(cells.sites), len(batch)) - baseline
    about: dict[str, Any] = {
        "method": f"ablation of {site}, three ways", "baseline": baseline.tolist(), "draws": draws, "seed": seed,
        "prompts averaged": len(batch), "averaged": {str(s): dict(edit.averaged or {}) for s, edit in whole[1].items()},
        "no effect": 0.0,
    }  # fmt: skip
    if rates := dropout_of(model):
        about["trained with dropout"] = rates
    about |= verdict(model, prompts, progress=progress, cancel=cancel)
    parts = {"zero": effects[0].T, "mean": effects[1].T, "resample": effects[2:].mean(0).T}
    if len(batch) == 1 and draws > 1:
        parts["resample"] = effects[2:, :, 0]
    found = {way: _result(swept, cells, values, about, way) for way, values in parts.items()}
    means = torch.stack([found[way].values for way in WAYS])
    there = ~means[0].isnan()  # a layer may lack a head
    apart = _apart(means.nan_to_num()).double().masked_fill(~there, torch.nan)
    pairs = [*combinations(range(3), 2)]
    alike = [float(spearman(means[a][there].numpy(), means[b][there].numpy())) for a, b in pairs]
    first = found["zero"]
    return AblationComparison(
        **found,
        disagree=replace(
            first, values=apart, low=None, high=None, name="where the ablations disagree", unit="1 where they do",
            provenance={k: v for k, v in first.provenance.items() if k != "no effect"},
        ),
        agreement=Result(
            torch.tensor(alike), ("pair",), {"pair": [f"{WAYS[a]}, {WAYS[b]}" for a, b in pairs]},
            name="agreement of the ablations", unit="rank correlation", provenance={**swept.provenance, **about},
        ),
        provenance={**swept.provenance, **about},
    )  # fmt: skip


def _result(
    swept: Result, cells: Cells, values: Float[Tensor, "draw cell"], about: Mapping[str, Any], way: str
) -> Result:
    """The mean over prompts or draws by the grid's dimensions, with the bootstrap's interval where there are several."""
    rows = [values.mean(0), *(bootstrap(values, resamples=1000) if len(values) > 1 else ())]
    name = f"change of {swept.name}, {'resampled' if way == 'resample' else f'to {way}'}"
    told: dict[str, Any] = {"name": name, "unit": swept.unit, "provenance": swept.provenance}
    mean, *ends = [cells.result(Result(row[:, None], ("cell", "prompt"), **told), about=about) for row in rows]
    return replace(mean, low=ends[0].values, high=ends[1].values) if ends else mean


def _apart(means: Float[Tensor, "way ..."]) -> Bool[Tensor, "..."]:
    """Where the ways lie apart by over half of the largest of them, and that is no small effect."""
    largest = means.abs().amax(0)
    spread = means.amax(0) - means.amin(0)
    return (spread > largest / 2) & (largest >= SMALL * largest.max())
