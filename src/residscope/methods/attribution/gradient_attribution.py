"""Gradient times activation: what each head, MLP, neuron or stream is worth to the metric, to first order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import sweep
from residscope.engine.protocols import At, Edit, Readout
from residscope.errors import BadSweep, NoGradient, SweepCancelled, SweepInterrupted
from residscope.methods._lib.agreement import correlations, drawn
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.cells import Positions, grid
from residscope.methods._lib.parts import SITES, labelled, largest, part_at, per_part, places_of, require_parts
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site, SiteTable
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Table, View

OF = ("heads", "mlps", "neurons", "resid")


@dataclass(frozen=True, eq=False, repr=False)
class GradientAttribution(Report):
    """What each part is worth to the metric, estimated by one gradient, and the exact worth of some beside it.

    attribution: gradient times activation over layer, position where asked, head or neuron, and prompt where there are several.
    exact: of a sample of the parts, m - m(part at zero), over (part, prompt); estimate: the attribution of the same. The
    first `strongest` of them have the largest estimates, the others are drawn at random.
    agreement: Pearson's and Spearman's correlation of the two, over parts and prompts; agreement_drawn: of the drawn ones alone.
    None where there are too few.
    """

    kind: ClassVar[str] = "report:gradient_attribution"
    main: ClassVar[str] = "attribution"
    attribution: Result
    exact: Result
    estimate: Result
    strongest: int
    agreement: Mapping[str, float | None]
    agreement_drawn: Mapping[str, float | None]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """The attributions, as a table of the largest where they are of neurons; the sample, estimate beside exact value."""
        mean = self.attribution.mean("prompt") if "prompt" in self.attribution.dims else self.attribution
        shown: list[View] = [largest(mean, "gradient × activation") if "neuron" in mean.dims else mean.view()]
        if parts := self.exact.coords["part"]:
            numbers = zip(self.estimate.values.mean(1).tolist(), self.exact.values.mean(1).tolist(), strict=True)
            rows: list[list[Any]] = [
                [part, *pair, "largest" if i < self.strongest else "at random"]
                for i, (part, pair) in enumerate(zip(parts, numbers, strict=True))
            ]
            columns = ["part", f"gradient × activation, {mean.unit}", f"exact, {mean.unit}", "chosen"]
            note = f"Correlation: {_words(self.agreement)}. Of those drawn at random: {_words(self.agreement_drawn)}."
            shown.append(Table(columns, rows, title="Beside the exact effect of taking the part out", note=note))
        return Grid(shown, columns=1, title="Gradient × activation")

    def __repr__(self) -> str:
        beside = f"beside {len(self.exact.values)} exact ones, {_words(self.agreement)}"
        return f"GradientAttribution({self.attribution.values.numel()} estimates; {beside})"


def _price(model: Model, *, prompts: Prompt, sample: int = 20, **_: Any) -> float:
    """Tokens through the whole model: a forward with its backward, and the sample's cells."""
    return (3.0 + sample / 2) * sum(model.batch(prompts).lengths)


def _refuse(model: Model, *, of: str = "heads", **_: Any) -> None:
    require_parts(model, of, OF)


@method("gradient-attribution", title="Gradient × activation", group="attribution", tokens=_price, refuse=_refuse)
def gradient_attribution(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    of: Annotated[str, fields.choice(*OF)] = "heads",
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"), named=True)] = None,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    sample: Annotated[int, fields.count(low=0)] = 20,
    seed: Annotated[int, fields.seed()] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> GradientAttribution:
    """The metric's gradient times each part's activation: to first order, what setting the part to zero takes from the metric.

        attribution(part) = sum over the part of x . dm/dx   ~   m - m(part at zero)

    with m, x and the gradient of one run: a forward and a backward for all parts at once. An estimate: a softmax or a norm bends
    on the way to zero, and where it is flat at x the gradient says nothing. `rs.ablation_sweep` is exact.

    of: "heads" (z), "mlps" (mlp_out), "neurons" (mlp_post) or "resid" (resid_pre); each is summed over what belongs to it.
    positions: "all" summed, "each", a list, or the prompt set's names; unless said "each" for the stream, "all" for the rest.
    sample: how many parts are also set to zero, exactly: half of them the largest estimates, half drawn from the rest by `seed`.

        rs.gradient_attribution(model, prompt, rs.logit_diff(" Mary", " John")).attribution

    Raises:
        NoGradient, BadSweep, SiteError (the family has no such part), UnalignedPrompts, UnknownPosition, QuantisedModel,
        SweepCancelled.

    Shrikumar et al. 2017 (1605.01713); Michel et al. 2019 (1905.10650) for heads; Molchanov et al. 2017 (1611.06440), as pruning.
    """
    _refuse(model, of=of)
    batch, names = model.batch(prompts), prompts if isinstance(prompts, PromptSet) else None
    site = SITES[of]
    if positions is None:
        positions = "each" if of == "resid" else "all"
    cells = grid(model, site, layers=layers, positions=positions, tokens=batch, names=names)
    sites = list(dict.fromkeys(map(model.sites.canonical, cells.sites)))
    plan = sweep(model, prompts, [()], metric, background, memory=memory)
    base = plan.baseline()
    if base.ndim != 1:
        raise BadSweep("a gradient is of one number a prompt", received=f"shape {tuple(base.shape)}")
    places = None if positions == "all" else places_of(cells.coords["pos"], batch, names)
    with stage("Taking gradients", 1, progress, cancel, cancelled=SweepCancelled, interrupted=SweepInterrupted) as tell:
        found = plan.gradients([str(one) for one in sites])
        tell(1)
    shares = [per_part(found.values[one] * found.slopes[one], one, places) for one in sites]
    table = stacked(shares, axis=-1, fill=0.0) if of == "heads" else torch.stack(shares)
    worth = table.movedim(1, -1).double().cpu()
    if bool(worth.isnan().any()):
        raise NoGradient(
            "the metric has no gradient here", received=type(metric).__name__, fix="rs.ablation_sweep is exact"
        )
    dims, coords = labelled(cells, of, worth.shape[-2])
    flat = worth.flatten(0, -2)
    own = range(len(flat)) if cells.at is None else cells.at
    chosen = [own[i] for i in drawn(flat[[*own]], sample, seed)]
    if cells.at is not None:  # the heads that a layer lacks
        lacking = torch.ones(len(flat), dtype=torch.bool).index_fill(0, torch.tensor(cells.at), False)
        worth = worth.masked_fill(lacking.view(*worth.shape[:-1], 1), torch.nan)
    parts = [part_at(i, dims, coords) for i in chosen]
    cuts = [_cut(Site(site, part["layer"]), part, batch, names) for part in parts]
    exact = flat.new_empty(0, len(batch))
    if cuts:
        swept = plan.of([[cut] for cut in cuts]).run(progress, cancel, what="Taking a sample out, exactly")
        exact = base.double().cpu() - swept.values.double()
    strongest, estimate = (len(chosen) + 1) // 2, flat[chosen]
    about = {
        **model.provenance, "method": f"gradient x activation of {of}", "metric": label_of(metric, model),
        "baseline": base.tolist(), "seed": seed, "no effect": 0.0,
    }  # fmt: skip

    def result(values: Tensor, dims: tuple[str, ...], coords: Mapping[str, Any], **more: Any) -> Result:
        return Result(values, dims, coords, unit=unit_of(metric), provenance=about, **more)

    said = {"part": tuple(" ".join(f"{dim} {label}" for dim, label in part.items()) for part in parts)}
    several = len(batch) > 1
    name = f"gradient x activation on the {label_of(metric, model)}"
    words = "the effect of setting the part to zero, to first order by one gradient"
    return GradientAttribution(
        result(
            worth if several else worth[..., 0], (*dims, *(("prompt",) if several else ())), coords, along=cells.along,
            name=name, exact=words,
        ),
        result(exact, ("part", "prompt"), said, name=f"effect of the part on the {label_of(metric, model)}"),
        result(estimate, ("part", "prompt"), said, name=name, exact=words),
        strongest,
        correlations(estimate.flatten(), exact.flatten()),
        correlations(estimate[strongest:].flatten(), exact[strongest:].flatten()),
        about,
    )  # fmt: skip


def _cut(site: Site, part: Mapping[str, Any], batch: Batch, names: PromptSet | None) -> Edit:
    """The edit that sets a part to zero."""
    where = {name: label for name, label in part.items() if name in ("head", "neuron")}
    if not isinstance(part.get("pos"), str):
        return edits.ablate(str(site), **where, **{name: p for name, p in part.items() if name == "pos"})
    return _ZeroAt(site, tuple(places_of([part["pos"]], batch, names)[:, 0].tolist()), next(iter(where.values()), None))


@dataclass(frozen=True)
class _ZeroAt(Edit):
    """Zero at one position of each prompt, of one head or neuron where it is said."""

    site: Site
    where: tuple[int, ...]
    unit: int | None

    def places(self, table: SiteTable) -> list[Site]:
        return [table.canonical(self.site)]

    def apply(self, value: Tensor, at: At) -> Tensor:
        new = value.clone()
        whole = self.where if at.rows is None else [self.where[row] for row in at.rows]
        for row, place in enumerate(whole):
            if 0 <= place - at.offset < value.shape[1]:
                new[row, place - at.offset, slice(None) if self.unit is None else self.unit] = 0
        return new


def _words(agreement: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'unknown' if r is None else f'{r:.2f}'}" for name, r in agreement.items())
