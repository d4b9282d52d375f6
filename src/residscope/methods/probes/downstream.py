"""What an edit does downstream: which class the outputs of later heads then report, and where later heads then look.

The seed's two questions of the IOI circuit, in Intervening in the Residual Stream (2023): do the S-inhibition heads report the
belief that was injected, and do the name movers look at S1 instead of IO?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.planner import ValuesAt, sweep
from residscope.engine.protocols import Edit
from residscope.engine.sinks import kept, streams
from residscope.errors import BadEdit
from residscope.methods._lib.intervals import wilson
from residscope.methods.heads.head_roles import LOOKED, Head
from residscope.methods.probes.probe_fit import fit
from residscope.model.prompts import PromptSet
from residscope.probes.concept_edit import ConceptEdit
from residscope.probes.probe import Probe
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Reference, Scatter


@dataclass(frozen=True, eq=False, repr=False)
class Downstream(Report):
    """Later heads under several arms of edits, at the end of the prompts.

    probes: of the label from each reader's output (`z` at END), fitted on unedited training prompts. reports[head, arm]: the
    share of held-out prompts for which its probe reads the prompt's own class, with Wilson's 95 % intervals: near 1 where
    nothing was injected, near 0 where the other class was and the head passes it on. attention[group][head, arm, to,
    prompt]: END's attention.
    """

    kind: ClassVar[str] = "report:downstream"
    main: ClassVar[str] = "reports"
    label: str
    probes: Mapping[Head, Probe]
    reports: Result
    attention: Mapping[str, Result]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def beliefs(self) -> Curve:
        """What each head reports, arm by arm."""
        assert self.reports.low is not None
        assert self.reports.high is not None
        lines = [
            Line(str(arm), self.reports.values[:, i], low=self.reports.low[:, i], high=self.reports.high[:, i])
            for i, arm in enumerate(self.reports.coords["arm"])
        ]
        return Curve(
            [str(head) for head in self.reports.coords["head"]],
            lines,
            title=f"Heads that still report the prompt's own {self.label}",
            x_title="head",
            y_title="share of prompts",
            references=[Reference(0.5, "chance", axis="y")],
        )

    def view(self) -> Grid:
        """What the heads report, and where the others look, on the mean over the prompts."""
        arms = [str(arm) for arm in self.reports.coords["arm"]]
        looks = []
        for group in self.attention:
            mean = self.means(group)
            heads = [str(head) for head in mean.coords["head"]]
            lines = [Line(f"{arm}, to {to}", mean.select(arm=arm, to=to).values) for arm in arms for to in ("IO", "S1")]
            title = f"Where {_named(group)} look"
            looks.append(Curve(heads, lines, title=title, x_title="head", y_title="attention from END", unit="share"))
        return Grid([self.beliefs(), *looks], title=f"Later heads when {self.label} is edited")

    def means(self, group: str) -> Result:
        """Mean attention from END: head x arm x to."""
        return self.attention[group].mean("prompt")

    def looks(self, group: str, arms: Sequence[str] = ("control", "counterfactual")) -> Grid:
        """Attention from END to S1 against to IO, a point for each prompt and arm; one plot a head."""
        attention = self.attention[group]
        here = [str(arm) for arm in attention.coords["arm"]]
        plots = []
        for i, head in enumerate(attention.coords["head"]):
            x, y, groups = [], [], []
            for arm in arms:
                values = attention.values[i, here.index(arm)]
                x += values[LOOKED.index("IO")].tolist()
                y += values[LOOKED.index("S1")].tolist()
                groups += [arm] * values.shape[1]
            plots.append(
                Scatter(
                    x,
                    y,
                    groups=groups,
                    diagonal=True,
                    title=f"{group}: {head}",
                    x_title="END to IO",
                    y_title="END to S1",
                )
            )
        return Grid(plots, columns=4, title=f"Where {_named(group)} look")


def downstream(
    model: Model,
    train: PromptSet,
    test: PromptSet,
    arms: Mapping[str, Sequence[ConceptEdit]],
    *,
    label: str,
    readers: Sequence[Head],
    movers: Mapping[str, Sequence[Head]],
    seed: int = 0,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Downstream:
    """Probe the `readers`' outputs and read the `movers`' attention, for every arm of edits (`{"clean": []}` among them).

        arms = {"clean": [], "control": [rs.lrqp(p, to="true")], "counterfactual": [rs.lrqp(p, to="other")]}
        downstream(model, train, test, arms, label="order", readers=roles.s_inhibition, movers={"name movers": roles.name_movers})

    Raises:
        OneClass, UnseenLabel, MissingLabel, UnknownPosition, Cancelled.
    """
    heads = tuple(dict.fromkeys((*readers, *(head for group in movers.values() for head in group))))
    z, patterns = (
        list(dict.fromkeys(f"{name}.{layer}" for layer, _ in of)) for name, of in (("z", readers), ("pattern", heads))
    )
    names = tuple(arms)
    before = _Usable(model, train, z)
    training = (
        sweep(model, train, [()], before, batch=batch)
        .run(progress, cancel, what="Recording heads, training half")
        .values[0]
    )
    ours, usable = before.split(training)
    seen = {(layer, head): ours[f"z.{layer}"][:, head] for layer, head in readers}
    at_end = ValuesAt(model, test, dict.fromkeys([*z, *patterns], "END"))
    plan = sweep(model, test, list(arms.values()), at_end, batch=batch)
    values = at_end.split(plan.run(progress, cancel, what="Running the edits").values.float().cpu())
    outputs = torch.stack([values[f"z.{layer}"][:, :, head] for layer, head in readers])
    rows = torch.stack([values[f"pattern.{layer}"][:, :, head] for layer, head in heads])
    keys = torch.tensor([test.at(name) for name in LOOKED])  # [to, prompt]
    looked = torch.stack([rows[:, :, torch.arange(len(test)), to] for to in keys], 2)
    clean = names.index("clean")
    about = {**model.provenance, "method": "downstream", "train": len(train), "held out": len(test), "label": label}
    probes: dict[Head, Probe] = {}
    with stage("Fitting the heads' probes", len(readers), progress, cancel) as tell:
        for i, (layer, head) in enumerate(readers):
            probes[layer, head] = fit(
                seen[layer, head],
                outputs[i, clean],
                train.label(label),
                test.label(label),
                first=[at == 0 for at in train.at("END")],
                sinks=~usable[f"z.{layer}"],
                seed=seed,
                progress=False,
                cancel=cancel,
                site=f"z.{layer}",
                position="END",
                label=label,
                head=head,
                provenance={"model": model.hash},
            )
            tell(i + 1)
    counts = torch.tensor([_right(probes[head], outputs[i], test.label(label)) for i, head in enumerate(readers)])
    coords: dict[str, Any] = {"head": [f"{a}.{b}" for a, b in readers], "arm": names}
    low, high = torch.tensor([[wilson(k, len(test)) for k in row] for row in counts.tolist()]).unbind(-1)
    reports = Result(
        counts / len(test),
        ("head", "arm"),
        coords,
        name=f"reports its own {label}",
        unit="share",
        low=low,
        high=high,
        provenance=about,
    )

    def of_group(name: str) -> Result:
        own = movers[name]
        coords = {"head": [f"{a}.{b}" for a, b in own], "arm": names, "to": LOOKED}
        values = looked[[heads.index(head) for head in own]]
        return Result(
            values, ("head", "arm", "to", "prompt"), coords, name=f"attention of {name} from END", unit="share",
            provenance=about,
        )  # fmt: skip

    return Downstream(label, probes, reports, {name: of_group(name) for name in movers}, about)


def price(model: Model, train: PromptSet, data: PromptSet, edit: Sequence[Edit], **_: Any) -> float:
    """Tokens through the whole model, about: each half once, and two arms from the edits' layer on."""
    lowest = min((s.layer or 0) for one in edit for s in one.places(model.sites)) if edit else 0
    tokens, seen = (sum(model.batch(prompts).lengths) for prompts in (data, train))
    return seen + tokens * (1 + 2 * (1 - lowest / model.n_layers))


@method("downstream", title="What an edit does to later heads", group="probes", tokens=price)
def later_heads(
    model: Model,
    train: Annotated[PromptSet, fields.prompts(labelled=True)],
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    edit: Annotated[Sequence[Edit], fields.edits()],
    *,
    label: Annotated[str, fields.name(of="label")],
    readers: Annotated[Mapping[str, Sequence[Head]], fields.head_group(title="heads whose output is probed")],
    movers: Annotated[Mapping[str, Sequence[Head]], fields.head_group(title="heads whose attention is read")],
    seed: Annotated[int, fields.seed()] = 0,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Downstream:
    """What edits made from probes do to later heads at the ends of `data`, in three arms: clean, control (set to the true value)
    and counterfactual (to the other).

    The heads' own probes are fitted to `train`, unedited. Every edit keeps its strength; what it sets is the arm's.

        later_heads(model, train, test, [rs.lrqp(probe)], label="order", readers={"S": [(20, 0)]}, movers={"N": [(23, 0)]})

    Raises:
        BadEdit: an edit that is made from no probe. OneClass, UnseenLabel, MissingLabel, UnknownPosition, Cancelled.
    """
    for groups in (readers, movers):
        if not isinstance(groups, Mapping) or not all(groups.values()) or not groups:
            raise BadEdit(
                "groups of heads have names, and heads",
                received=repr(groups)[:80],
                allowed='{"name movers": [(9, 6), (9, 9)]}',
            )
    strange = [one for one in edit if not isinstance(one, ConceptEdit)]
    made = [one for one in edit if isinstance(one, ConceptEdit)]
    if strange or not made:
        raise BadEdit(
            "the arms set what a probe reads, so each edit has to be made from one",
            received=getattr(strange[0], "label", repr(strange[0]))[:80] if strange else "no edit",
            allowed="edits such as rs.lrqp and rs.concepts.leace",
        )
    arms = {
        "clean": [],
        "control": [one.over("true") for one in made],
        "counterfactual": [one.over("other") for one in made],
    }
    heads = list(dict.fromkeys(head for group in readers.values() for head in group))
    how: dict[str, Any] = {"seed": seed, "batch": batch, "progress": progress, "cancel": cancel}
    return downstream(model, train, data, arms, label=label, readers=heads, movers=movers, **how)


def _named(group: str) -> str:
    """A group in the middle of a sentence."""
    return group if group.startswith("these ") else f"the {group}"


class _Usable:
    """A readout at END: what stands at some sites, and whether a statistic of each may use that token."""

    def __init__(self, model: Model, data: PromptSet, sites: Sequence[str]) -> None:
        self._values = ValuesAt(model, data, dict.fromkeys(sites, "END"))
        self._ends = torch.tensor(data.at("END"))
        self._of = tuple(sites)
        known = dict.fromkeys(stream for site in sites for stream in streams(model, site))
        self.sites = (*sites, *map(str, known))

    def __call__(self, recording: Any) -> Float[Tensor, "batch value"]:
        rows = recording.batch.rows
        ends = (self._ends if rows is None else self._ends[list(rows)]).to(recording.tokens.device)
        usable = [kept(recording, site)[torch.arange(len(ends), device=ends.device), ends] for site in self._of]
        values = self._values(recording)
        return torch.cat([values, torch.stack(usable, 1).to(values)], 1)

    def split(
        self, values: Float[Tensor, "prompt value"]
    ) -> tuple[dict[str, Tensor], dict[str, Bool[Tensor, "prompt"]]]:
        own, usable = torch.split(values.float().cpu(), [values.shape[1] - len(self._of), len(self._of)], 1)
        return self._values.split(own), {site: usable[:, i] > 0 for i, site in enumerate(self._of)}


def _right(probe: Probe, z: Float[Tensor, "arm prompt d"], labels: Sequence[object]) -> list[int]:
    """Of each arm, how many prompts are read as their own class."""
    own = probe.indices(labels)
    return [int((probe.log_prob(x).argmax(-1) == own).sum()) for x in z]
