"""Singular vectors of a site over a text: what PCA finds when the mean is left in."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch

from residscope import fields
from residscope.corpus.harvest.fits import moments_of
from residscope.corpus.moments import Moments
from residscope.corpus.pca import positive
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


@method("svd", title="Singular vectors", group="directions", tokens=price, refuse=check_place)
def svd(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    site: Annotated[str, fields.site(title="place", only=PLACES, usual="resid_post")],
    n: Annotated[int, fields.count(low=1, high=1000, title="directions")] = 30,
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    tokens: Annotated[int, fields.count(low=1)] = 20_000,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Dictionary:
    """The first n right singular vectors v of the vectors X at a site, nothing subtracted.

        X = U S V^T          coordinate = v . x          variance = S^2 / sum of S^2, the share of the sum of squares

    They come from X^T X, whose eigenvectors they are, so that X is never held. `sd` is the coordinate's standard deviation
    about its own mean: for the first vector, close to the mean of X, that is far below its root mean square.

    Raises:
        SiteError, DirectionError, CorpusError, Cancelled: as `pca` does; n vectors are enough.
    """
    dictionaries = svd_many(model, corpus, [site], n, head=head, tokens=tokens, progress=progress, cancel=cancel)
    return next(iter(dictionaries.values()))


@method(
    "svd-stream",
    title="Singular vectors of the stream",
    group="directions",
    tokens=price_of_sites,
    refuse=check_places,
    parts=("svd", "site"),
)
def svd_many(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    sites: Annotated[Sequence[str], fields.site(title="places", several=True, groups=(STREAM,), only=PLACES)] = (
        STREAM,
    ),
    n: Annotated[int, fields.count(low=1, high=1000, title="directions")] = 30,
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    tokens: Annotated[int, fields.count(low=1000)] = 20_000,
    length: int = LENGTH,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[str, Dictionary]:
    """The singular vectors of several sites from one pass over the text, by site, as `svd` finds them.

    sites: "stream" among them is `resid_pre.0` and every resid_post.

    Raises:
        SiteError, DirectionError, CorpusError, Cancelled: as `svd` does.
    """
    sites = named_sites(model, sites)
    reader = Reader(model, corpus)
    for name in sites:
        check_size(n, model.sites.width(one_vector(model, name, head)), what="singular vectors")
    moments = moments_of(
        model, reader, sites, head=head, tokens=tokens, length=length, progress=progress, cancel=cancel
    )
    dictionaries = {}
    with stage("Finding singular vectors", len(moments), progress, cancel) as tell:
        for site, seen in moments.items():
            check_count(seen.count, n, site=site, head=head)
            provenance = {**reader.about, "tokens": seen.count, "model": model.hash}
            dictionaries[str(site)] = Dictionary(
                "svd", str(site), **singular(seen, n), provenance=provenance, head=head, space="raw"
            )
            tell(len(dictionaries))
    return dictionaries


def singular(moments: Moments, n: int) -> dict[str, Any]:
    """read, write, mean, sd and variance of the first n right singular vectors, from the moments alone."""
    squares = moments.squares
    values, vectors = torch.linalg.eigh(squares)
    values, vectors = values.flip(0)[:n].clamp_min(0), positive(vectors.flip(1).T[:n])
    spread = ((vectors @ moments.covariance) * vectors).sum(1).clamp_min(0)
    read = vectors.float()
    return {
        "read": read,
        "write": read,
        "mean": torch.zeros_like(moments.mean).float(),
        "sd": spread.sqrt().float(),
        "variance": (values / squares.trace()).float(),
    }
