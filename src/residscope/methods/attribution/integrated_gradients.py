"""Integrated gradients: the metric's change from a baseline, shared out over tokens, heads, MLPs or neurons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.naming import label_of, unit_of
from residscope.engine.protocols import Edit, Readout
from residscope.engine.recording import Recording
from residscope.engine.sinks import streams
from residscope.errors import BadArguments, NotComplete, PromptError, UnalignedPrompts
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.cells import Cells, Positions, grid
from residscope.methods._lib.parts import SITES, labelled, largest, per_part, places_of, require_parts
from residscope.methods._lib.ways import Panel, Way
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Table, TokenStrip, View

OF = ("inputs", "heads", "neurons", "mlps", "resid")
BASELINES = ("zero", "mean", "prompt")


@dataclass(frozen=True, eq=False, repr=False)
class IntegratedGradients(Report):
    """The metric's change from the baseline, shared out.

    attribution: over positions for the inputs; else over layer, position where asked, and head or neuron. Of each way (the
    inputs together, or one layer's site): change, m(x) - m(baseline), measured; gap, what the attributions of the way, at all
    positions, sum to less that; points, how many runs the integral took. prompt: the tokens.
    """

    kind: ClassVar[str] = "report:integrated_gradients"
    main: ClassVar[str] = "attribution"
    prompt: tuple[str, ...]
    attribution: Result
    change: Result
    gap: Result
    points: tuple[int, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """On the text, as a map, or as a table of the largest; and how near each way's sum comes."""
        found, unit = self.attribution, self.attribution.unit
        shown: View = found.view()
        if found.dims == ("pos",) and len(found.values) == len(self.prompt):
            shown = TokenStrip(list(self.prompt), found.values, title="Integrated gradients", unit=unit)
        elif "neuron" in found.dims:
            shown = largest(found, "integrated gradient")
        rows: list[list[Any]] = [
            [way, change + gap, change, gap, points]
            for way, change, gap, points in zip(
                self.change.coords["way"],
                self.change.values.tolist(),
                self.gap.values.tolist(),
                self.points,
                strict=True,
            )
        ]
        columns = ["along", f"sum, {unit}", f"change of the metric, {unit}", f"gap, {unit}", "points"]
        return Grid(
            [shown, Table(columns, rows, title="The sum, and what it is to be")],
            columns=1,
            title="Integrated gradients",
        )

    def __repr__(self) -> str:
        gap, change = float(self.gap.values.abs().max()), float(self.change.values.abs().max())
        said = f"off by {gap:.2g} {self.gap.unit} at most, of {change:.3g}"
        return f"IntegratedGradients({self.attribution.values.numel()} parts; {said})"


def _price(model: Model, *, prompt: Prompt, of: str = "inputs", steps: int = 8, **asked: Any) -> float:
    """Tokens through the whole model, about: a forward and backward for each point, from the layer on."""
    layers = asked.get("layers") or range(model.n_layers)
    ways = 1.0 if of == "inputs" else len(layers) / 2
    return (2 + 3.0 * ways * 2 * steps) * sum(model.batch(prompt).lengths)


def _refuse(model: Model, *, of: str = "inputs", baseline: str = "zero", over: Any = None, **_: Any) -> None:
    require_parts(model, of, OF)
    if baseline not in BASELINES:
        raise BadArguments("there is no such baseline", received=repr(baseline), allowed=", ".join(BASELINES))
    if (over is None) != (baseline == "zero"):
        raise BadArguments(
            "a baseline of zero is of no prompts" if over is not None else f'the baseline "{baseline}" is of prompts',
            received="over=None" if over is None else "over= with a baseline of zero",
            fix='say over=, and baseline="mean" or "prompt"',
            on_page="say the baseline's prompts, and whether it is their mean",
        )


@method("integrated-gradients", title="Integrated gradients", group="attribution", tokens=_price, refuse=_refuse)
def integrated_gradients(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    metric: Annotated[Readout, fields.metric()],
    *,
    of: Annotated[str, fields.choice(*OF)] = "inputs",
    baseline: Annotated[str, fields.choice(*BASELINES)] = "zero",
    over: Annotated[Any, fields.prompts(begin="typed", when=("baseline", ("mean", "prompt")))] = None,
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"), named=True)] = None,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    steps: Annotated[int, fields.count(low=1, high=256)] = 8,
    tolerance: Annotated[float, fields.number(low=0.0)] = 0.05,
    most: Annotated[int, fields.count(low=1, high=100_000)] = 512,
    progress: Progress = None,
    cancel: Cancel = None,
) -> IntegratedGradients:
    """The metric's change from a baseline x' to the run's own x, as a sum over parts: the gradient's mean along the straight way.

        attribution(part) = sum over the part of (x - x') . integral from 0 to 1 of dm/dx at x' + t (x - x')  dt
        sum of the attributions = m(x) - m(x')

    of: "inputs" (the tokens' embeddings), or "heads" (z), "mlps" (mlp_out), "neurons" (mlp_post), "resid" (resid_pre): of these
    one layer's at a time, all its positions together and later layers following, so that each layer sums to what its own
    baseline costs. baseline: "zero"; the "mean" over data, as in `edits.ablate`; or another "prompt" of as many tokens; `over`
    gives the data or the prompt. positions: as in `rs.gradient_attribution`, "each" for the inputs; those left out share too.

    The integral is Gauss and Legendre's with `steps` points. Where the sum is off by over `tolerance` of the change (or of a
    hundredth of what its positions have, where they cancel), the pieces of the way that are furthest off are halved, and
    again, to `most` points at most.

        rs.integrated_gradients(model, prompt, rs.logit_diff(" Mary", " John"), baseline="prompt", over=corrupted)

    Raises:
        NotComplete: still off by more. BadArguments, PromptError (several prompts), UnalignedPrompts (another length),
        NoGradient, SiteError, QuantisedModel, Cancelled.

    Sundararajan et al. 2017 (1703.01365); Dhamdhere et al. 2018 (1805.12233) within a model; Hanna et al. 2024 (2403.17806).
    """
    _refuse(model, of=of, baseline=baseline, over=over)
    batch, names = model.batch(prompt), prompt if isinstance(prompt, PromptSet) else None
    if len(batch) != 1:
        raise PromptError(
            "integrated gradients are of one prompt", received=f"{len(batch)} prompts", fix="ask for each"
        )
    if positions is None:
        positions = "each" if of in ("inputs", "resid") else "all"
    cells = _cells(model, of, layers, positions, batch, names)
    sites = list(dict.fromkeys(map(model.sites.canonical, cells.sites)))
    before = tied(background, prompt)
    held = [Site("resid_pre", s.layer) for s in sites if s.layer is not None]
    record = model.run(batch, capture=[*sites, *held], edits=before)
    starts = _baseline(model, record, sites, baseline, over, before)
    places = None if positions == "all" else places_of(cells.coords["pos"], batch, names)
    shares, rows, points = [], [], []
    with stage("Integrating gradients", len(sites), progress, cancel) as tell:
        for number, one in enumerate(sites):
            way = Way(record, metric, one, starts[one][0])
            panels = way.integrate(steps, most, tolerance, tell)
            own = way.change * way.slope(panels)
            change = way.changed(panels)
            _require(way, panels, tolerance, most)
            shares.append(per_part(own[None], one, places)[0].cpu())
            rows.append((change, float(own.sum()) - change))
            points.append(way.points)
            tell(number + 1)
    heads = cells.dims[-1] == "head"
    values = shares[0] if of == "inputs" else stacked(shares, axis=-1) if heads else torch.stack(shares)
    dims, coords = labelled(cells, of, values.shape[-1] if values.ndim else 0)
    about = {
        **model.provenance, "method": f"integrated gradients of {of}", "metric": label_of(metric, model), "baseline": baseline,
        "steps": steps, "tolerance": tolerance, "points": points, "no effect": 0.0,
    }  # fmt: skip

    def result(values: Tensor, dims: tuple[str, ...], coords: Mapping[str, Any], name: str, **more: Any) -> Result:
        said: dict[str, Any] = {"unit": unit_of(metric), "provenance": about, **more}
        return Result(values, dims, coords, name=f"{name} {label_of(metric, model)}", **said)

    ways = {"way": tuple(map(str, sites))}
    numbers = torch.tensor(rows, dtype=torch.float64)
    return IntegratedGradients(
        tuple(model.token_texts(batch.ids[0].tolist())),
        result(values, dims, coords, "integrated gradients of the", along=cells.along),
        result(numbers[:, 0], ("way",), ways, "change of the"),
        result(numbers[:, 1], ("way",), ways, "gap in the sum of the"),
        tuple(points),
        about,
    )


def _cells(
    model: Model, of: str, layers: Sequence[int] | None, positions: Positions, batch: Batch, names: PromptSet | None
) -> Cells:
    """The parts by layer, position and head; the inputs by position alone."""
    cells = grid(
        model,
        "resid_pre" if of == "inputs" else SITES[of],
        layers=layers,
        positions=positions,
        tokens=batch,
        names=names,
    )
    if of != "inputs":
        return cells
    if layers is not None:
        raise BadArguments("inputs have no layer", received=f"layers={layers}", fix="leave layers= out")
    dims = tuple(dim for dim in cells.dims if dim != "layer")
    coords = {name: labels for name, labels in cells.coords.items() if name != "layer"}
    return Cells(dims, coords, cells.along, (Site("embed"),), ({},))


def _baseline(
    model: Model, record: Recording, sites: Sequence[Site], baseline: str, over: Any, before: Sequence[Edit]
) -> dict[Site, Tensor]:
    """What stands at each site at the other end of its way."""
    if baseline == "zero":
        return {site: torch.zeros_like(record[site]) for site in sites}
    if baseline == "prompt":
        other = model.batch(over)
        if other.lengths != record.lengths:
            raise UnalignedPrompts(
                "the baseline's tokens are to stand for the prompt's, one for one",
                received=f"{other.lengths} tokens for {record.lengths[0]}", fix="choose a prompt of as many tokens",
            )  # fmt: skip
        run = model.run(other, capture=sites, edits=before)
        return {site: run[site] for site in sites}
    data = over
    if not isinstance(data, Recording):
        data = model.run(over, capture=dict.fromkeys(s for at in sites for s in (at, *streams(model, at))))
    found = {}
    for site in sites:
        mean = edits.ablate(str(site), to="mean", over=data)
        found[site] = model.run(record.batch, capture=[site], edits=[*before, mean])[site]
    return found


def _require(way: Way, panels: Sequence[Panel], tolerance: float, most: int) -> None:
    """Raise NotComplete where the sum is further off than is allowed."""
    off, allowed = way.off([*panels]), way.allowed([*panels], tolerance)
    if off > allowed:
        raise NotComplete(
            f"the integrated gradients at {way.site} do not sum to the metric's change",
            received=f"off by {off:.3g} of {way.changed([*panels]):.3g}, after {way.points} points",
            allowed=f"off by {allowed:.3g}",
            fix="choose a baseline nearer to the run, such as another prompt; or more points (most=), or a larger tolerance",
        )
