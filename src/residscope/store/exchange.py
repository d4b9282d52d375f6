"""A direction as bytes: what the library keeps of it, and the file that people hand to each other.

Both are safetensors with `read` and `write`; the file also holds the model's `signature` and, as JSON in the metadata, everything
else. The live session takes the same file (the intent `import_direction`), so do other programs that read safetensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from residscope.directions import SPACES, Direction
from residscope.directions.sent import KIND, check_whole, said_about, seal
from residscope.errors import BadText, DirectionError, MalformedTensors, ZeroDirection
from residscope.incoming import tensors_in
from residscope.model.sites import Site
from residscope.store.entries import ModelKey
from residscope.store.tables import Model

MOST_WIDTH = 1 << 20
MOST_PROVENANCE = 256 << 10
DTYPES = (torch.float32, torch.float64)
SHAPE = "safetensors with `read`, perhaps `write`, of one axis (float32 or float64), and a direction's facts in its metadata"


@dataclass(frozen=True, eq=False)
class Sent:
    """What such a file holds: the direction, its model, and what its owner said of it."""

    direction: Direction
    model: ModelKey
    description: str | None


def pack(direction: Direction) -> bytes:
    """The two vectors alone: equal bytes for equal vectors."""
    return save({"read": _plain(direction.read), "write": _plain(direction.write)})


def unpack(data: bytes) -> tuple[Tensor, Tensor]:
    tensors = load(data)
    return tensors["read"], tensors["write"]


def to_file(sent: Sent) -> bytes:
    d = sent.direction
    about = {
        "provenance": plain_json(d.provenance),
        "description": sent.description,
        "model": {"hash": sent.model.hash, "name": sent.model.name},
    }
    tensors = {"read": _plain(d.read), "write": _plain(d.write), "signature": sent.model.signature.contiguous()}
    facts = {"residscope": KIND, "name": d.name, "site": d.site, "space": d.space, "offset": repr(d.offset)}
    facts |= {} if d.scale is None else {"scale": repr(d.scale)}
    facts |= {} if d.head is None else {"head": str(d.head)}
    facts["about"] = json.dumps(about)
    return save(tensors, metadata=facts | {"sha256": seal(tensors, facts)})


def from_file(data: bytes) -> Sent:
    """What `to_file` wrote.

    Raises:
        MalformedTensors: it is no such file. DamagedFile: it is one, changed since.
        SiteError, ZeroDirection, DirectionError: what it holds is no direction.
    """
    try:
        tensors, facts = tensors_in(data)
        if facts.get("residscope") != KIND:
            raise ValueError("it says nothing of a saved direction")
        check_whole(tensors, {"sha256": "none", **facts})
        about = said_about(facts)
        read, write = tensors["read"], tensors.get("write", tensors["read"])
        description = about["description"]
        if not all(x.ndim == 1 and x.dtype in DTYPES for x in (read, write)):
            raise ValueError("its vectors are none of float32 or float64")
        if len(read) != len(write):
            raise ValueError("its vectors are of two widths")
        weights = tensors["signature"]
        if weights.ndim != 1 or weights.dtype != torch.float32 or not weights.isfinite().all():
            raise ValueError("the model's signature is no vector")
        model = ModelKey(_line(about["model"]["hash"], 128), _line(about["model"]["name"], 400), weights)
        scale, head = facts.get("scale"), facts.get("head")
        direction = Direction(
            read,
            write,
            str(Site.parse(facts["site"])),
            offset=float(facts["offset"]),
            scale=None if scale is None else float(scale),
            name=facts["name"],
            space=facts["space"],
            provenance=about["provenance"],
            head=None if head is None else _head(head),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise MalformedTensors(
            f"that is no direction's file: {error}", received=f"{len(data):,} bytes", allowed=SHAPE
        ) from None
    return Sent(direction, model, None if description is None else str(description))


def known(model: Model) -> ModelKey:
    """A row of the models as their key."""
    return ModelKey(model.hash, model.name, torch.frombuffer(bytearray(model.signature), dtype=torch.float32))


def check(direction: Direction) -> None:
    """Refuse what is not worth keeping.

    Raises:
        DirectionError, ZeroDirection.
    """
    for vector in (direction.read, direction.write):
        if len(vector) > MOST_WIDTH:
            raise DirectionError("the direction is too wide", received=len(vector), allowed=f"up to {MOST_WIDTH:,}")
        if not vector.norm() > 0:
            raise ZeroDirection("a direction without length cannot be saved", received=direction.name)
    numbers = torch.tensor([direction.offset, direction.scale or 0.0])
    if direction.space not in SPACES or not numbers.isfinite().all():
        raise DirectionError(
            "the direction's offset or scale is no number",
            received=f"offset {direction.offset}, scale {direction.scale}",
        )


def plain_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance as JSON, refused where it is none, or too long.

    Raises:
        BadText.
    """
    try:
        text = json.dumps(value, allow_nan=False, default=dict)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadText(f"the provenance is not JSON: {error}", allowed="plain values") from None
    if len(text) > MOST_PROVENANCE:
        raise BadText(
            "the provenance is too long", received=f"{len(text):,} characters", allowed=f"{MOST_PROVENANCE:,}"
        )
    return dict(json.loads(text))


def _head(text: Any) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ValueError("the head is no number")
    return int(text)


def _line(value: Any, most: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ValueError("the model's name or hash is no line of text")
    return value


def _plain(vector: Tensor) -> Tensor:
    vector = vector.detach().cpu()
    return (vector if vector.dtype in DTYPES else vector.float()).contiguous().clone()
