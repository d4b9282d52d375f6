"""What validating a graph found, as an item: the numbers, and a verdict for each claim."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, expm1
from typing import Any, ClassVar

import pandas
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.graph.validation import claims
from residscope.methods._lib.badges import Badge
from residscope.methods._lib.intervals import middle
from residscope.reports import Record, Report
from residscope.views import Curve, Grid, Histogram, Line, Reference, Table, View

RUNS = ("whole", "without the graph", "only the graph", "no feature")


@dataclass(frozen=True, eq=False)
class Outcome(Record):
    """The next token of one run: log_prob of the target, and kl = KL(whole run || this run), both in nats."""

    kind: ClassVar[str] = "graph_outcome"
    log_prob: float
    kl: float

    @property
    def probability(self) -> float:
        return exp(self.log_prob)


@dataclass(frozen=True, eq=False)
class Control(Record):
    """Other sets, drawn as `about` says, each taken out as the graph is: the target's log_prob and KL(whole || without), in nats.

    sets: the node ids of each draw; none for directions. matched: how long what they write is, as a share of the graph's (median
    over draws; NaN where they were not matched). kept: the log_prob with only the draw's features kept; None where that was not
    tried.
    """

    kind: ClassVar[str] = "graph_control"
    name: str
    about: str
    log_prob: Float[Tensor, " draw"]
    kl: Float[Tensor, " draw"]
    sets: tuple[tuple[str, ...], ...] = ()
    matched: float = float("nan")
    kept: Float[Tensor, " draw"] | None = None


@dataclass(frozen=True, eq=False)
class InContext(Record):
    """Another prompt: its own likeliest next token, its log-probability before and after the graph's features are taken out
    wherever they are active there, KL(before || after), in nats, and how many of them are active."""

    kind: ClassVar[str] = "graph_in_context"
    prompt: str
    token: str
    before: float
    after: float
    kl: float
    active: int

    @property
    def lost(self) -> float:
        """The share of the token's probability that goes."""
        return -expm1(self.after - self.before)


@dataclass(frozen=True, eq=False)
class Elsewhere(Record):
    """The graph's features taken out of texts that have nothing to do with it: KL(whole || without) of each one's next token.

    active: how many of the features are active in each text. by_number[n, text]: the same with the first n + 1 circuits out.
    """

    kind: ClassVar[str] = "graph_elsewhere"
    origin: str
    kl: Float[Tensor, " text"]
    active: Int[Tensor, " text"]
    by_number: Float[Tensor, "number text"]


@dataclass(frozen=True, eq=False, repr=False)
class Validation(Report):
    """Whether some nodes of a causal graph do what the graph says, on one prompt and one next token, the target.

    whole, without, only, none: the run as it is; without the nodes; with all other features of their dictionaries taken out; with
    all features taken out. What the dictionaries leave out stays in all of them. dose: the target's log-probability with the
    nodes held at each of `scales` times what they are in the whole run. controls: other sets, taken out likewise. contexts: other
    prompts. elsewhere: unrelated texts. circuits: node ids of each. missing: why a part is None or empty.
    """

    kind: ClassVar[str] = "report:validation"
    prompt: tuple[str, ...]
    target: str
    nodes: tuple[str, ...]
    whole: Outcome
    without: Outcome
    only: Outcome
    none: Outcome
    scales: tuple[float, ...]
    dose: Float[Tensor, " scale"]
    controls: tuple[Control, ...]
    contexts: tuple[InContext, ...] = ()
    elsewhere: Elsewhere | None = None
    circuits: tuple[tuple[str, ...], ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> float:
        """The share of the target's probability that goes with the nodes: (p - p') / p. 1 is all of it; below zero, it rises."""
        return -expm1(self.without.log_prob - self.whole.log_prob)

    @property
    def faithfulness(self) -> float:
        """(m(only) - m(none)) / (m(whole) - m(none)), m the target's log-probability (Marks et al., 2024, arXiv:2403.19647)."""
        return self._share(self.only.log_prob)

    @property
    def completeness(self) -> float:
        """The same of the complement, the whole run without the nodes: near 0 where the nodes are all there is."""
        return self._share(self.without.log_prob)

    def _share(self, log_prob: float) -> float:
        gap = self.whole.log_prob - self.none.log_prob
        return (log_prob - self.none.log_prob) / gap if gap else float("nan")

    def control(self, name: str) -> Control | None:
        """One kind of control, where it could be drawn: "active", "index" or "directions"."""
        return next((one for one in self.controls if one.name == name), None)

    @cached_property
    def claims(self) -> tuple[Badge, ...]:
        """A verdict for each: necessary, sufficient, beyond controls, dose-dependent, specific, stable."""
        return claims.of(self)

    @property
    def means(self) -> bool | None:
        """Whether every claim that was tested was shown; None where none could be."""
        tested = [claim.shown for claim in self.claims if claim.shown is not None]
        return all(tested) if tested else None

    def to_dataframe(self) -> pandas.DataFrame:
        """The four runs: the target's probability, that as a share of the whole run's, its log-probability, KL(whole || run)."""
        runs = (self.whole, self.without, self.only, self.none)
        return pandas.DataFrame(
            {
                "run": RUNS,
                "probability": [run.probability for run in runs],
                "share": [exp(run.log_prob - self.whole.log_prob) for run in runs],
                "log_prob": [run.log_prob for run in runs],
                "kl": [run.kl for run in runs],
            }
        )

    def view(self) -> Grid:
        """The verdicts, the four runs, doses and controls, then other texts."""
        runs = self.to_dataframe()
        rows = [[*row] for row in runs.itertuples(index=False)]
        columns = ["run", f"p({self.target.strip()})", "share of the whole run's", "log p", "KL from the whole run"]
        note = "what the dictionaries leave out stays in every run"
        shown: list[View] = [
            self._verdicts(),
            Table(columns, rows, title="The target", note=note),
            *(claim.view() for claim in self.claims),
        ]
        if len(self.scales) > 1:
            shown.append(self._dose())
        shown += [self._histogram(control) for control in self.controls]
        if self.contexts:
            table = [[c.prompt, c.token, exp(c.before), exp(c.after), -c.lost, c.kl, c.active] for c in self.contexts]
            names = ["prompt", "token", "p", "p without", "change, as a share", "KL", "features active"]
            shown.append(Table(names, table, title="In other contexts"))
        if self.elsewhere is not None:
            shown += self._elsewhere(self.elsewhere)
        return Grid(
            shown, columns=2, title=f"{len(self.nodes)} nodes, {self.target!r} after {''.join(self.prompt)[-60:]!r}"
        )

    def _verdicts(self) -> Table:
        rows = []
        for claim in self.claims:
            what, low, high = claims.STANDS_ON[claim.claim]
            numbers = [claim.numbers.get(name) for name in (what, low, high)]
            rows.append([claim.claim, claim.said, what, *numbers])
        note = "from, to: what 95 % of the controls reach, or the 95 % interval"
        columns = ["claim", "verdict", "number", "value", "from", "to"]
        return Table(columns, rows, title="Does it mean anything?", note=note)

    def _dose(self) -> Curve:
        return Curve(
            [*self.scales],
            [Line(self.target, self.dose.tolist())],
            title="Nodes held at a multiple of what they are",
            x_title="scale",
            y_title=f"log p({self.target.strip()})",
            unit="nats",
            references=[Reference(self.none.log_prob, "no feature", axis="y")],
        )

    def _histogram(self, control: Control) -> Histogram:
        drop = self.whole.log_prob - control.log_prob
        return Histogram(
            {control.about: drop},
            bins=20,
            title=f"How far it falls without {control.about}",
            x_title=f"log p({self.target.strip()})",
            unit="nats",
            references=[Reference(self.whole.log_prob - self.without.log_prob, "the graph's nodes")],
        )

    def _elsewhere(self, other: Elsewhere) -> list[View]:
        found: list[View] = [
            Histogram(
                {"unrelated texts": other.kl},
                bins=20,
                title="KL in unrelated texts",
                x_title="KL(whole || without)",
                unit="nats",
                references=[Reference(self.without.kl, "in its own prompt")],
                note=f"{other.origin} of {self.provenance.get('texts', 'texts')}",
            )
        ]
        if len(other.by_number) > 1:
            low, high = middle(other.by_number, level=0.5)
            n = [*range(1, len(other.by_number) + 1)]
            lines = [
                Line("median", other.by_number.median(1).values.tolist(), low=low.tolist(), high=high.tolist()),
                Line("95 % of texts", torch.quantile(other.by_number, 0.95, dim=1).tolist(), dashed=True),
            ]
            found.append(
                Curve(
                    n, lines, title="Collateral: circuits taken out together", x_title="circuits", unit="nats",
                    y_title="KL in unrelated texts", note="band: the middle half of the texts",
                )
            )  # fmt: skip
        return found

    def __repr__(self) -> str:
        shown = [claim.claim.lower() for claim in self.claims if claim.shown]
        tested = sum(claim.shown is not None for claim in self.claims)
        names = f": {', '.join(shown)}" if shown else ""
        return f"Validation({self.target!r}, {len(self.nodes)} nodes: {len(shown)} of {tested} claims shown{names})"
