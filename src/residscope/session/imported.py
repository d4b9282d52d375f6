"""A direction out of safetensors bytes, refused unless it is whole, finite and of the model's width."""

import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from residscope.directions import Direction
from residscope.errors import MalformedTensors, WrongWidth, ZeroDirection
from residscope.session.loaded import Loaded

MOST_NAME = 80
MOST_DIRECTIONS = 500
SHAPE = "safetensors with `read` F32[d_model], perhaps `write` F32[d_model], and metadata `name`, `site`"


def read_direction(data: bytes, loaded: Loaded, known: Mapping[str, Direction]) -> tuple[str, Direction]:
    """The direction and its name.

    Raises:
        MalformedTensors, WrongWidth, ZeroDirection, SiteError.
    """
    tensors, metadata = _parse(data)
    name = metadata.get("name", "").strip()
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise MalformedTensors(
            "the direction needs a name", received=repr(name[:100]), allowed=f"1 to {MOST_NAME} characters"
        )
    site = loaded.model.sites.parse(metadata.get("site", f"resid_post.{loaded.model.n_layers - 1}"))
    read = _vector(tensors, "read")
    write = _vector(tensors, "write") if "write" in tensors else read
    width = loaded.model.sites.width(site)
    for vector in (read, write):
        if len(vector) != width:
            raise WrongWidth(
                f"the direction does not fit {site}", received=f"width {len(vector)}", allowed=f"width {width}"
            )
        if not (vector.isfinite().all() and vector.norm() > 0):
            raise ZeroDirection("the direction has no length, or is not finite", received=name)
    direction = Direction(read, write, str(site), name=name, provenance={"imported": name})
    held = known.get(name)
    if held is not None and not (
        held.site == direction.site and torch.equal(held.read, read) and torch.equal(held.write, write)
    ):
        raise MalformedTensors("another direction has that name", received=name, fix="give it another name")
    if held is None and len(known) >= MOST_DIRECTIONS:
        raise MalformedTensors("no more directions fit in the session", allowed=f"up to {MOST_DIRECTIONS}")
    return name, direction


def _parse(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        return tensors, json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise MalformedTensors(
            f"the tensors do not parse: {error}", received=f"{len(data)} bytes", allowed=SHAPE
        ) from None


def _vector(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors or tensors[name].ndim != 1 or tensors[name].dtype != torch.float32:
        found = ", ".join(f"{k} {str(v.dtype).removeprefix('torch.')}{list(v.shape)}" for k, v in tensors.items())
        raise MalformedTensors(f"there is no vector `{name}`", received=found or "no tensors", allowed=SHAPE)
    return tensors[name]
