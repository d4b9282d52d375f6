"""A text as the model reads it, a few rows at a time: what every streaming statistic is fed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.corpus.text import Source, rows, texts
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.errors import UnknownHead, UnknownSite
from residscope.model.sites import Site

LENGTH, ROWS = 128, 4  # tokens of a row, rows of a chunk
SINK = 10.0  # median lengths


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a text and the run that read them. `first` is the number of its first row in the text."""

    first: int
    record: Recording

    def at(self, site: str, head: int | None = None) -> Float[Tensor, "row pos d"]:
        """The vector at each token, of one head where the site has heads."""
        value = self.record[site]
        return value if head is None else value[:, :, head]

    def keep(self, x: Float[Tensor, "row pos d"]) -> Bool[Tensor, "row pos"]:
        """Tokens that are neither padding, nor first in their row, nor attention sinks.

        A sink is over ten times as long as the median vector of its own row, so that how rows are put together changes nothing.
        """
        norm = x.norm(dim=-1)
        keep = self.record.batch.real.clone()
        keep[:, 0] = False
        median = torch.where(keep, norm, torch.nan).nanmedian(1, keepdim=True).values
        return keep & ~(norm > SINK * median)


def chunks(
    model: Model,
    corpus: Source,
    sites: Sequence[str],
    *,
    tokens: int,
    length: int = LENGTH,
    size: int = ROWS,
    first: int = 0,
) -> Iterator[Chunk]:
    """The first `tokens` tokens of a text, in rows of at most `length`, recorded at these sites. `first` numbers the first row.

    Raises:
        CorpusError: the text cannot be used.
    """
    batch: list[list[int]] = []
    tokenized = (model._encode(text, None) for text in texts(corpus))
    for row in rows(tokenized, length=min(length, model.context), budget=tokens):
        batch.append(row)
        if len(batch) == size:
            yield Chunk(first, model.run(batch, sites))
            first, batch = first + len(batch), []
    if batch:
        yield Chunk(first, model.run(batch, sites))


def check_place(model: Model, site: str, head: int | None) -> Site:
    """A site with one vector a token, with a head where it has heads.

    Raises:
        UnknownSite, UnknownHead, AbsentSite.
    """
    found = model.sites.parse(site)
    axes = found.kind.axes
    if axes[:2] != ("batch", "pos") or axes[-1] not in ("d_model", "d_head", "d_mlp"):
        raise UnknownSite(
            f"no vector stands at {found} for each token",
            received=site,
            allowed="such as resid_post.6, z.9 or mlp_post.3",
        )
    heads = next((axis for axis in axes if axis.endswith("head") and axis != "d_head"), None)
    if heads is not None and head is None:
        raise UnknownHead(f"{found} has a vector for each head", received="no head", fix="say head= of the direction")
    if head is not None:
        model.sites.check_index(found, heads or "head", (head,))
    return found


def text_name(corpus: Source) -> str:
    """What a text is called in a provenance."""
    return corpus if isinstance(corpus, str) else "texts" if not hasattr(corpus, "name") else str(corpus.name)
