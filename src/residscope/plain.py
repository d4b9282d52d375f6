"""Values as plain JSON and back: tensors as base64 with their sha256, directions by their parts."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from residscope.directions import Direction
from residscope.errors import BadEdit

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)


def to_plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _tensor_out(value)
    if isinstance(value, Direction):
        return {"$direction": {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def from_plain(value: Any) -> Any:
    if isinstance(value, Mapping) and "$tensor" in value:
        return _tensor_in(value["$tensor"])
    if isinstance(value, Mapping) and "$direction" in value:
        return Direction(**{k: from_plain(v) for k, v in value["$direction"].items()})
    if isinstance(value, Mapping):
        return {k: from_plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_plain(v) for v in value]
    return value


def _tensor_out(x: Tensor) -> dict[str, Any]:
    x = x.detach().cpu().contiguous()
    raw = x.view(torch.uint8).numpy().tobytes() if x.ndim else x.reshape(1).view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256(raw).hexdigest()
    dtype = str(x.dtype).removeprefix("torch.")
    return {"$tensor": {"dtype": dtype, "shape": list(x.shape), "sha256": digest, "data": b64encode(raw).decode()}}


def _tensor_in(found: Mapping[str, Any]) -> Tensor:
    try:
        raw = b64decode(found["data"], validate=True)
        dtype = {str(d).removeprefix("torch."): d for d in _DTYPES}[found["dtype"]]
        if hashlib.sha256(raw).hexdigest() != found["sha256"]:
            raise ValueError("its sha256 is another")
        return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(found["shape"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadEdit("a tensor of the edit is damaged", received=str(error), allowed="what to_dict writes") from None
