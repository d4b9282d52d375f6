"""One shard through the model: a partial of each statistic."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from residscope.corpus.chunks import Chunk, captured, recorded
from residscope.corpus.harvest.checkpoint import Partials
from residscope.corpus.harvest.shards import ROWS, Shard
from residscope.corpus.harvest.statistics.base import Partial, Statistic
from residscope.engine.model import Model

COUNTS = "counts"


def read_shard(
    model: Model,
    shard: Shard,
    statistics: Sequence[Statistic],
    *,
    batch: int = ROWS,
    read: Callable[[int], object] = lambda tokens: None,
) -> Partials:
    """Every statistic's partial of a shard. read: told how many tokens of it have been read."""
    sites = list(dict.fromkeys(site for statistic in statistics for site in statistic.sites))
    partials = {statistic.name: statistic.start(model) for statistic in statistics}
    with torch.no_grad():
        for chunk in recorded(
            model, shard.batches(batch), captured(model, sites), first=shard.first, token=shard.token
        ):
            for statistic in statistics:
                statistic.add(partials[statistic.name], chunk)
            read(chunk.token + sum(chunk.record.lengths) - shard.token)
    return {name: {key: x.cpu() for key, x in partial.items()} for name, partial in partials.items()}


def merged(first: Partials, second: Partials, statistics: Sequence[Statistic]) -> Partials:
    """Both together, of what comes before in the text and what comes after."""
    return {s.name: s.merge(first[s.name], second[s.name]) for s in statistics}


class LeftOut:
    """How many tokens of the text a site's statistics use, and how many are left out: first ones, and attention sinks."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.name, self.sites, self.told = f"tokens at {site}", (site,), {"kind": "left out", "site": site}

    def check(self, model: Model) -> None:
        model.sites.parse(self.site)

    def start(self, model: Model) -> Partial:
        return {COUNTS: torch.zeros(3, dtype=torch.int64)}

    def add(self, partial: Partial, chunk: Chunk) -> None:
        partial[COUNTS] += counts_of(chunk, self.site)

    def merge(self, first: Partial, second: Partial) -> Partial:
        return {COUNTS: first[COUNTS] + second[COUNTS]}

    def finish(self, partial: Partial, model: Model) -> dict[str, int]:
        used, first, sinks = partial[COUNTS].tolist()
        return {"used": used, "left out at position 0": first, "left out as attention sinks": sinks}


def counts_of(chunk: Chunk, site: str) -> Int[Tensor, " 3"]:
    real, used = int(chunk.record.batch.real.sum()), int(chunk.keep(site).sum())
    return torch.tensor([used, len(chunk.record.batch), real - len(chunk.record.batch) - used])
