"""Gather an atlas: one pass over a text for every feature of a dictionary or every dimension of a site at once."""

from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.corpus.harvest.run import harvest
from residscope.corpus.harvest.statistics import ByInterval, Columns, Firing, Quantiles, Together, TopTokens
from residscope.corpus.harvest.statistics.base import Statistic
from residscope.corpus.harvest.statistics.firing import MOST, CoFiring
from residscope.corpus.reading import LENGTH
from residscope.corpus.text import Source
from residscope.corpus.vectors import PLACES
from residscope.declare.methods import method
from residscope.directions import Dictionary, Direction, LinearDictionary
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.features.atlas import NEURON, Atlas
from residscope.features.rows import Rows
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress

BINS = 32  # on either side of zero
PARTNERS = 12
LEAST = 5  # tokens at which two fire together before that counts


@method("atlas", title="Gather features", group="directions", tokens="tokens")
def gather(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    dictionary: Annotated[Dictionary | Direction | None, fields.dictionary()] = None,
    site: Annotated[
        str | None, fields.site(title="or place", only=PLACES, help="every dimension of it: at mlp_post the neurons")
    ] = None,
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    tokens: Annotated[int, fields.count(low=1000)] = 50_000,
    k: Annotated[int, fields.count(low=1, high=100, help="examples of each")] = 12,
    seed: Annotated[int, fields.seed()] = 0,
    length: int = LENGTH,
    processes: int = 1,
    ray: str | None = None,
    folder: str | Path | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Atlas:
    """Where every feature of a dictionary is active in a text, every neuron of a layer, or every dimension of a site: an `Atlas`.

        atlas = rs.features.gather(model, "python-docs", sae)        # or a direction, or site="mlp_post.9"
        rs.features.page(model, atlas, 123, sae)

    The k highest tokens of each, tokens drawn at random of intervals of equal width, histograms, densities, and which fire
    together. First tokens of rows and attention sinks are left out. length, processes, ray, folder: as `rs.harvest` has them.

    Raises:
        BadArguments: neither a dictionary nor a site, or both. SiteError, WrongWidth: not of this model. CorpusError. Cancelled.
    """
    if (dictionary is None) == (site is None):
        raise BadArguments(
            "an atlas is of one dictionary, or of one site's own dimensions",
            received="both" if site else "neither",
            allowed='dictionary=, or site="mlp_post.9"',
        )
    if dictionary is not None and head is not None:
        raise BadArguments(
            "a dictionary says itself of which head it is", received=f"head={head}", allowed="head with site"
        )
    if isinstance(dictionary, Direction):
        dictionary = only(dictionary)
    columns = Columns.of(str(site) if dictionary is None else dictionary, head)
    both_ways = getattr(dictionary, "activation", None) is None
    top, bottom = TopTokens(columns, k=k), TopTokens(columns, k=k, lowest=True)
    drawn, spread, firing = ByInterval(columns, seed=seed), Quantiles(columns, bins=BINS, exact=0), Firing(columns)
    together = Together(columns) if columns.count(model) <= MOST else None
    wanted: list[Statistic] = [top, drawn, spread, firing, Rows(columns.site)]
    wanted += [bottom] if both_ways else []
    wanted += [together] if together is not None else []
    found = harvest(
        model, corpus, wanted, tokens=tokens, length=length, processes=processes, ray=ray, folder=folder, progress=progress,
        cancel=cancel,
    )  # fmt: skip
    partners, given = (None, None) if together is None else partners_of(found[together.name])
    about = {**found.provenance, "method": "atlas", "seed": seed}
    return Atlas(
        called(columns), columns.site, columns.head, "" if dictionary is None else dictionary.hash, columns.count(model),
        found[top.name], found[bottom.name] if both_ways else None, found[drawn.name], found[spread.name], found[firing.name],
        partners, given, found[Rows.name], dict(found.used.get(columns.site, {})), about,
    )  # fmt: skip


def called(columns: Columns) -> str:
    """What its features are called."""
    if columns.dictionary is not None:
        return columns.dictionary.name
    return NEURON if Site.parse(columns.site).name == "mlp_post" else "dimension"


def only(direction: Direction) -> Dictionary:
    """A dictionary of one direction."""
    zero = (
        torch.zeros_like(direction.read)
        if direction.offset == 0
        else direction.read * (direction.offset / direction.read.square().sum())
    )
    return LinearDictionary(
        name="direction", site=direction.site, read=direction.read[None], write=direction.write[None], mean=zero,
        head=direction.head, space=direction.space, names=(direction.name,), provenance=dict(direction.provenance),
    )  # fmt: skip


def partners_of(found: CoFiring) -> tuple[Int[Tensor, "feature k"], Float[Tensor, "feature k"]]:
    """Of each feature those that fire with it most beyond chance, -1 where there are no more, and P(partner | feature).

    In order of lift, P(i and j) / (P(i) P(j)), among those together at five tokens or more and more often than by chance.
    """
    lift = found.lift.float().nan_to_num(0)
    lift[(found.together < LEAST) | (lift <= 1)] = 0
    lift.fill_diagonal_(0)
    best = lift.topk(min(PARTNERS, len(lift)), dim=1)
    given = found.given.float().gather(1, best.indices)
    return torch.where(best.values > 0, best.indices, -1), torch.where(best.values > 0, given, torch.nan)
