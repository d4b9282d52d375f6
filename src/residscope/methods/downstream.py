"""What an edit does downstream: which class the outputs of later heads then report, and where later heads then look.

The seed's two questions of the IOI circuit, in Intervening in the Residual Stream (2023): do the S-inhibition heads report the
belief that was injected, and do the name movers look at S1 instead of IO?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.sinks import kept, streams
from residscope.methods.concept_edit import ConceptEdit
from residscope.methods.head_roles import LOOKED, Head
from residscope.methods.intervals import wilson
from residscope.methods.probe import Probe
from residscope.methods.probe_fit import fit
from residscope.methods.runs import cell_runs, named
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site
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
            title = f"Where the {group} look"
            looks.append(Curve(heads, lines, title=title, x_title="head", y_title="attention from END", unit="share"))
        return Grid([self.beliefs(), *looks], title=f"Later heads when {self.label} is edited")

    def means(self, group: str) -> Result:
        """Mean attention from END: head x arm x to."""
        return self.attention[group].mean("prompt")

    def looks(self, group: str, arms: Sequence[str] = ("control", "counterfactual")) -> Grid:
        """Attention from END to S1 against to IO, a point for each prompt and arm; one plot a head."""
        found = self.attention[group]
        here = [str(arm) for arm in found.coords["arm"]]
        plots = []
        for i, head in enumerate(found.coords["head"]):
            x, y, groups = [], [], []
            for arm in arms:
                values = found.values[i, here.index(arm)]
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
        return Grid(plots, columns=4, title=f"Where the {group} look")


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
    z = list(dict.fromkeys(f"z.{layer}" for layer, _ in readers))
    patterns = list(dict.fromkeys(f"pattern.{layer}" for layer, _ in heads))
    seen: dict[Head, Tensor] = {head: torch.zeros(len(train), model.d_head) for head in readers}
    usable = {site: torch.zeros(len(train), dtype=torch.bool) for site in z}
    capture: list[str | Site] = [*z, *dict.fromkeys(stream for site in z for stream in streams(model, site))]
    shared: dict[str, Any] = {"batch": batch, "progress": progress, "cancel": cancel}
    for one in cell_runs(model, train, [[]], capture, **shared, what="Recording heads, training half"):
        end = named(train, one.rows, ["END"])["END"]
        for layer, head in readers:
            seen[layer, head][one.rows] = one.at(f"z.{layer}", end)[:, head].float().cpu()
        for site in z:
            usable[site][one.rows] = kept(one.base, site).cpu()[torch.arange(len(end)), torch.tensor(end)]
    found = torch.zeros(len(readers), len(arms), len(test), model.d_head)
    looked = torch.zeros(len(heads), len(arms), len(LOOKED), len(test))
    cells, names = list(arms.values()), tuple(arms)
    for one in cell_runs(model, test, cells, [*z, *patterns], **shared, what="Running the edits"):
        at = named(test, one.rows, (*LOOKED, "END"))
        for i, (layer, head) in enumerate(readers):
            found[i, one.cell, one.rows] = one.at(f"z.{layer}", at["END"])[:, head].float().cpu()
        for i, (layer, head) in enumerate(heads):
            row = one.at(f"pattern.{layer}", at["END"])[:, head].float().cpu()
            for j, name in enumerate(LOOKED):
                looked[i, one.cell, j, one.rows] = row.gather(1, torch.tensor(at[name])[:, None])[:, 0]
    clean = names.index("clean")
    about = {**model.provenance, "method": "downstream", "train": len(train), "held out": len(test), "label": label}
    probes: dict[Head, Probe] = {}
    with stage("Fitting the heads' probes", len(readers), progress, cancel) as tell:
        for i, (layer, head) in enumerate(readers):
            probes[layer, head] = fit(
                seen[layer, head],
                found[i, clean],
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
    counts = torch.tensor([_right(probes[head], found[i], test.label(label)) for i, head in enumerate(readers)])
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


def _right(probe: Probe, z: Float[Tensor, "arm prompt d"], labels: Sequence[object]) -> list[int]:
    """Of each arm, how many prompts are read as their own class."""
    own = probe.indices(labels)
    return [int((probe.log_prob(x).argmax(-1) == own).sum()) for x in z]
