"""Values as plain JSON and back: directions and dictionaries by their parts, tensors as base64 with their sha256.

Given a mapping, tensors go there instead, once each under their sha256, and the JSON holds only that.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, MutableMapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from residscope.directions import Dictionary, Direction
from residscope.errors import BadEdit

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
_MADE_OF_PARTS: dict[str, type[Any]] = {"$direction": Direction, "$dictionary": Dictionary}


def to_plain(value: Any, tensors: MutableMapping[str, Tensor] | None = None) -> Any:
    if isinstance(value, Tensor):
        return _tensor_out(value, tensors)
    for kind, cls in _MADE_OF_PARTS.items():
        if isinstance(value, cls):
            return {kind: {f.name: to_plain(getattr(value, f.name), tensors) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(v, tensors) for v in value]
    return value


def from_plain(value: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    if isinstance(value, Mapping):
        if "$tensor" in value:
            return _tensor_in(value["$tensor"], tensors)
        for kind, cls in _MADE_OF_PARTS.items():
            if kind in value:
                return cls(**{k: from_plain(v, tensors) for k, v in value[kind].items()})
        return {k: from_plain(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [from_plain(v, tensors) for v in value]
    return value


def _tensor_out(x: Tensor, tensors: MutableMapping[str, Tensor] | None) -> dict[str, Any]:
    x = x.detach().cpu().contiguous()
    raw = _bytes(x)
    digest = hashlib.sha256(raw).hexdigest()
    found = {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "sha256": digest}
    if tensors is None:
        return {"$tensor": found | {"data": b64encode(raw).decode()}}
    tensors[digest] = x
    return {"$tensor": found}


def _tensor_in(found: Any, tensors: Mapping[str, Tensor] | None) -> Tensor:
    digest = str(found.get("sha256")) if isinstance(found, Mapping) else ""
    held = None if tensors is None else tensors.get(digest)
    if tensors is not None and held is None and isinstance(found, Mapping) and "data" not in found:
        raise BadEdit(
            "a tensor of the edits is missing", received=f"sha256 {digest}", allowed=f"{len(tensors)} tensors given"
        )
    try:
        raw = b64decode(found["data"], validate=True) if held is None or "data" in found else _bytes(held)
        dtype = {str(d).removeprefix("torch."): d for d in _DTYPES}[found["dtype"]]
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError(f"the sha256 of {digest} is another")
        return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(found["shape"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadEdit("a tensor of the edit is damaged", received=str(error), allowed="what to_dict writes") from None


def _bytes(x: Tensor) -> bytes:
    raw: bytes = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw
