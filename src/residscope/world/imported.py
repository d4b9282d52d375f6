"""A direction out of safetensors bytes, refused unless it is whole, finite and of the model's width."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from residscope.directions import Direction
from residscope.directions.sent import KIND, check_model, check_whole, said_about
from residscope.errors import MalformedTensors, WrongWidth, ZeroDirection
from residscope.incoming import Unreadable, tensors_in
from residscope.world.loaded import Loaded

MOST_NAME = 80
MOST_DIRECTIONS = 500
SHAPE = (
    "safetensors with `read` F32[d_model], perhaps `write` F32[d_model], and metadata `name`, `site`, "
    "perhaps `head`, `space`, `offset`, `scale`, `sha256`, `about`; perhaps the model's `signature` F32[n]"
)


def read_direction(data: bytes, loaded: Loaded, known: Mapping[str, Direction]) -> tuple[str, Direction]:
    """The direction and its name. Where the file tells its hash or its model they are checked; its provenance is kept.

    Raises:
        MalformedTensors, WrongWidth, ZeroDirection, DirectionError, SiteError.
        DamagedFile: its sha256 is another. WrongModel: its signature is another model's.
    """
    tensors, metadata = _parse(data)
    check_whole(tensors, metadata)
    about, own = said_about(metadata), metadata.get("residscope") == KIND
    name = metadata.get("name", "").strip()
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise MalformedTensors(
            "the direction needs a name", received=repr(name[:100]), allowed=f"1 to {MOST_NAME} characters"
        )
    told = check_model(name, tensors, about, loaded.model)
    site = loaded.model.sites.parse(metadata.get("site", f"resid_post.{loaded.model.n_layers - 1}"))
    read = _vector(tensors, "read", own=own)
    write = _vector(tensors, "write", own=own) if "write" in tensors else read
    offset, scale, head = (_number(metadata.get(fact)) for fact in ("offset", "scale", "head"))
    if len(read) != len(write):
        raise WrongWidth(
            "`read` and `write` are of two widths", received=f"{len(read)}, {len(write)}", allowed="one width"
        )
    direction = Direction(
        read,
        write,
        str(site),
        offset=offset or 0.0,
        scale=scale,
        name=name,
        space=metadata.get("space", "raw"),
        provenance={**about.get("provenance", {}), **told},
        head=None if head is None else _whole(head),
    )
    _check(direction, loaded)
    if not _free(name, direction, known):
        raise MalformedTensors("another direction has that name", received=name, fix="give it another name")
    return name, direction


def take_in(direction: Direction, loaded: Loaded, known: Mapping[str, Direction], *, id: str) -> tuple[str, Direction]:
    """A direction of the library as the session's, which knows its `id`; under a name that no other has here.

    Raises:
        WrongWidth, ZeroDirection, SiteError.
    """
    moved = replace(
        direction,
        read=direction.read.float(),
        write=direction.write.float(),
        provenance={**direction.provenance, "library": id},
    )
    _check(moved, loaded)
    name = direction.name if _free(direction.name, moved, known) else f"{direction.name} ({id[:8]})"
    _free(name, moved, known)
    return name, replace(moved, name=name)


def _check(direction: Direction, loaded: Loaded) -> None:
    sites = loaded.model.sites
    site = sites.parse(direction.site)
    width = sites.width(site)
    if direction.head is not None:
        sites.check_index(site, "kv_head" if "kv_head" in site.kind.axes else "head", (direction.head,))
    for vector in (direction.read, direction.write):
        if len(vector) != width:
            raise WrongWidth(
                f"the direction does not fit {direction.site}",
                received=f"width {len(vector)}",
                allowed=f"width {width}",
            )
        if not (vector.isfinite().all() and vector.norm() > 0):
            raise ZeroDirection("the direction has no length, or is not finite", received=direction.name)


def _free(name: str, direction: Direction, known: Mapping[str, Direction]) -> bool:
    """Whether a direction may have a name: no other has it, or this very one. Raises MalformedTensors where there is no room."""
    held = known.get(name)
    if held is None:
        if len(known) >= MOST_DIRECTIONS:
            raise MalformedTensors("no more directions fit in the session", allowed=f"up to {MOST_DIRECTIONS}")
        return True
    alike = (held.site, held.head, held.space, held.offset) == (
        direction.site,
        direction.head,
        direction.space,
        direction.offset,
    )
    return alike and torch.equal(held.read, direction.read) and torch.equal(held.write, direction.write)


def _whole(number: float) -> int:
    if number != int(number):
        raise MalformedTensors("the direction's head is no whole number", received=number, allowed=SHAPE)
    return int(number)


def _number(text: str | None) -> float | None:
    try:
        number = None if text is None else float(text)
    except ValueError:
        number = math.inf
    if number is not None and not math.isfinite(number):
        raise MalformedTensors(
            "the direction's offset, scale or head is no number", received=str(text)[:40], allowed=SHAPE
        )
    return number


def _parse(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return tensors_in(data)
    except Unreadable as error:
        raise MalformedTensors(
            f"the tensors do not parse: {error}", received=f"{len(data)} bytes", allowed=SHAPE
        ) from None


def _vector(tensors: Mapping[str, Tensor], name: str, *, own: bool) -> Tensor:
    dtypes = (torch.float32, torch.float64) if own else (torch.float32,)
    if name not in tensors or tensors[name].ndim != 1 or tensors[name].dtype not in dtypes:
        found = ", ".join(f"{k} {str(v.dtype).removeprefix('torch.')}{list(v.shape)}" for k, v in tensors.items())
        raise MalformedTensors(f"there is no vector `{name}`", received=found or "no tensors", allowed=SHAPE)
    return tensors[name].float()
