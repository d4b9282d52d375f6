"""What the Features tab's answers are made of: an atlas opened, its values on a run, the shapes of what is found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.corpus.chunks import at_head
from residscope.directions import Dictionary
from residscope.edits.features import joined
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.features.atlas import Atlas
from residscope.json_values import finite
from residscope.session.read.feature_shapes import ActiveFeature, ActiveIn, FeatureLink, Order
from residscope.shelf.items import Kept
from residscope.world.read import PoleToken

NEURONPEDIA = "https://www.neuronpedia.org"


class Opened(NamedTuple):
    """An atlas with the dictionary that it is of, and what the session has both by."""

    kept: Kept
    atlas: Atlas
    id: str | None
    dictionary: Dictionary | None


@dataclass(frozen=True, eq=False)
class Values:
    """Features at the tokens of a run; keep: those that a statistic would take."""

    values: Float[Tensor, "pos feature"]
    keep: Bool[Tensor, " pos"]


def values_of(record: Recording, opened: Opened) -> Values:
    """The features of an atlas at the tokens of a run of one prompt."""
    _, atlas, _, dictionary = opened
    x = at_head(record, record.model.sites.parse(atlas.site), atlas.head)
    if dictionary is not None:
        x = dictionary.encode(joined(dictionary, x), model=record.model)
    return Values(x[0].float().cpu(), kept(record, atlas.site)[0].cpu())


def in_order(atlas: Atlas, order: Order, *, descending: bool) -> list[int]:
    """Feature numbers by a column; those without a value come last either way."""
    if order == "index":
        return [*range(len(atlas))][:: -1 if descending else 1]
    by: Float[Tensor, " feature"] = atlas.highest if order == "highest" else atlas.density
    least = -torch.inf if descending else torch.inf
    by = by.double().nan_to_num(least)
    found: Int[Tensor, " feature"] = by.argsort(descending=descending, stable=True)
    return [int(index) for index in found.tolist()]


def active(opened: Opened, read: Values, at: int, k: int) -> ActiveIn:
    """The k strongest at one token, and at any that is kept; those that are not above zero are left out."""
    atlas = opened.atlas
    label = atlas.label if opened.dictionary is None else opened.dictionary.label

    def strongest(values: Float[Tensor, " feature"], pos: Callable[[int], int]) -> list[ActiveFeature]:
        best = values.topk(min(k, len(values)))
        return [
            {
                "index": index,
                "label": label(index),
                "pos": pos(index),
                "value": value,
                "share": finite(value / float(atlas.highest[index])),
            }
            for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            if value > 0
        ]

    whole = torch.where(read.keep[:, None], read.values, -torch.inf)
    highest = whole.max(0)
    return {
        "atlas": opened.kept.name,
        "at": strongest(read.values[at], lambda _: at),
        "overall": strongest(highest.values, lambda index: int(highest.indices[index])),
        "refused": None,
    }


def tokens(found: Sequence[tuple[int, str, float]]) -> list[PoleToken]:
    return [{"text": text, "value": value} for _, text, value in found]


def links(found: Sequence[tuple[int, str, float]]) -> list[FeatureLink]:
    return [{"index": index, "label": label, "value": value} for index, label, value in found]


def neuronpedia(dictionary: Dictionary | None, index: int) -> str | None:
    """A feature's page on Neuronpedia, where its dictionary's provenance names the id that it has there."""
    named = None if dictionary is None else dictionary.provenance.get("neuronpedia_id")
    return f"{NEURONPEDIA}/{quote(named, safe='/')}/{index}" if isinstance(named, str) and named else None
