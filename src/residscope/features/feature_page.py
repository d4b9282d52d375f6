"""The page of one feature: where it is active, how strongly, what it writes, who is near it, and what taking it out does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.examples import Interval
from residscope.corpus.harvest.statistics.bins import edges
from residscope.corpus.harvest.statistics.example import Example
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.features.atlas import Atlas
from residscope.features.removal import Effects
from residscope.features.removal import effects as effects_of
from residscope.methods._lib.own_tokens import OwnTokens, own_tokens
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.views import Card, Context, Contexts, Curve, Grid, Line, Table, View

NEAREST = 12
PER_INTERVAL = 3  # examples of each interval on the page


@dataclass(frozen=True, eq=False, repr=False)
class FeaturePage(Report):
    """All that is known of one feature. Examples: the highest tokens, the lowest where values go below zero, drawn ones.

    nearest: features of the same dictionary by the cosine of what they write: number, name, cosine. partners: those that fire
    where it does beyond chance: number, name, P(partner | it). effects: of the examples, the highest ones first, then the drawn
    ones, in the order of `shown`; None until they are measured. bars: edges and counts of its histogram.
    """

    kind: ClassVar[str] = "report:feature_page"
    address: str
    label: str
    place: str
    index: int
    density: float
    highest: float
    mean_active: float
    tokens: OwnTokens | None
    top: tuple[Example, ...]
    bottom: tuple[Example, ...]
    intervals: tuple[Interval, ...]
    edges: Float[Tensor, " edge"]
    counts: Int[Tensor, " bin"]
    nearest: tuple[tuple[int, str, float], ...]
    partners: tuple[tuple[int, str, float], ...]
    effects: Effects | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[Example, ...]:
        """The examples whose effects are measured: the highest, the lowest, then those of the intervals from the top down."""
        drawn = [example for interval in reversed(self.intervals) for example in interval.examples[:PER_INTERVAL]]
        return (*self.top, *self.bottom, *drawn)

    @property
    def unit(self) -> str:
        return "activation" if not self.bottom else "x·d"

    def contexts(
        self, examples: Sequence[Example], first: int, title: str, note: str = "", *, limit: float
    ) -> Contexts:
        """Examples as lines of text; `first`: the number of the first of them in `shown`."""
        columns = [self.unit, "helps next", "KL", "raises most"] if self.effects is not None else [self.unit]
        rows = [
            Context(one.tokens, one.values, one.at, [one.value, *self._effect(first + i)])
            for i, one in enumerate(examples)
        ]
        scale: Any = "diverging" if self.bottom else "sequential"
        return Contexts(rows, columns, title=title, unit=self.unit, scale=scale, limit=limit, note=note)

    def _effect(self, i: int) -> list[Any]:
        if self.effects is None:
            return []
        text, by = self.effects.raised[i]
        return [float(self.effects.gain[i]), float(self.effects.kl[i]), f"{text} {by:+.2f}"]

    def examples(self) -> Grid:
        """All examples: the highest, the lowest, then intervals from the top down, each with its share of the tokens."""
        limit = max([abs(v) for one in self.shown for v in one.values if v == v] or [1.0])
        shown: list[View] = [self.contexts(self.top, 0, "Highest", limit=limit)]
        first = len(self.top)
        if self.bottom:
            shown.append(self.contexts(self.bottom, first, "Lowest", limit=limit))
            first += len(self.bottom)
        n = int(self.counts.sum())
        for interval in reversed(self.intervals):
            some = interval.examples[:PER_INTERVAL]
            note = f"{interval.n:,} tokens, {interval.n / n:.2%} of all" if n else ""
            shown.append(
                self.contexts(some, first, f"Drawn from {interval.low:.3g} to {interval.high:.3g}", note, limit=limit)
            )
            first += len(some)
        return Grid(shown, columns=1)

    def histogram(self) -> Curve:
        """How its values are spread over the tokens, zero left out where it is mostly off."""
        used = self.counts.nonzero().flatten()
        half = len(self.counts) // 2  # bins of an encoder's feature, which is never below zero
        first = half if len(used) and int(used[0]) >= half else 0
        middle = ((self.edges[:-1] + self.edges[1:]) / 2)[first:].tolist()
        counts = self.counts[first:].double().log10().clamp_min(0)
        counts[self.counts[first:] == 0] = torch.nan
        drawn = [Line("tokens", counts.tolist())]
        return Curve(middle, drawn, title="Histogram of its values", x_title=self.unit, y_title="log10 of the tokens")

    def near(self) -> list[View]:
        """Those whose writing is alike, and those that fire with it."""
        views: list[View] = [
            Table(
                ["feature", "cosine"],
                [[name, cos] for _, name, cos in self.nearest],
                title="Nearest by what they write",
            )
        ]
        if self.partners:
            rows = [[name, share] for _, name, share in self.partners]
            views.append(Table(["feature", "P(it | this)"], rows, title="Fire together, beyond chance"))
        return views

    def card(self) -> Card:
        return Card(
            self.address,
            {
                "share of tokens above zero": self.density,
                "highest": self.highest,
                "mean where above zero": self.mean_active,
            },
            note=f"{self.provenance.get('tokens', 0):,} tokens of {self.provenance.get('corpus', 'texts')}",
        )

    def view(self) -> Grid:
        own = [] if self.tokens is None else self.tokens.view().views
        head = Grid([self.card(), self.histogram(), *own, *self.near()], columns=2)
        return Grid([head, self.examples()], columns=1, title=f"{self.label} at {self.place}")

    def __repr__(self) -> str:
        return f"FeaturePage({self.address}: {self.density:.3%} of tokens, highest {self.highest:.3g})"


def page(
    model: Model,
    atlas: Atlas,
    index: int,
    dictionary: Dictionary | None = None,
    *,
    effects: bool = True,
    progress: Progress = None,
    cancel: Cancel = None,
) -> FeaturePage:
    """The page of one feature out of an atlas; with what taking it out does on every example shown, unless `effects=False`.

    Raises:
        DirectionError, WrongModel: no such feature; another model's or dictionary's atlas. Cancelled.
    """
    direction = atlas.direction(index, dictionary, model)
    drawn = [
        Interval(low, high, n, examples) for low, high, n, examples in atlas.drawn.intervals(index, model) if examples
    ]
    made = FeaturePage(
        address=atlas.address(index),
        label=atlas.label(index) if dictionary is None else dictionary.label(index),
        place=atlas.place,
        index=index,
        density=float(atlas.density[index]),
        highest=float(atlas.highest[index]),
        mean_active=float(atlas.firing.mean_active[index]),
        tokens=own_tokens(model, direction)
        if dictionary is None or dictionary.write_site == dictionary.read_site
        else _written(model, dictionary, index),
        top=atlas.top.of(index, model),
        bottom=() if atlas.bottom is None else atlas.bottom.of(index, model),
        intervals=tuple(drawn),
        edges=edges(atlas.spread.exponent, atlas.spread.bins)[index],
        counts=atlas.spread.counts[index],
        nearest=nearest(atlas, index, dictionary),
        partners=partners(atlas, index, dictionary),
        provenance={**atlas.provenance, "method": "feature_page"},
    )
    if not effects:
        return made
    places = [(one.row, one.pos) for one in made.shown]
    return replace(made, effects=effects_of(model, atlas, index, places, dictionary, progress=progress, cancel=cancel))


def _written(model: Model, dictionary: Dictionary, index: int) -> OwnTokens | None:
    """The tokens of what a transcoder's feature writes, where it writes."""
    return own_tokens(
        model, replace(dictionary[index], read=dictionary.write[index], site=dictionary.write_site, offset=0.0)
    )


def nearest(
    atlas: Atlas, index: int, dictionary: Dictionary | None, k: int = NEAREST
) -> tuple[tuple[int, str, float], ...]:
    """The features whose write vectors have the highest cosine with one's own."""
    if dictionary is None or len(dictionary) < 2:
        return ()
    unit = torch.nn.functional.normalize(dictionary.write.float(), dim=1)
    cosine = unit @ unit[index]
    cosine[index] = -torch.inf
    best = cosine.topk(min(k, len(dictionary) - 1))
    return tuple((i, dictionary.label(i), c) for i, c in zip(best.indices.tolist(), best.values.tolist(), strict=True))


def partners(atlas: Atlas, index: int, dictionary: Dictionary | None) -> tuple[tuple[int, str, float], ...]:
    """The features that fire where it does beyond chance, and how likely each is to, given that it does."""
    if atlas.partners is None or atlas.given is None:
        return ()
    label = atlas.label if dictionary is None else dictionary.label
    pairs = zip(atlas.partners[index].tolist(), atlas.given[index].tolist(), strict=True)
    return tuple((i, label(i), share) for i, share in pairs if i >= 0)
