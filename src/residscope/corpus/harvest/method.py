"""A harvest as one asks for it at any door: the usual statistics of some sites."""

from collections.abc import Sequence
from typing import Annotated

from residscope import fields
from residscope.corpus.harvest.run import Harvest, harvest
from residscope.corpus.harvest.statistics.base import Statistic
from residscope.corpus.harvest.statistics.firing import Firing
from residscope.corpus.harvest.statistics.moments import MomentsOf
from residscope.corpus.harvest.statistics.positions import MeansByPosition
from residscope.corpus.harvest.statistics.quantiles import Quantiles
from residscope.corpus.harvest.statistics.top import ByInterval, TopTokens
from residscope.corpus.reading import LENGTH
from residscope.corpus.text import Source
from residscope.corpus.vectors import PLACES, STREAM, check_places, named_sites, price_of_sites
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.progress import Cancel, Progress


@method("harvest", title="Statistics of a text", group="directions", tokens=price_of_sites, refuse=check_places)
def harvest_sites(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    sites: Annotated[Sequence[str], fields.site(title="places", several=True, groups=(STREAM,), only=PLACES)] = (
        STREAM,
    ),
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    examples: Annotated[int, fields.count(low=0, high=100, help="of each dimension its highest tokens")] = 10,
    intervals: Annotated[bool, fields.flag(help="draw tokens of each interval too")] = False,
    quantiles: Annotated[bool, fields.flag(help="quantiles and histograms")] = False,
    firing: Annotated[bool, fields.flag(help="how often each dimension is above zero")] = False,
    positions: Annotated[bool, fields.flag(help="the mean at each position")] = False,
    tokens: Annotated[int, fields.count(low=1)] = 20_000,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Harvest:
    """Mean and covariance of some sites over a text, the highest tokens of every dimension, and more, from one pass.

    sites: "stream" among them is `resid_pre.0` and every resid_post. At `mlp_post` the dimensions are the neurons. For
    dictionaries, other statistics, several processes or a cluster: `rs.harvest`.

    Raises:
        SiteError, CorpusError, Cancelled: as `rs.harvest` does.
    """
    wanted: list[Statistic] = []
    for site in dict.fromkeys(named_sites(model, sites)):
        wanted.append(MomentsOf(site, head))
        wanted += [TopTokens(site, head, k=examples)] if examples else []
        wanted += [ByInterval(site, head)] if intervals else []
        wanted += [Quantiles(site, head)] if quantiles else []
        wanted += [Firing(site, head)] if firing else []
        wanted += [MeansByPosition(site, head, length=LENGTH)] if positions else []
    return harvest(model, corpus, wanted, tokens=tokens, progress=progress, cancel=cancel)
