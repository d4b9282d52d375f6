"""A text as the model reads it, a few rows at a time: what every streaming statistic is fed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.corpus.vectors import at_head
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept, streams
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, asking, stage

ROWS = 4  # of a chunk


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a text and the run that read them. `first` is the number of its first row in the text."""

    first: int
    record: Recording

    def at(self, site: str, head: int | None = None) -> Float[Tensor, "row pos d"]:
        """The vector at each token, of one head where the site has heads."""
        return at_head(self.record, self.record.model.sites.parse(site), head)

    def keep(self, site: str) -> Bool[Tensor, "row pos"]:
        """Tokens that are neither padding, nor first in their row, nor attention sinks: `engine.sinks.kept`."""
        return kept(self.record, site)


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
    places = [model.sites.parse(site) for site in sites]
    capture = {*places, *(stream for site in places for stream in streams(model, site))}
    first = read = 0
    with stage(what, tokens, progress, cancel, yields=True) as tell:
        for batch in Reader.of(model, corpus).batches(tokens=tokens, length=length, size=size, tell=tell):
            with asking(tell, cancel):
                record = model.run(batch, capture)
            yield Chunk(first, record)
            first, read = first + len(batch), read + sum(map(len, batch))
            tell(read)
