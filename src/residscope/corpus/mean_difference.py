"""The difference of the means of a site over two texts, or of each of several against the rest."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.harvest.fits import moments_of
from residscope.corpus.moments import Moments
from residscope.corpus.reading import UNREAD, Reader
from residscope.corpus.text import NamedTexts, Source
from residscope.corpus.vectors import PLACES, check_count, check_place, one_vector, price
from residscope.declare.methods import method
from residscope.directions import Dictionary, place
from residscope.engine.model import Model
from residscope.errors import CorpusError, ZeroDirection
from residscope.progress import Cancel, Progress


def price_of_each(model: Model, corpora: Mapping[str, Source], *, site: str, tokens: int = 20_000, **_: Any) -> float:
    """Each text is read once."""
    return len(corpora) * price(model, site=site, tokens=tokens)


@method(
    "mean-difference",
    title="Difference of two texts' means",
    group="directions",
    tokens=price_of_each,
    refuse=check_place,
)
def mean_difference(
    model: Model,
    corpora: Annotated[Mapping[str, Source], fields.contrast(title="texts")],
    site: Annotated[str, fields.site(title="place", only=PLACES, usual="resid_post")],
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    tokens: Annotated[int, fields.count(low=1)] = 20_000,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Dictionary:
    """Where two texts differ on the average: the direction from the mean of one to the mean of the other.

        d = mean_a - mean_b          read = write = d / |d|          coordinate = read . (x - (mean_a + mean_b) / 2)

    `mean_difference(model, {"code": a, "prose": b}, ...)[0]` is "code − prose", positive for code. Of three texts or more each
    is a direction, against the average of the others' means. |d| of each is in provenance["distances"].

    `sd` is the coordinate's standard deviation within the texts (pooled); `variance` the share of the coordinate's variance
    that lies between the texts and not within them: 0 where the direction tells nothing, 1 where it tells the texts
    apart without error. Each text gives up to `tokens` tokens.

    Raises:
        ZeroDirection: two texts with the same mean. SiteError, CorpusError, Cancelled: as `pca` does.
    """
    if len(corpora) < 2:
        raise CorpusError(
            "a difference needs two texts", received=f"{len(corpora)}: {', '.join(corpora)}", allowed="two or more"
        )
    where = one_vector(model, site, head)
    readers = {name: Reader(model, corpus) for name, corpus in corpora.items()}
    moments = {}
    for name, reader in readers.items():
        moments[name] = moments_of(
            model, reader, [where], head=head, tokens=tokens, what=f"Reading {name}", progress=progress, cancel=cancel
        )[where]
        check_count(moments[name].count, 2, site=where, head=head)
    unread = {name: reader.unread for name, reader in readers.items()}
    differences = _differences(moments)
    vectors = torch.stack(list(differences.values()))
    lengths = vectors.norm(dim=1)
    pooled, within = _pooled(moments)
    if bool((lengths <= 1e-6 * pooled.trace().sqrt()).any()):
        same = list(differences)[int(lengths.argmin())]
        raise ZeroDirection(
            f"the texts have the same mean at {place(str(where), head)}",
            received=same,
            allowed="texts that differ",
            fix="give two different texts",
        )
    read = vectors / lengths[:, None]
    spread = ((read @ pooled) * read).sum(1).clamp_min(0)
    means = torch.stack([m.mean for m in moments.values()])
    counts = torch.tensor([m.count for m in moments.values()], dtype=means.dtype, device=means.device)
    at = (means - (counts @ means) / counts.sum()) @ read.T
    between = counts @ at**2
    return Dictionary(
        name="mean_difference",
        site=str(where),
        read=read.float(),
        write=read.float(),
        mean=means.mean(0).float(),
        sd=spread.sqrt().float(),
        variance=(between / (between + spread * within)).float(),
        provenance={
            "corpora": {
                name: name if isinstance(corpora[name], NamedTexts) else reader.about["corpus"]
                for name, reader in readers.items()
            },
            **({UNREAD: unread} if any(unread.values()) else {}),
            "counts": {name: m.count for name, m in moments.items()},
            "distances": lengths.tolist(),
            "tokens": sum(m.count for m in moments.values()),
            "model": model.hash,
        },
        head=head,
        names=tuple(differences),
    )


def _differences(moments: Mapping[str, Moments]) -> dict[str, Float[Tensor, "d"]]:
    names = list(moments)
    if len(names) == 2:
        return {f"{names[0]} − {names[1]}": moments[names[0]].mean - moments[names[1]].mean}
    total = torch.stack([m.mean for m in moments.values()]).sum(0)
    return {f"{name} − rest": m.mean - (total - m.mean) / (len(names) - 1) for name, m in moments.items()}


def _pooled(moments: Mapping[str, Moments]) -> tuple[Float[Tensor, "d d"], int]:
    """The covariance within the texts, and its degrees of freedom."""
    within = sum(m.count - 1 for m in moments.values())
    return torch.stack([m.scatter for m in moments.values()]).sum(0) / within, within
