"""Principal components of a site over a text, streaming and exact."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.harvest.fits import moments_of
from residscope.corpus.moments import Moments
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.corpus.vectors import (
    PLACES,
    STREAM,
    check_count,
    check_place,
    check_places,
    check_size,
    named_sites,
    one_vector,
    price,
    price_of_sites,
)
from residscope.declare.methods import method
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.progress import Cancel, Progress, stage


@method("pca", title="Principal components", group="directions", tokens=price, refuse=check_place)
def pca(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    site: Annotated[str, fields.site(title="place", only=PLACES, usual="resid_post")],
    n: Annotated[int, fields.count(low=1, high=1000, title="directions")] = 30,
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    standardise: Annotated[bool, fields.flag(help="divide each axis by its standard deviation first")] = False,
    tokens: Annotated[int, fields.count(low=1)] = 20_000,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Dictionary:
    """The first n principal components of the vectors at a site: eigenvectors v of their covariance, the largest first.

        coordinate = v . (x - mean)                          sd = square root of its variance over the text
        standardised: v . (x - mean) / sigma, v of the correlation matrix, sigma the standard deviation along each axis

    standardise: divide every axis by its standard deviation first, as scikit-learn's StandardScaler does: read = v / sigma and
    write = v sigma. head: whose, at a site with heads. The sign makes each component's largest entry positive. Position 0
    and attention sinks are left out; see `corpus.vectors`.

    Raises:
        SiteError: no such place, or no vector a token there. DirectionError: more components than dimensions.
        CorpusError: the text cannot be used, or has fewer than n + 1 vectors. Cancelled: `cancel` said so.
    """
    dictionaries = pca_many(
        model, corpus, [site], n, head=head, standardise=standardise, tokens=tokens, progress=progress, cancel=cancel
    )
    return next(iter(dictionaries.values()))


@method(
    "pca-stream",
    title="Principal components of the stream",
    group="directions",
    tokens=price_of_sites,
    refuse=check_places,
    parts=("pca", "site"),
)
def pca_many(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    sites: Annotated[Sequence[str], fields.site(title="places", several=True, groups=(STREAM,), only=PLACES)] = (
        STREAM,
    ),
    n: Annotated[int, fields.count(low=1, high=1000, title="directions")] = 30,
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    standardise: Annotated[bool, fields.flag(help="divide each axis by its standard deviation first")] = False,
    tokens: Annotated[int, fields.count(low=1000)] = 20_000,
    length: int = LENGTH,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[str, Dictionary]:
    """The principal components of several sites from one pass over the text, by site, as `pca` finds them.

    sites: "stream" among them is `resid_pre.0` and every resid_post.

    Raises:
        SiteError, DirectionError, CorpusError, Cancelled: as `pca` does.
    """
    sites = named_sites(model, sites)
    reader = Reader(model, corpus)
    for name in sites:
        check_size(n, model.sites.width(one_vector(model, name, head)), what="components")
    moments = moments_of(
        model, reader, sites, head=head, tokens=tokens, length=length, progress=progress, cancel=cancel
    )
    dictionaries = {}
    with stage("Finding components", len(moments), progress, cancel) as tell:
        for site, seen in moments.items():
            check_count(seen.count, n + 1, site=site, head=head)
            provenance = {**reader.about, "tokens": seen.count, "model": model.hash}
            provenance |= {"standardised": True} if standardise else {}
            parts = principal(seen, n, standardise=standardise)
            dictionaries[str(site)] = Dictionary("pca", str(site), **parts, provenance=provenance, head=head)
            tell(len(dictionaries))
    return dictionaries


def principal(moments: Moments, n: int, *, standardise: bool = False) -> dict[str, Any]:
    """read, write, mean, sd and variance of the first n principal components, from the moments alone."""
    covariance = moments.covariance
    sigma = torch.ones_like(moments.mean)
    if standardise:
        sigma = deviations(moments)
        covariance = covariance / torch.outer(sigma, sigma)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:n].clamp_min(0), positive(vectors.flip(1).T[:n])
    read = (vectors / sigma).float()
    return {
        "read": read,
        "write": (vectors * sigma).float() if standardise else read,
        "mean": moments.mean.float(),
        "sd": values.sqrt().float(),
        "variance": (values / covariance.trace()).float(),
    }


def deviations(moments: Moments) -> Float[Tensor, "d"]:
    """The standard deviation along each axis, over n as StandardScaler has it; 1 where an axis does not vary."""
    variance = moments.scatter.diagonal() / max(moments.count, 1)
    noise = (
        moments.count * torch.finfo(torch.float64).eps * (variance + moments.mean**2 * torch.finfo(torch.float64).eps)
    )
    return torch.where(variance > noise, variance.sqrt(), 1.0)


def positive(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The same directions, with the sign that makes each one's largest entry positive."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)
