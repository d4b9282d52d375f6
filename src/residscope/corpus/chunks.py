"""A text as the model reads it, a few rows at a time: what every streaming statistic is fed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept, streams
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, asking, stage

T = TypeVar("T")
ROWS = 4  # of a chunk


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a text and the run that read them.

    first: the number of its first row in the text; token: how many tokens of the text's rows come before it. What several
    statistics ask for is worked out once.
    """

    first: int
    record: Recording
    token: int = 0
    _known: dict[Any, Any] = field(default_factory=dict)

    def at(self, site: str | Site, head: int | None = None) -> Float[Tensor, "row pos *d"]:
        """The vector at each token, of one head where the site has heads; of all of them where none is said."""
        return at_head(self.record, self.record.model.sites.parse(site), head)

    def keep(self, site: str | Site) -> Bool[Tensor, "row pos"]:
        """Tokens that are neither padding, nor first in their row, nor attention sinks: `engine.sinks.kept`."""
        where = streams(self.record.model, site)
        return self.once(("keep", where), lambda: kept(self.record, site))

    def vectors(self, site: str | Site, head: int | None = None) -> Float[Tensor, "n d"]:
        """The vectors at the tokens that are kept, in the order of the text."""

        def picked() -> Float[Tensor, "n d"]:
            x = self.at(site, head)
            return x[self.keep(site).to(x.device)]

        return self.once(("vectors", self.record.model.sites.canonical(site), head), picked)

    @property
    def starts(self) -> Int[Tensor, "row"]:
        """How many tokens of the text's rows come before each row."""
        lengths = torch.tensor(self.record.lengths)
        return self.token + lengths.cumsum(0) - lengths

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each key."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found


def at_head(record: Recording, site: Site, head: int | None) -> Float[Tensor, "batch pos *d"]:
    x = record[site]
    return x if head is None else x[:, :, head]


def captured(model: Model, sites: Iterable[str | Site]) -> set[Site]:
    """The sites, and where in the stream their attention sinks are known."""
    places = [model.sites.parse(site) for site in sites]
    return {*places, *(stream for site in places for stream in streams(model, site))}


def recorded(
    model: Model,
    batches: Iterable[list[list[int]]],
    capture: Collection[Site],
    *,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    first: int = 0,
    token: int = 0,
) -> Iterator[Chunk]:
    """Batches of rows of token ids, run one after the other, each `within` a context. Raises Cancelled where a forward does."""
    for batch in batches:
        with within():
            record = model.run(batch, capture)
        yield Chunk(first, record, token)
        first, token = first + len(batch), token + sum(map(len, batch))


def chunks(
    model: Model,
    corpus: Source | Reader,
    sites: Sequence[str | Site],
    *,
    tokens: int,
    length: int = LENGTH,
    size: int = ROWS,
    what: str = "Reading the text",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[Chunk]:
    """The first `tokens` tokens of a text, in rows of at most `length`, recorded at these sites.

    what: the stage that `progress` is told, by tokens.

    Raises:
        CorpusError: the text cannot be used. Cancelled.
    """
    capture = captured(model, sites)
    with stage(what, tokens, progress, cancel, yields=True) as tell:
        batches = Reader.of(model, corpus).batches(tokens=tokens, length=length, size=size, tell=tell)
        for chunk in recorded(model, batches, capture, within=lambda: asking(tell, cancel)):
            yield chunk
            tell(chunk.token + sum(chunk.record.lengths))
