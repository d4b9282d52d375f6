"""One direction of several: a mix of components, of tokens, of what is saved."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions.direction import Direction
from residscope.errors import WrongWidth, ZeroDirection

CANCELLED = 1e-6  # of the terms' own lengths: what is left of them is then rounding


def mix(
    terms: Sequence[tuple[float, Direction]], *, site: str | None = None, mean: Float[Tensor, "d"] | None = None
) -> Direction:
    """sum_i w_i d_i at unit length of `read`, at the first one's place unless `site` says another.

        read = sum_i w_i read_i / L,   write = sum_i w_i write_i / L,   L = |sum_i w_i read_i|

    Its space is theirs where they all agree, else raw. Centred, its offset is the sum of theirs, or read . mean where the
    data-set `mean` at its place is given (for terms fitted at several places); in the lens space it is the sum. A single
    term keeps its standard deviation; of more, it depends on how they go together.

    Raises:
        WrongWidth: terms of several widths. ZeroDirection: no term has a weight, or they cancel.

    >>> x, y = (Direction(v, v, "embed", name=n) for n, v in zip("xy", torch.eye(2)))
    >>> mix([(3, x), (-4, y)]).read, mix([(3, x), (-4, y)]).name
    (tensor([ 0.6000, -0.8000]), '3 x of embed - 4 y')
    """
    used = [(weight, direction) for weight, direction in terms if weight]
    if not used:
        raise ZeroDirection("the mix has no length", received="no weight but zero", fix="give a component a weight")
    first = used[0][1]
    for _, other in used:
        if len(other.read) != len(first.read):
            raise WrongWidth(
                "the terms of a mix have one width",
                received=f"{other.name} of {other.place}: {len(other.read)}",
                allowed=f"{len(first.read)}, as {first.name} of {first.place} has",
            )
    largest = max(abs(weight) for weight, _ in used)
    shares = torch.tensor([weight / largest for weight, _ in used], dtype=torch.float64)
    reads = torch.stack([direction.read.double().cpu() for _, direction in used])
    length = float((shares @ reads).norm())
    if not length > CANCELLED * float(shares.abs() @ reads.norm(dim=1)):
        raise ZeroDirection("the mix has no length: its terms cancel", received=label(used), fix="change a weight")
    space = first.space if {direction.space for _, direction in used} == {first.space} else "raw"
    writes = torch.stack([direction.write.double().cpu() for _, direction in used])
    read = (shares @ reads / length).to(first.read)
    offset = sum(share * direction.offset for share, (_, direction) in zip(shares.tolist(), used, strict=True)) / length
    if mean is not None and space == "centred":
        offset = float(read @ mean.to(read))
    scale = first.scale if len(used) == 1 else None
    return Direction(
        read=read,
        write=(shares @ writes / length).to(first.write),
        site=site or first.site,
        offset=0.0 if space == "raw" else offset,
        scale=None if scale is None else scale / length,
        name=label(used),
        space=space,
        provenance=first.provenance if len(used) == 1 else {"mix": [_told(w, d) for w, d in used]},
        head=first.head if site in (None, first.site) else None,
    )


def label(terms: Sequence[tuple[float, Direction]]) -> str:
    """Such as `0.7 PC 3 of resid_post.23 - 0.5 NMF 2`: a place is said where it is another than the one before."""
    said, place = "", ""
    for weight, direction in terms:
        several = any(sign in direction.name for sign in (" + ", " - ", " − "))
        name = f"({direction.name})" if several else direction.name
        name = name if abs(weight) == 1 else f"{abs(weight):.3g} {name}"
        name = name if direction.place == place else f"{name} of {direction.place}"
        sign = (" - " if weight < 0 else " + ") if said else ("-" if weight < 0 else "")
        said, place = f"{said}{sign}{name}", direction.place
    return said


def _told(weight: float, direction: Direction) -> dict[str, object]:
    return {"weight": weight, "name": direction.name, "place": direction.place, "of": dict(direction.provenance)}
