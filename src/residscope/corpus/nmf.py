"""Non-negative parts of a site over a text: X = W H with nothing below zero."""

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.corpus.vectors import PLACES, check_count, check_place, check_size, one_vector, price, vectors_of
from residscope.declare.methods import method
from residscope.directions import Dictionary, place
from residscope.engine.model import Model
from residscope.errors import DirectionError, NegativeActivations
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage

SAMPLE = 20_000
ROUNDS, STEPS = 40, 10


@method("nmf", title="Non-negative factors", group="directions", tokens=price, refuse=check_place)
def nmf(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    site: Annotated[str, fields.site(title="place", only=PLACES, usual="mlp_post")],
    n: Annotated[int, fields.count(low=1, high=500, title="directions")] = 10,
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    clip: Annotated[bool, fields.flag(help="set what is below zero to zero")] = False,
    tokens: Annotated[int, fields.count(low=1)] = 20_000,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Dictionary:
    """n non-negative parts that add up to the vectors at a site (Lee and Seung, 1999): the least |X - W H|, W and H >= 0.

        write = H, each part at unit length          read = H (H^T H)^+, so that encode gives the least-squares weights

    `decode(encode(x))` is then the nearest vector to x in the span of the parts; encode's weights may be below zero, where W,
    which was fitted, is not. `variance` is the share of the sum of squares of X that a part carries by itself,
    |w|^2 |h|^2 / |X|^2, the largest first; parts overlap, so that the shares add up to less than provenance["explained"], what
    they carry together.

    clip: set what is below zero to zero. Residual streams have such entries, and so have the neurons of gated MLPs. Of more
    than 20,000 vectors, 20,000 drawn at random are factorised.

    Raises:
        NegativeActivations: entries below zero without clip; says their share. SiteError, CorpusError, Cancelled: as `pca` does.
    """
    where = one_vector(model, site, head)
    check_size(n, model.sites.width(where), what="parts")
    reader = Reader(model, corpus)
    reading = _non_negative(
        vectors_of(model, reader, [where], head=head, tokens=tokens, progress=progress, cancel=cancel),
        where, head, clip,
    )  # fmt: skip
    x, seen, below = _sample(reading, seed)
    check_count(len(x), n, site=where, head=head)
    parts, about = factorised(x, n, seed=seed, progress=progress, cancel=cancel)
    provenance = {**reader.about, "tokens": seen, "sample": len(x), "model": model.hash, "seed": seed, **about}
    provenance |= {"clipped": below} if clip else {}
    return Dictionary("nmf", str(where), **parts, provenance=provenance, head=head, space="raw")


def factorised(
    x: Float[Tensor, "sample d"], n: int, *, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of non-negative vectors, and how the search for them ended: scikit-learn's coordinate descent, in rounds."""
    from sklearn.decomposition import non_negative_factorization

    X = x.cpu().numpy()
    total = float((x.double() ** 2).sum())
    if total == 0:
        raise DirectionError("the vectors are zero: they have no parts", received=f"{len(x)} vectors of zeros")
    W: Any = None
    H: Any = None
    before, done, settled = total, 0, False
    with stage("Factorising", ROUNDS, progress, cancel) as tell:
        while done < ROUNDS and not settled:
            for _ in range(STEPS):  # one a call, which may take a second: nothing stops scikit-learn in between
                tell()
                start = {"init": None} if W is None else {"init": "custom", "W": W, "H": H}
                W, H, _ = non_negative_factorization(X, n_components=n, max_iter=1, tol=0, random_state=seed, **start)
            left = _left(x, W, H)
            settled, before, done = before - left < 1e-7 * total, left, done + 1
            tell(done)
    weights, parts = torch.from_numpy(W).double(), torch.from_numpy(H).double()
    lengths = parts.norm(dim=1)
    carried = (weights.norm(dim=0) * lengths) ** 2 / total
    order = carried.argsort(descending=True)
    if not bool((carried > 0).all()):
        raise DirectionError(
            "the vectors have fewer non-negative parts", received=f"n={n}", allowed=f"1 to {int((carried > 0).sum())}"
        )
    write = (parts / lengths[:, None])[order]
    read = torch.linalg.pinv(write).T
    weights = x.cpu().double() @ read.T
    directions = {
        "read": read.float().to(x.device),
        "write": write.float().to(x.device),
        "mean": x.new_zeros(x.shape[1]).float(),
        "sd": weights.std(0).float().to(x.device),
        "variance": carried[order].float().to(x.device),
    }
    return directions, {"explained": 1 - before / total, "steps": done * STEPS, "converged": settled}


def _left(x: Float[Tensor, "sample d"], W: Any, H: Any) -> float:
    """|X - W H|^2, a block of rows at a time."""
    parts, weights = torch.from_numpy(H), torch.from_numpy(W)
    blocks = (slice(start, start + 2048) for start in range(0, len(x), 2048))
    return sum(float(((x[rows].cpu() - weights[rows] @ parts).double() ** 2).sum()) for rows in blocks)


def _non_negative(
    reading: Iterator[dict[Site, Float[Tensor, "n d"]]], site: Site, head: int | None, clip: bool
) -> Iterator[tuple[Float[Tensor, "n d"], int]]:
    """The vectors, with what is below zero set to zero, and how many entries that were."""
    for vectors in reading:
        x = vectors[site].float()
        below = int((x < 0).sum())
        if below and not clip:
            raise NegativeActivations(
                f"{place(str(site), head)} has entries below zero, and non-negative parts cannot add up to them",
                received=f"{below / x.numel():.1%} of the entries of the first {len(x)} vectors",
                allowed="entries of zero and above, such as the neurons of an MLP with ReLU",
                fix="clip=True sets them to zero, and says so; or use rs.pca or rs.svd, which take both signs",
                on_page="clip sets them to zero, and says so; or fit PCA or SVD, which take both signs",
            )
        yield x.clamp_min(0), below


def _sample(
    reading: Iterator[tuple[Float[Tensor, "n d"], int]], seed: int
) -> tuple[Float[Tensor, "sample d"], int, float]:
    """Up to SAMPLE vectors, each as likely as any other; how many there were, and the share of entries below zero."""
    generator = torch.Generator().manual_seed(seed)
    sample, keys, entries, below = torch.empty(0, 0), torch.empty(0), 0, 0
    seen = 0
    for x, negative in reading:
        seen, entries, below = seen + len(x), entries + x.numel(), below + negative
        drawn = torch.rand(len(x), generator=generator)
        sample, keys = (x.cpu(), drawn) if not len(keys) else (torch.cat([sample, x.cpu()]), torch.cat([keys, drawn]))
        if len(keys) > SAMPLE:
            chosen = keys.topk(SAMPLE, largest=False).indices.sort().values
            sample, keys = sample[chosen], keys[chosen]
    return sample, seen, below / max(entries, 1)
