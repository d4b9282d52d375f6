"""Principal components of a site over a text, streaming and exact."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.corpus.moments import Moments
from residscope.corpus.text import Source, rows, texts
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import DirectionError

Progress = Callable[[str, int, int], None]


def pca(
    model: Model,
    corpus: Source,
    site: str,
    n: int = 30,
    *,
    tokens: int = 20_000,
    progress: Progress | None = None,
) -> Dictionary:
    """The first n principal components of the vectors at a residual site.

    Position 0 is left out, and so are vectors over ten times the median length (attention sinks), which would take the first
    components for themselves. The sign is chosen so that each component's largest entry is positive.

    Raises:
        DirectionError: more components than dimensions. CorpusError: the text cannot be used.
    """
    return pca_many(model, corpus, [site], n, tokens=tokens, progress=progress)[site]


def pca_many(
    model: Model,
    corpus: Source,
    sites: Sequence[str],
    n: int = 30,
    *,
    tokens: int = 20_000,
    length: int = 128,
    progress: Progress | None = None,
) -> dict[str, Dictionary]:
    """`pca` of several sites from one pass over the text."""
    if not 1 <= n <= model.d_model:
        raise DirectionError("so many components there are not", received=f"n={n}", allowed=f"1 to {model.d_model}")
    moments = {site: Moments.empty(model.sites.width(model.sites.parse(site)), model.device) for site in sites}
    seen = 0
    for batch in _batches(model, corpus, tokens=tokens, length=length):
        record = model.run(batch, sites)
        for site, found in moments.items():
            x = record[site]
            found.add(x[_usable(x, record.batch.real)])
        seen += int(record.batch.real.sum())
        if progress is not None:
            progress("pca", min(seen, tokens), tokens)
    name = corpus if isinstance(corpus, str) else "texts"
    return {site: _components(found, site, n, model, name) for site, found in moments.items()}


def _batches(model: Model, corpus: Source, *, tokens: int, length: int, size: int = 8) -> Iterator[list[list[int]]]:
    tokenized = (model._encode(text, None) for text in texts(corpus))
    batch: list[list[int]] = []
    for row in rows(tokenized, length=min(length, model.context), budget=tokens):
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _usable(x: Float[Tensor, "batch pos d"], real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Tokens that are neither padding, nor first, nor attention sinks."""
    norm = x.norm(dim=-1)
    keep = real.clone()
    keep[:, 0] = False
    return keep & (norm <= 10 * norm[keep].median()) if keep.any() else keep


def _components(moments: Moments, site: str, n: int, model: Model, corpus: str) -> Dictionary:
    covariance = moments.covariance
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:n].clamp_min(0), vectors.flip(1).T[:n]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = (vectors * largest.sign()).float()
    return Dictionary(
        name="pca",
        site=site,
        read=vectors,
        write=vectors,
        mean=moments.mean.float(),
        sd=values.sqrt().float(),
        variance=(values / covariance.trace()).float(),
        provenance={"corpus": corpus, "tokens": moments.count, "model": model.hash},
    )
