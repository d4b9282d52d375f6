"""What an edit does: answers as they are, set to the true value, to the other one, and moved as far in a random direction.

After Intervening in the Residual Stream (2023).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.planner import Answers, ValuesAt, sweep
from residscope.engine.protocols import Edit
from residscope.errors import BadEdit
from residscope.methods._lib.answers import Flips, answer_ids, flips
from residscope.methods._lib.controls import as_far, lengths
from residscope.model.prompts import PromptSet
from residscope.probes import concepts
from residscope.probes.concept_edit import ConceptEdit
from residscope.probes.lrqp import lrqp
from residscope.probes.probe import Probe
from residscope.progress import Cancel, Progress, Tell, stage
from residscope.reports import Record, Report
from residscope.results import Result
from residscope.views import Grid, Histogram, Reference, Scatter, Table

Maker = Callable[[Probe, str], ConceptEdit]
"""An edit of what a probe reads, from the probe and what to set it to ("true", "other", a class ...)."""

QUANTILE = "LRQP, quantile 0.5"
METHODS: Mapping[str, Maker] = {
    "LRQP": lambda probe, to: lrqp(probe, to=to),
    QUANTILE: lambda probe, to: lrqp(probe, to=to, quantile=0.5),
    "mean difference": lambda probe, to: concepts.mean_difference(probe, to=to),
    "LEACE": lambda probe, to: concepts.leace(probe, to=to),
    "project out": lambda probe, to: concepts.project_out(probe, to=to),
    "constant dose": lambda probe, to: concepts.constant_dose(probe, to=to),
}
SPELLED = {"lrqp": "LRQP", "leace": "LEACE"}
UNITS = {
    "flip rate": "share", "mean shift": "logits", "control: mean absolute shift": "logits",
    "random direction: flip rate": "share", "Mahalanobis cost": "standard deviations", "off-cloud percentile": "percent",
    "KL": "nats", "change of answer mass": "nats",
}  # fmt: skip
ARMS = {"clean": None, "control": "true", "counterfactual": "other", "random direction": "other"}


@dataclass(frozen=True, eq=False)
class Arm(Record):
    """The prompts under one edit, a number for each.

    diff: logit(right) - logit(wrong) at the end, in logits. kl: KL(clean || edited) of the next token, in nats. mass:
    log(P(right) + P(wrong)), in nats: an edit that only changes which of the two is named keeps it, one that breaks the
    text loses it. cost: Mahalanobis length of the move, by the probe's total covariance. off_cloud: the share of the prompts'
    own unedited points that lie nearer to their nearest class mean (within-class covariance) than this point does; a real
    point's is spread evenly over 0 to 1.
    """

    kind: ClassVar[str] = "arm"
    diff: Float[Tensor, "prompt"]
    kl: Float[Tensor, "prompt"]
    mass: Float[Tensor, "prompt"]
    cost: Float[Tensor, "prompt"]
    off_cloud: Float[Tensor, "prompt"]


@dataclass(frozen=True, eq=False, repr=False)
class Intervention(Report):
    """One way of editing at one site, in arms: `clean`, `control` (set to the true value), `counterfactual` (the other one) and
    `random direction` (as far as the counterfactual, in Mahalanobis length, along a direction drawn from N(0, Sigma))."""

    kind: ClassVar[str] = "report:intervention"
    main: ClassVar[str] = "answers"
    name: str
    site: str
    position: str
    label: str
    arms: Mapping[str, Arm]
    texts: tuple[str, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def flips(self, arm: str = "counterfactual") -> Flips:
        """Of the prompts answered right, how many are not under this arm; see `answers.flips`."""
        return flips(self.arms["clean"].diff, self.arms[arm].diff)

    def numbers(self) -> dict[str, float]:
        """The row of a table. KL, mass, cost and off-cloud are the counterfactual's: means, but of off-cloud the median."""
        other, clean = self.arms["counterfactual"], self.arms["clean"]
        return {
            "flip rate": self.flips().rate,
            "mean shift": self.flips().mean_shift,
            "control: mean absolute shift": self.flips("control").mean_absolute_shift,
            "random direction: flip rate": self.flips("random direction").rate,
            "Mahalanobis cost": float(other.cost.mean()),
            "off-cloud percentile": 100 * float(other.off_cloud.median()),
            "KL": float(other.kl.mean()),
            "change of answer mass": float((other.mass - clean.mass).mean()),
        }

    @property
    def answers(self) -> Result:
        """The logit difference of every prompt in every arm, in logits."""
        values, coords = torch.stack([arm.diff for arm in self.arms.values()]), {"arm": tuple(self.arms)}
        return Result(
            values, ("arm", "prompt"), coords, name=f"logit difference, {self.name} at {self.site}", unit="logits",
            provenance=self.provenance,
        )  # fmt: skip

    def view(self) -> Grid:
        """The pictures, then every arm's flips and shifts, and the counterfactual's numbers with their units."""
        rows = [[name, value, UNITS[name]] for name, value in self.numbers().items()]
        table = Table(["counterfactual", "value", "unit"], rows, title=f"{self.label} set to the other value")
        control = self.scatter(("random direction",))
        pictures = [self.histogram(), self.scatter(), control, self.outcomes(), table]
        return Grid(pictures, title=f"{self.name} at {self.site}, {self.position}")

    def outcomes(self) -> Table:
        """Each edited arm: how many of the prompts answered right without it flip, with Wilson's 95 % interval; the shifts."""
        columns = ["arm", "flips", "of", "flip rate", "95 % low", "95 % high", "mean shift", "mean absolute shift"]
        rows: list[list[str | float | int | bool | None]] = []
        for arm in [name for name in self.arms if name != "clean"]:
            told = self.flips(arm)
            shifts = [told.mean_shift, told.mean_absolute_shift]
            rows.append([arm, told.flipped, told.right, told.rate if told.right else None, *told.interval, *shifts])
        note = "Shifts in logits, over all prompts. The random direction is drawn once, and goes as far as the counterfactual."
        return Table(columns, rows, title="Answers flipped", note=note)

    def histogram(self) -> Histogram:
        """Logit differences: control and counterfactual, in the colours that they have in the scatter, and clean."""
        shown = {name: self.arms[name].diff for name in ("control", "counterfactual", "clean")}
        return Histogram(
            shown,
            bins=40,
            title=f"Logit difference, {self.name} at {self.site}",
            x_title="logit difference",
            unit="logits",
            references=[Reference(0.0)],
            note=f"{self.label} at {self.position}; {len(self.arms['clean'].diff)} held-out prompts",
        )

    def scatter(self, arms: Sequence[str] = ("control", "counterfactual")) -> Scatter:
        """Logit difference after the edit against before it, arm by arm, each in the order of the prompts; the control should
        hug y = x."""
        clean, n = self.arms["clean"].diff, len(self.arms["clean"].diff)
        texts = None if self.texts is None else [*self.texts] * len(arms)
        title = f"{self.name} at {self.site}" if len(arms) > 1 else f"{arms[0]}, as far as {self.name} at {self.site}"
        return Scatter(
            torch.cat([clean] * len(arms)),
            torch.cat([self.arms[arm].diff for arm in arms]),
            groups=[arm for arm in arms for _ in range(n)],
            texts=texts,
            diagonal=True,
            title=title,
            x_title="clean",
            y_title="edited",
            unit="logits",
            references=[Reference(0.0, axis="y")],
        )

    def __repr__(self) -> str:
        edited = self.flips()
        return f"Intervention({self.name} at {self.site}, {self.position}: {edited.flipped} of {edited.right} flip)"


def price(
    model: Model,
    data: PromptSet,
    probes: Sequence[Probe],
    methods: Mapping[str, Maker] = METHODS,
    *,
    edits: Sequence[Edit] = (),
    **_: Any,
) -> float:
    """Tokens through the whole model, about: once unedited, then three arms a case from the layer that it edits on."""
    above = [1 - (model.sites.parse(probe.site).layer or 0) / model.n_layers for probe in probes]
    passes = len(edits) * max(above) if edits else len(methods) * sum(above)
    return sum(model.batch(data).lengths) * (1 + 3 * passes)


@method("intervene", title="Interventions beside each other", group="probes", tokens=price)
def intervene(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    probes: Annotated[Sequence[Probe], fields.probe(several=True)],
    methods: Mapping[str, Maker] = METHODS,
    *,
    edits: Annotated[Sequence[Edit], fields.edits(title="these edits alone")] = (),
    seed: Annotated[int, fields.seed()] = 0,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> tuple[Intervention, ...]:
    """Every method at every probe's site, in all arms, on prompts that the probes have not seen; the base run is shared.

        interventions = intervene(model, test, [probe], {"LRQP": METHODS["LRQP"]})
        interventions[0].flips().rate, interventions[0].flips("control").mean_absolute_shift, interventions[0].numbers()

    edits: instead of the methods, edits made from these probes: how far they go is kept, what they set is each arm's own, and
    they act at the probe's named position. The counterfactual of an edit to "neutral" is neutral.

    Raises:
        MissingLabel: no answers, or no such label. BadEdit: an edit that is made from none of the probes. UnknownPosition,
        WrongModel, Unreachable, SingularCovariance, Cancelled.
    """
    if not probes:
        raise BadEdit("interventions are made from probes", received=repr(probes), allowed="one or more")
    cases = [(name, make, probe) for probe in probes for name, make in methods.items()]
    if edits:
        cases = [_case(edit, probes) for edit in edits]
    cells: list[list[ConceptEdit]] = [[]]
    for i, (_, make, probe) in enumerate(cases):
        other = make(probe, "other")
        cells += [[make(probe, "true")], [other], [as_far(other, probe, seed=seed + i)]]
    of_cell = [None, *(probe for _, _, probe in cases for _ in range(3))]
    gathered = _Gathered(model, data, len(cells), probes)
    plan = sweep(model, data, cells, gathered.readout, batch=batch)
    for answers in plan.each(progress, cancel, what="Intervening"):
        gathered.take(answers, of_cell)
    gathered.close()
    with stage("Measuring the moves", len(of_cell), progress, cancel) as tell:
        arms = gathered.arms(of_cell, tell)
    about = {**model.provenance, "method": "intervene", "data": data.name, "held out": len(data), "seed": seed}
    interventions = []
    for i, (name, _, probe) in enumerate(cases):
        clean = gathered.clean(arms[0], probe)
        own = dict(zip(ARMS, [clean, *arms[1 + 3 * i : 4 + 3 * i]], strict=True))
        provenance = {**about, "C": probe.C, "probe": dict(probe.provenance)}
        interventions.append(Intervention(name, probe.site, probe.position, probe.label, own, data.texts, provenance))
    return tuple(interventions)


def _case(edit: Edit, probes: Sequence[Probe]) -> tuple[str, Maker, Probe]:
    """An edit as a method: the same one, set to whatever is asked for. Raises BadEdit."""
    own = [probe for probe in probes if isinstance(edit, ConceptEdit) and edit.is_of(probe)]
    if not isinstance(edit, ConceptEdit) or not own:
        raise BadEdit(
            "this edit is made from none of the probes",
            received=getattr(edit, "label", repr(edit))[:80],
            allowed="; ".join(f"edits of {probe.label} at {probe.position}, {probe.site}" for probe in probes),
        )
    return SPELLED.get(edit.method_name, edit.method_name.replace("_", " ")), lambda _, to: edit.over(to), own[0]


def compare(found: Sequence[Intervention]) -> dict[str, Result]:
    """Site x method tables: `flip rate` with Wilson's 95 % intervals, and each other number of `Intervention.numbers`.

    Raises KeyError where a method is missing at a site.
    """
    sites, names = (
        tuple(dict.fromkeys(getattr(intervention, part) for intervention in found)) for part in ("site", "name")
    )
    at = {(intervention.site, intervention.name): intervention for intervention in found}
    grid = [[at[site, name] for name in names] for site in sites]

    def result(name: str) -> Result:
        values = torch.tensor(
            [[intervention.numbers()[name] for intervention in row] for row in grid], dtype=torch.float64
        )
        ends = [[intervention.flips().interval for intervention in row] for row in grid]
        low, high = torch.tensor(ends, dtype=torch.float64).unbind(-1) if name == "flip rate" else (None, None)
        coords = {"site": sites, "method": names}
        about = found[0].provenance
        unit = UNITS[name]
        return Result(values, ("site", "method"), coords, name=name, unit=unit, low=low, high=high, provenance=about)

    return {name: result(name) for name in found[0].numbers()}


Place = tuple[str, str, int | None]


def _place(probe: Probe) -> Place:
    return probe.site, probe.position, probe.head


class _AtPlaces:
    """A readout: the end of each prompt's stream after the final norm, and the point that each probe reads."""

    def __init__(self, model: Model, data: PromptSet, probes: Sequence[Probe]) -> None:
        self._end = ValuesAt(model, data, {"final_norm": [-1] * len(data)})
        self._at = {_place(p): ValuesAt(model, data, {p.site: p.position}) for p in probes}
        self.sites = tuple(dict.fromkeys(["final_norm", *(site for at in self._at.values() for site in at.sites)]))

    def __call__(self, recording: Any) -> Float[Tensor, "batch value"]:
        end = self._end(recording)
        return torch.cat([end, *(at(recording).to(end) for at in self._at.values())], 1)

    def split(self, values: Float[Tensor, "prompt value"]) -> tuple[Tensor, dict[Place, Tensor]]:
        places, first = dict[Place, Tensor](), self._end.width
        for place, at in self._at.items():
            (value,) = at.split(values[:, first : first + at.width]).values()
            places[place] = value if place[2] is None else value[:, place[2]]
            first += at.width
        return values[:, : self._end.width], places


class _Gathered:
    """Per-prompt numbers of every cell, collected as the passes end; a batch is unembedded when all of it is there."""

    def __init__(self, model: Model, data: PromptSet, cells: int, probes: Sequence[Probe]) -> None:
        self.model, self.ids, self.probes = model, answer_ids(model, data), probes
        n = len(data)
        self.readout = _AtPlaces(model, data, probes)
        self.diff, self.kl, self.mass = (torch.zeros(cells, n) for _ in range(3))
        self.before: dict[Place, Tensor] = {}  # the unedited points
        self.after: dict[int, Tensor] = {}
        self._ends: dict[int | None, list[tuple[list[int], Tensor]]] = {}  # of the batch under way, by cell

    def take(self, answers: Answers, of_cell: Sequence[Probe | None]) -> None:
        if answers.cell is None:  # a new batch begins
            self.close()
        rows, (end, places) = list(answers.prompts), self.readout.split(answers.values)
        self._ends.setdefault(answers.cell, []).append((rows, end))
        probe = None if answers.cell is None else of_cell[answers.cell]
        if answers.cell is None:
            for p in self.probes:
                self._keep(self.before, _place(p), rows, places, p)
        elif probe is not None:
            self._keep(self.after, answers.cell, rows, places, probe)

    def close(self) -> None:
        """The numbers of the batch under way."""
        ends, self._ends = self._ends, {}
        if not ends:
            return
        ((base_rows, base_end),) = ends.pop(None)
        base, at = self._log_probs(base_end), {row: i for i, row in enumerate(base_rows)}
        for cell, parts in ends.items():
            assert cell is not None
            rows = [row for of_strand, _ in parts for row in of_strand]
            logp, own = self._log_probs(torch.cat([end for _, end in parts])), base[[at[row] for row in rows]]
            pair = logp.gather(1, self.ids[rows])
            self.diff[cell, rows] = (pair[:, 0] - pair[:, 1]).cpu()
            self.mass[cell, rows] = pair.logsumexp(1).cpu()
            self.kl[cell, rows] = (own.exp() * (own - logp)).sum(1).cpu()

    def _log_probs(self, end: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt d_vocab"]:
        with torch.no_grad():
            return self.model.layout.logits(end).float().log_softmax(-1)

    def _keep(
        self, vectors: dict[Any, Tensor], key: Any, rows: list[int], places: dict[Place, Tensor], probe: Probe
    ) -> None:
        value = places[_place(probe)].double().cpu()
        vectors.setdefault(key, torch.zeros(len(self.ids), value.shape[-1], dtype=torch.float64))[rows] = value

    def arms(self, of_cell: Sequence[Probe | None], tell: Tell) -> list[Arm]:
        none = torch.zeros(len(self.ids))
        arms = []
        for cell, probe in enumerate(of_cell):
            cost = off = none
            if probe is not None:
                before, after = self.before[_place(probe)], self.after[cell]
                cost = lengths(after - before, torch.linalg.cholesky(probe.covariance)).float()
                off = _share_nearer(_distance(after, probe), _distance(before, probe))
            arms.append(Arm(self.diff[cell], self.kl[cell], self.mass[cell], cost, off))
            tell(cell + 1)
        return arms

    def clean(self, arm: Arm, probe: Probe) -> Arm:
        """The unedited arm, with where its own points lie at this probe's site."""
        own = _distance(self.before[_place(probe)], probe)
        return Arm(arm.diff, arm.kl, arm.mass, arm.cost, _share_nearer(own, own))


def _distance(x: Float[Tensor, "prompt d"], probe: Probe) -> Float[Tensor, "prompt"]:
    """Mahalanobis distance to the nearest class mean, by the within-class covariance."""
    root = torch.linalg.cholesky(probe.within)
    return torch.stack([lengths(x - mean, root) for mean in probe.class_means]).amin(0)


def _share_nearer(distances: Float[Tensor, "prompt"], real: Float[Tensor, "prompt"]) -> Float[Tensor, "prompt"]:
    return torch.searchsorted(real.sort().values, distances.contiguous()).float() / len(real)
