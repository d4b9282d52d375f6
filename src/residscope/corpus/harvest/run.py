"""rs.harvest: one pass over a text feeds any number of statistics, here, over processes, or on a cluster."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from residscope.corpus.harvest.checkpoint import Checkpoint, Partials, identity, named
from residscope.corpus.harvest.cluster import Cluster, connected
from residscope.corpus.harvest.mapping import LeftOut, merged, read_shard
from residscope.corpus.harvest.shards import ROWS, SHARD, Shard, shards
from residscope.corpus.harvest.statistics.base import Partial, Statistic
from residscope.corpus.harvest.workers import Processes
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source, called
from residscope.engine.model import Model
from residscope.errors import BadArguments, CorpusError, UnknownLabel
from residscope.progress import Cancel, Progress, Tell, stage
from residscope.reports import Report
from residscope.views import Table


@dataclass(frozen=True, eq=False, repr=False)
class Harvest(Report):
    """What was gathered, by name: `harvest["moments of resid_post.6"]`. used: of each site, the tokens used and left out."""

    kind: ClassVar[str] = "report:harvest"
    results: Mapping[str, Any]
    used: Mapping[str, Mapping[str, int]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """Raises UnknownLabel."""
        if name not in self.results:
            raise UnknownLabel(
                "nothing of this name was gathered", received=repr(name), allowed=", ".join(self.results)
            )
        return self.results[name]

    def view(self) -> Table:
        rows = [[name, type(result).__name__] for name, result in self.results.items()]
        read = f"{self.provenance.get('tokens', 0):,} tokens of {self.provenance.get('corpus', 'texts')}"
        return Table(["gathered", "as"], rows, title="Harvest", note=read)

    def __repr__(self) -> str:
        return f"Harvest({', '.join(self.results)})"


def harvest(
    model: Model,
    corpus: Source | Reader,
    statistics: Sequence[Statistic],
    *,
    tokens: int,
    length: int = LENGTH,
    batch: int = ROWS,
    shard: int = SHARD,
    processes: int = 1,
    threads: int | None = None,
    ray: str | None = None,
    folder: str | Path | None = None,
    what: str = "Reading the text",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Harvest:
    """Every statistic of the first `tokens` tokens of a text, from one forward truncated above the last of their sites.

        rs.harvest(model, "python-docs", [MomentsOf("resid_post.6"), TopTokens("mlp_post.6")], tokens=1_000_000, folder="out")

    The text is cut into rows of `length` tokens, `batch` of them a forward, `shard` of them a shard. Shards are read here, by so
    many local `processes` of `threads` threads each, or by actors of a Ray cluster (ray="auto", "local", or an address); their
    partials are merged in the order of the text, so that the result is the same to the bit wherever the threads are as many.

    folder: where each finished shard's partial is kept. A killed process costs a shard's work, and so does a killed harvest: the
    same call goes on from there. Tokens are left out by the one rule, `engine.sinks.kept`; `used` says how many.

    Raises:
        CorpusError: the text cannot be used. SiteError, DirectionError: what a statistic reads is not there. BadArguments.
        OtherHarvest: the folder is another harvest's. HarvestNotWritten: the disk is full. WorkerLost, HarvestError.
        MissingExtra: no Ray. Cancelled: finished shards stay in the folder.
    """
    own = check(model, statistics, tokens=tokens, batch=batch, shard=shard, processes=processes, folder=folder)
    every = (*own, *(LeftOut(site) for site in dict.fromkeys(site for one in own for site in one.sites)))
    reader = Reader.of(model, corpus)
    spread = processes > 1 or ray is not None
    threads = threads or (max(1, torch.get_num_threads() // processes) if spread else torch.get_num_threads())
    with ExitStack() as stack:
        checkpoint = None
        if folder is not None:
            sizes = {"tokens": tokens, "length": length, "batch": batch, "shard": shard}
            checkpoint = Checkpoint(folder, identity(model, called(reader.source), every, **sizes))
        elif spread:
            checkpoint = Checkpoint(stack.enter_context(tempfile.TemporaryDirectory()))
        with stage(what, tokens, progress, cancel) as tell:
            cut = shards(reader, tokens=tokens, length=length, rows=shard, tell=tell)
            gathered = Gathered(model, every, checkpoint, tell)
            if spread:
                assert checkpoint is not None
                weights = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                how = {"count": processes, "batch": batch, "threads": threads}
                pool: Processes | Cluster
                if ray is None:
                    pool = Processes(model, every, checkpoint, weights, **how)
                else:
                    at = stack.enter_context(connected(ray, processes))
                    pool = Cluster(at, model, every, checkpoint, weights, **how)
                gathered.over(pool.read, cut)
            else:
                gathered.here(cut, batch)
        partials = gathered.partials
        results = {}
        for one in own:
            if hasattr(one, "assemble"):
                assert checkpoint is not None
                results[one.name] = checkpoint.assembled(one, gathered.loads(one), model, every.index(one))
            else:
                results[one.name] = one.finish(partials[one.name], model)
        used = {one.site: one.finish(partials[one.name], model) for one in every if isinstance(one, LeftOut)}
    about = {**model.provenance, "method": "harvest", **reader.about, "tokens": gathered.tokens, "rows": gathered.rows}
    about |= {"shards": gathered.merged, "length": length, "batch": batch, "threads": threads}
    return Harvest(results, used, about)


class Gathered:
    """The partials of the shards so far, merged in the order of the text as far as there is no gap."""

    def __init__(
        self, model: Model, statistics: Sequence[Statistic], checkpoint: Checkpoint | None, tell: Tell
    ) -> None:
        self.model, self.statistics, self.checkpoint, self.tell = model, tuple(statistics), checkpoint, tell
        self.plain = [s for s in statistics if not hasattr(s, "assemble")]
        self.partials: Partials = {}
        self.merged = self.tokens = self.rows = 0
        self._waiting: set[int] = set()
        self._read: dict[int, int] = {}

    def here(self, cut: Iterator[Shard], batch: int) -> None:
        for shard in cut:
            if self.checkpoint is not None and self.checkpoint.has(shard):
                partials = named(self.checkpoint.read(shard.number), self.statistics)
            else:
                read = self._heard(shard.number)
                partials = read_shard(self.model, shard, self.statistics, batch=batch, read=read)
                if self.checkpoint is not None:
                    self.checkpoint.write(shard, partials)
            self._counted(shard)
            self._merge(partials)

    def over(self, read: Callable[..., Iterator[Shard]], cut: Iterator[Shard]) -> None:
        for shard in read(self._undone(cut), lambda number, tokens: self._heard(number)(tokens), self.tell):
            self._finished(shard)

    def loads(self, statistic: Statistic) -> list[Callable[[], Any]]:
        """What opens this statistic's partial of each shard, in order."""
        at, checkpoint = self.statistics.index(statistic), self.checkpoint
        assert checkpoint is not None
        return [partial(_one, checkpoint, number, at) for number in range(self.merged)]

    def _undone(self, cut: Iterator[Shard]) -> Iterator[Shard]:
        assert self.checkpoint is not None
        for shard in cut:
            if self.checkpoint.has(shard):
                self._finished(shard)
            else:
                yield shard

    def _finished(self, shard: Shard) -> None:
        self._counted(shard)
        self._waiting.add(shard.number)
        assert self.checkpoint is not None
        while self.merged in self._waiting:
            self._waiting.remove(self.merged)
            self._merge(named(self.checkpoint.read(self.merged), self.statistics))

    def _merge(self, partials: Partials) -> None:
        partials = {s.name: partials[s.name] for s in self.plain}
        self.partials = merged(self.partials, partials, self.plain) if self.merged else partials
        self.merged += 1

    def _counted(self, shard: Shard) -> None:
        self.tokens, self.rows = self.tokens + shard.tokens, self.rows + len(shard.rows)
        self._read.pop(shard.number, None)
        self.tell(self.tokens + sum(self._read.values()))

    def _heard(self, number: int) -> Callable[[int], None]:
        def read(tokens: int) -> None:
            self._read[number] = tokens
            self.tell(self.tokens + sum(self._read.values()))

        return read


def _one(checkpoint: Checkpoint, number: int, at: int) -> Partial:
    return checkpoint.read(number)[at]


def check(
    model: Model, statistics: Sequence[Statistic], *, tokens: int, batch: int, shard: int, processes: int, folder: Any
) -> tuple[Statistic, ...]:
    """The statistics, each by a name of its own, all of which this model has."""
    own = tuple(statistics)
    if tokens < 1:
        raise CorpusError("no tokens to read", received=f"tokens={tokens}", allowed="1 or more")
    if not own or not all(isinstance(one, Statistic) for one in own):
        strange = next((type(one).__name__ for one in own if not isinstance(one, Statistic)), "none")
        raise BadArguments(
            "there is nothing to gather", received=strange, allowed="statistics, such as MomentsOf(site)"
        )
    for name, count in (("batch", batch), ("shard", shard), ("processes", processes)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise BadArguments(f"no such {name}", received=f"{name}={count!r}", allowed="1 or more")
    names = [one.name for one in own]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadArguments("two statistics have one name", received=twice, allowed="each once")
    for one in own:
        one.check(model)
        if hasattr(one, "assemble") and folder is None:
            raise BadArguments(f"{one.name} are written to a folder", received="folder=None", fix="say folder=")
    return own
