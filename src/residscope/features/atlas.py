"""An atlas: where every feature of one dictionary, or every neuron of a site, is active in a text."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.harvest.statistics.firing import FiringCounts
from residscope.corpus.harvest.statistics.quantiles import Distribution
from residscope.corpus.harvest.statistics.top import ColumnExamples
from residscope.directions import DICTIONARY_HASH, Dictionary, Direction, place
from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongModel
from residscope.features.rows import TextRows
from residscope.model.sites import Site
from residscope.reports import Report
from residscope.views import Grid, Histogram, Table, View

SHOWN = 50  # rows of its table
NEURON = "neuron"


@dataclass(frozen=True, eq=False, repr=False)
class Atlas(Report):
    """What one pass over a text knows of all features of a dictionary, or of all dimensions of a site.

    of: what they are called: the dictionary's name, "neuron" at mlp_post, "dimension" elsewhere. hash: the dictionary's; empty of
    a site's own dimensions. top, bottom: the highest tokens of each, and the lowest where values go below zero. drawn: tokens at
    random of intervals of equal width. partners[f, k], given: the features most likely to fire where f does beyond chance, and
    P(partner fires | f fires); None where there are too many to count. text: the rows that were read.
    """

    kind: ClassVar[str] = "report:atlas"
    of: str
    site: str
    head: int | None
    hash: str
    features: int
    top: ColumnExamples
    bottom: ColumnExamples | None
    drawn: ColumnExamples
    spread: Distribution
    firing: FiringCounts
    partners: Int[Tensor, "feature k"] | None
    given: Float[Tensor, "feature k"] | None
    text: TextRows
    used: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.features

    def check_index(self, index: int) -> None:
        """Raises DirectionError for a feature that it does not have."""
        if not 0 <= index < self.features:
            raise DirectionError(
                f"there is no such {self.of}", received=str(index), allowed=f"0 to {self.features - 1}"
            )

    @property
    def place(self) -> str:
        """Where it is read."""
        return place(self.site, self.head)

    def address(self, index: int) -> str:
        """What a feature is always found by: `neuron/MODEL/LAYER/INDEX`, `sae/MODEL/SITE/INDEX`."""
        self.check_index(index)
        layer = Site.parse(self.site).layer
        where = str(layer) if self.of == NEURON else self.place.replace(" head ", ".h")
        return f"{self.of}/{self.provenance.get('model', 'model')}/{where}/{index}"

    def label(self, index: int) -> str:
        """Such as "sae 12" or "neuron 9.312"."""
        layer = Site.parse(self.site).layer
        return f"{NEURON} {layer}.{index}" if self.of == NEURON else f"{self.of} {index}"

    def check(self, model: Model, dictionary: Dictionary | None) -> None:
        """Raises WrongModel where the atlas is another model's, or another dictionary's."""
        if (own := self.provenance.get("hash")) != model.provenance["hash"]:
            raise WrongModel("the atlas was gathered on another model", received=str(own)[:12], allowed=model.name)
        found = "" if dictionary is None else dictionary.hash
        if found != self.hash:
            raise WrongModel(
                "the atlas is of another dictionary" if self.hash else "the atlas is of a site's own dimensions",
                received=found[:12] or "no dictionary",
                allowed=self.hash[:12] or "no dictionary",
            )

    def direction(self, index: int, dictionary: Dictionary | None, model: Model) -> Direction:
        """The feature as a direction, which says of which dictionary it is; or the one axis of the site."""
        self.check(model, dictionary)
        self.check_index(index)
        if dictionary is not None:
            found = dictionary[index]
            return replace(found, provenance={**found.provenance, "index": index, DICTIONARY_HASH: dictionary.hash})
        axis = torch.zeros(self.features)
        axis[index] = 1
        return Direction(axis, axis, self.site, name=self.label(index), head=self.head, provenance={"axis": index})

    @cached_property
    def density(self) -> Float[Tensor, " feature"]:
        """The share of tokens at which each is above zero."""
        return self.firing.density

    @property
    def dead(self) -> float:
        """The share that was never above zero."""
        return float((self.firing.fired == 0).double().mean())

    @cached_property
    def highest(self) -> Float[Tensor, " feature"]:
        """The highest value of each; NaN where none was above what is kept."""
        return self.top.value[:, 0]

    def view(self) -> View:
        """How densely features fire, and the strongest of them."""
        alive = self.firing.fired > 0
        bars = Histogram(
            {self.of: self.density[alive].log10()}, bins=40, title="How often each is active",
            x_title="log10 of the share of tokens", note=f"{self.dead:.1%} never, in {self.firing.count:,} tokens",
        )  # fmt: skip
        order = self.highest.nan_to_num(-torch.inf).argsort(descending=True, stable=True)[:SHOWN].tolist()
        rows = [[self.label(i), float(self.highest[i]), float(self.density[i])] for i in order]
        strongest = Table([self.of, "highest", "share of tokens"], rows, title="Highest values")
        return Grid([bars, strongest], title=f"{self.of} at {self.place}")

    def __repr__(self) -> str:
        return (
            f"Atlas({self.features} of {self.of} at {self.place}, {self.firing.count:,} tokens, {self.dead:.1%} dead)"
        )
