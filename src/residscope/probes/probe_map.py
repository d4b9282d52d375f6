"""A probe with all that belongs to it: its prompts and where they lie, and where else in the model its label can be read."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.items import Item
from residscope.model.prompts import PromptSet
from residscope.probes.probe import Probe
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Histogram, Reference, Scatter

BINS = 48
LEAST_REACH = 12.0  # nats to either side: past the e^10 that LRQP asks for


@dataclass(frozen=True, eq=False, repr=False)
class ProbeMap(Report):
    """A probe, what it says of each prompt, and its label's held-out accuracy elsewhere.

    accuracy: over position x site, with Wilson's 95 % intervals, of probes with this probe's C; NaN where it is not known yet and
    at each (site, position) of `unfitted`, where only first tokens and attention sinks stand. log_prob: log P(class), nats, over
    prompt x class. points: over prompt x axis, the prompts on the first two singular vectors (`axes`) of their activations,
    which were found without the label and have these `shares` of the variance about `centre`. held_out: the prompts that the
    fit has not seen.
    """

    kind: ClassVar[str] = "report:probe_map"
    main: ClassVar[str] = "accuracy"
    probe: Probe
    data: PromptSet
    held_out: tuple[int, ...]
    log_prob: Result
    points: Result
    axes: Float[Tensor, "axis d"]
    centre: Float[Tensor, "d"]
    shares: tuple[float, ...]
    accuracy: Result
    unfitted: tuple[tuple[str, str], ...]
    provenance: Mapping[str, Any]

    def part(self, name: str) -> PromptSet:
        """Its prompts: those "held_out" from the fit, those of the "training" half, or "all"."""
        if name == "all":
            return self.data
        held_out = {*self.held_out}
        rows = {
            "held_out": [*self.held_out],
            "training": [i for i in range(len(self.data)) if i not in held_out],
        }
        return self.data.subset(rows[name])

    @property
    def labels(self) -> list[str]:
        """Each prompt's own."""
        return [*map(str, self.data.label(self.probe.label))]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(map(str, self.accuracy.coords["site"]))

    @property
    def positions(self) -> tuple[str, ...]:
        return tuple(map(str, self.accuracy.coords["position"]))

    @property
    def done(self) -> bool:
        """Whether every cell of the map is known, or known to be none."""
        return int(self.accuracy.values.isnan().sum()) == len(self.unfitted)

    @property
    def blanks(self) -> int:
        """The cells of the map where no probe can be fitted."""
        return len(self.unfitted)

    @property
    def reach(self) -> float:
        """Nats to either side of zero within which every held-out prompt lies."""
        log_probs = self.log_prob.values[[*self.held_out]]
        most = max(float(margin(log_probs, k).abs().max()) for k in range(len(self.probe.classes)))
        return math.ceil(max(LEAST_REACH, 1.1 * most))

    def view(self) -> Grid:
        """The probe's own card, the map, the prompts, and how sure it is of each class."""
        shown = [*self.probe.view().views, self.map(), self.cloud(), *(self.margins(name) for name in self.shown)]
        return Grid(shown, columns=2)

    @property
    def shown(self) -> tuple[str, ...]:
        """The classes with a histogram of their own: of two, the second."""
        return self.probe.classes[-1:] if len(self.probe.classes) == 2 else self.probe.classes

    def map(self) -> HeatMap:
        """Held-out accuracy above the share of the commonest class, rows positions, columns layers."""
        probe, labels = self.probe, self.labels
        chance = max(Counter(labels[i] for i in self.held_out).values()) / len(self.held_out)
        assert self.accuracy.low is not None
        assert self.accuracy.high is not None
        values, low, high = (
            (x - chance).tolist() for x in (self.accuracy.values, self.accuracy.low, self.accuracy.high)
        )
        sinks = "Hatched: too few tokens but first ones and attention sinks." if self.unfitted else ""
        return HeatMap(
            values, self.positions, [site.split(".")[-1] for site in self.sites],
            title=f"Where {probe.label} can be read: held-out accuracy over chance ({chance:.0%})",
            column_title=f"layer of {probe.site.split('.')[0]}", unit="over chance", limit=max(1 - chance, 0.05),
            low=low, high=high, marks=[(self.positions.index(probe.position), self.sites.index(probe.site))],
            note=sinks if self.done else "Hatched: not fitted yet.",
        )  # fmt: skip

    @property
    def cloud_rows(self) -> list[int]:
        """Which prompt each point of `cloud` is: in the order of the classes, which gives each the colour of the histogram."""
        labels = self.labels
        return sorted(range(len(labels)), key=lambda i: self.probe.classes.index(labels[i]))

    def cloud(self) -> Scatter:
        """Every prompt on the first two singular vectors."""
        labels, texts, order = self.labels, self.data.texts, self.cloud_rows
        points = self.points.values[order]
        return Scatter(
            points[:, 0], points[:, 1] if points.shape[1] > 1 else torch.zeros(len(order)),
            groups=[labels[i] for i in order], texts=None if texts is None else [texts[i][-80:] for i in order],
            title="First two singular vectors", x_title=f"first ({self.shares[0]:.0%} of the variance)",
            y_title=f"second ({self.shares[1]:.0%})" if len(self.shares) > 1 else "second (none)",
            note="Every prompt; the vectors are found without the label, and without first tokens and attention sinks.",
        )  # fmt: skip

    def margins(self, name: str) -> Histogram:
        """log P(class) less that of the likeliest other, in nats, in held-out prompts of each class."""
        probe, reach, labels = self.probe, self.reach, self.labels
        k = probe.classes.index(name)
        margins = margin(self.log_prob.values[[*self.held_out]], k)
        own = [labels[i] for i in self.held_out]
        others = probe.classes[1 - k] if len(probe.classes) == 2 else "likeliest other"
        return Histogram(
            {known: margins[[label == known for label in own]] for known in probe.classes},
            bins=[-reach + 2 * reach * i / BINS for i in range(BINS + 1)],
            title="What the probe reads in prompts it has not seen", x_title=f"log P({name}) / P({others})", unit="nats",
            references=[Reference(0.0)],
        )  # fmt: skip

    def __repr__(self) -> str:
        known = int((~self.accuracy.values.isnan()).sum())
        return f"ProbeMap({self.probe!r}, mapped at {known} of {self.accuracy.values.numel()} places)"


def margin(log_prob: Float[Tensor, "n classes"], k: int) -> Float[Tensor, "n"]:
    """log P(class) less that of the likeliest other: for two classes, the log-odds."""
    others = log_prob.clone()
    others[:, k] = -torch.inf
    return log_prob[:, k] - others.max(1).values


def probe_in(item: Item) -> Probe | None:
    """The probe that an item is, or holds."""
    return item if isinstance(item, Probe) else item.probe if isinstance(item, ProbeMap) else None


def new_probe_id(probe: Probe, taken: Iterable[str]) -> str:
    """`order at S2, resid_mid.18`; numbered where another probe has, or had, that id."""
    taken, where = {*taken}, probe.site if probe.head is None else f"{probe.site} head {probe.head}"
    plain = f"{probe.label} at {probe.position}, {where}"
    return next(id for i in range(1, len(taken) + 2) if (id := plain if i == 1 else f"{plain} ({i})") not in taken)
