"""Values as plain JSON and back: what JSON has no word for is marked by a key that begins with a dollar.

    $tensor     its dtype, shape and sha256, the bytes in base64; given a mapping, the tensor goes there instead, by its sha256
    $array, $number    of numpy      $tuple, $list      $float    nan, inf, -inf
    $mapping    pairs, where a key is no text or begins with a dollar
    $direction, $dictionary, $edit, $probe, $prompts, $record, $result, $view    by their parts: what later rooms have put into
    `FORMS`

What has no such form is refused when it is written, by its name.
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from residscope.errors import BadResult, NotPlain

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
        torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.complex64,
    )
}  # fmt: skip
ALLOWED = (
    "text, numbers, lists, tuples, mappings, tensors, numpy's arrays, directions, dictionaries, edits, probes, results, views, "
    "reports"
)
Label = int | float | str
Tensors = MutableMapping[str, Tensor] | None


@dataclass(frozen=True)
class Form:
    """How values of one class are written, `out(value, tensors, name)`, and read again, `back(plain, tensors)`."""

    cls: type[Any]
    out: Callable[[Any, Tensors, str], Any]
    back: Callable[[Any, Mapping[str, Tensor] | None], Any]


def form(cls: type[Any], check: Callable[[Any], None] = lambda value: None) -> Form:
    """A frozen dataclass by its fields. `check` refuses, once it is read, what no such value has."""

    def out(value: Any, tensors: Tensors, name: str) -> dict[str, Any]:
        if type(value) is not cls:
            raise refusal(name, f"{type(value).__qualname__}, which would come back as a class above it")
        return parts_out(value, tensors, name)

    def back(plain: Any, tensors: Mapping[str, Tensor] | None) -> Any:
        value = made(cls, {name: from_plain(part, tensors) for name, part in plain.items()})
        check(value)
        return value

    return Form(cls, out, back)


def parts_out(value: Any, tensors: Tensors, name: str) -> dict[str, Any]:
    """A dataclass's fields as plain JSON. Raises NotPlain for one that `made` would not take back."""
    hints = get_type_hints(type(value))
    for f in fields(value):
        if not fits(part := getattr(value, f.name), hints[f.name]):
            raise refusal(f"{name}.{f.name}", f"{type(part).__name__}, {part!r}"[:120], allowed=str(hints[f.name]))
    return {f.name: to_plain(getattr(value, f.name), tensors, name=f"{name}.{f.name}") for f in fields(value)}


def made(cls: type[Any], parts: Mapping[str, Any]) -> Any:
    """A dataclass of parts that are what it says they are. Raises NotPlain where one is not."""
    hints = get_type_hints(cls)
    for name, value in parts.items():
        if name not in hints or not fits(value, hints[name]):
            allowed = str(hints.get(name, "no such part"))
            raise NotPlain(
                f"the {name} of a {cls.__name__} is something else", received=repr(value)[:80], allowed=allowed
            )
    return cls(**parts)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says.

    >>> fits((1, 2.0), tuple[float, ...]), fits({"a": None}, Mapping[str, int | None]), fits("1", float)
    (True, True, False)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        every = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (Ellipsis,) else inner
        return isinstance(value, tuple) and len(every) == len(value) and all(map(fits, value, every))
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            fits(part, inner[1]) for part in value.values()
        )  # keys are of any kind
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, tuple | list) and all(fits(v, inner[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else hint)


def to_plain(value: Any, tensors: Tensors = None, *, name: str = "the value") -> Any:
    """A value as plain JSON. Raises NotPlain, by `name` and where in it, for what `from_plain` could not give back."""
    try:
        return _out(value, tensors, name)
    except RecursionError:
        raise refusal(name, "a value that holds itself, or is very deep") from None


def _out(value: Any, tensors: Tensors, name: str) -> Any:
    if isinstance(value, Tensor):
        return {"$tensor": _tensor_out(value, tensors, name)}
    if isinstance(value, np.ndarray | np.generic):
        return {"$array" if isinstance(value, np.ndarray) else "$number": _array_out(value, tensors, name)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else {"$float": repr(float(value))}
    for key, form in FORMS.items():
        if isinstance(value, form.cls):
            return {key: form.out(value, tensors, name)}
    if isinstance(value, Mapping):
        return _mapping_out(value, tensors, name)
    if isinstance(value, tuple | list):
        listed = [_out(v, tensors, f"{name}[{i}]") for i, v in enumerate(value)]
        return {"$tuple": listed} if isinstance(value, tuple) else listed
    raise refusal(name, f"{type(value).__module__}.{type(value).__qualname__}")


def field_to_plain(value: Any, tensors: Tensors = None, *, name: str) -> Any:
    """As `to_plain`, but a tuple is a JSON list, so that `"head": [0, 2]` reads as people write it."""
    plain = to_plain(value, tensors, name=name)
    return plain["$tuple"] if isinstance(value, tuple) else {"$list": plain} if isinstance(value, list) else plain


def field_from_plain(value: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """What `field_to_plain` was given."""
    read = from_plain(value, tensors)
    return tuple(read) if isinstance(value, list) else read


def from_plain(value: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """What `to_plain` was given. Raises NotPlain where a tensor is missing or damaged, or a mark is none of `to_plain`'s."""
    if isinstance(value, list):
        return [from_plain(v, tensors) for v in value]
    if not isinstance(value, Mapping):
        return value
    if not any(isinstance(key, str) and key.startswith("$") for key in value):
        return {k: from_plain(v, tensors) for k, v in value.items()}
    (mark, content), *more = value.items()
    if more or (mark not in _BACK and mark not in FORMS):
        raise NotPlain("no such mark", received=", ".join(map(str, value))[:200], allowed=", ".join([*_BACK, *FORMS]))
    return FORMS[mark].back(content, tensors) if mark in FORMS else _BACK[mark](content, tensors)


FORMS: dict[str, Form] = {}


def _mapping_out(value: Mapping[Any, Any], tensors: Tensors, name: str) -> dict[str, Any]:
    entries = [(key, _out(v, tensors, f"{name}[{key!r}]")) for key, v in value.items()]
    if all(type(key) is str and not key.startswith("$") for key in value):
        return dict(entries)
    return {"$mapping": [[_out(key, tensors, f"a key of {name}"), v] for key, v in entries]}


def _array_out(value: Any, tensors: Tensors, name: str) -> dict[str, Any]:
    try:
        x = torch.from_numpy(np.array(value))
    except (TypeError, ValueError):  # texts, dates, objects, the other byte order
        raise refusal(name, f"numpy's {value.dtype}") from None
    return _tensor_out(x, tensors, name)


def _tensor_out(x: Tensor, tensors: Tensors, name: str) -> dict[str, Any]:
    kind = str(x.dtype).removeprefix("torch.")
    if x.layout is not torch.strided or x.is_meta or DTYPES.get(kind) is not x.dtype:
        where = " on the meta device" if x.is_meta else f", {x.layout}"
        raise refusal(name, f"a tensor of {kind}{where}", allowed=f"dense tensors with values, of {', '.join(DTYPES)}")
    x = x.detach().cpu().resolve_conj().resolve_neg().contiguous()
    raw = _bytes(x)
    digest = hashlib.sha256(raw).hexdigest()
    described = {"dtype": kind, "shape": list(x.shape), "sha256": digest}
    if tensors is None:
        return described | {"data": b64encode(raw).decode()}
    tensors[digest] = x
    return described


def _tensor_in(described: Any, tensors: Mapping[str, Tensor] | None) -> Tensor:
    digest = str(described.get("sha256")) if isinstance(described, Mapping) else ""
    tensor = None if tensors is None else tensors.get(digest)
    if tensors is not None and tensor is None and isinstance(described, Mapping) and "data" not in described:
        raise NotPlain("a tensor is missing", received=f"sha256 {digest}", allowed=f"{len(tensors)} tensors given")
    try:
        raw = b64decode(described["data"], validate=True) if tensor is None or "data" in described else _bytes(tensor)
        dtype, shape = DTYPES[described["dtype"]], [*described["shape"]]
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError(f"the sha256 of {digest} is another")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"no shape: {shape}")
        if not raw:
            return torch.empty(0, dtype=dtype).reshape(shape)
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise NotPlain("a tensor is damaged", received=str(error), allowed="what was written") from None


def _float_in(text: Any, tensors: Mapping[str, Tensor] | None) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise NotPlain("no such number", received=repr(text)[:80], allowed="nan, inf, -inf")
    return float(text)


_BACK: dict[str, Callable[[Any, Mapping[str, Tensor] | None], Any]] = {
    "$tensor": _tensor_in,
    "$array": lambda content, tensors: _tensor_in(content, tensors).numpy(),
    "$number": lambda content, tensors: _tensor_in(content, tensors).numpy()[()],
    "$float": _float_in,
    "$tuple": lambda content, tensors: tuple(from_plain(v, tensors) for v in content),
    "$list": lambda content, tensors: [from_plain(v, tensors) for v in content],
    "$mapping": lambda content, tensors: {from_plain(k, tensors): from_plain(v, tensors) for k, v in content},
}


def byte_array(x: Tensor) -> Any:
    """The bytes of a contiguous tensor on the CPU, as an array over its own memory."""
    flat = x.detach().as_strided((x.numel(),), (1,))  # of one element or none, the strides may be of any length
    return flat.view(torch.uint8).numpy()


def _bytes(x: Tensor) -> bytes:
    raw: bytes = byte_array(x.detach().cpu().contiguous()).tobytes()
    return raw


def refusal(name: str, received: str, *, allowed: str = ALLOWED) -> NotPlain:
    return NotPlain(f"{name} has no form in JSON", received=received, allowed=allowed)


# ── of results ──────────────────────────────────────────────────────────────────────────────────────────────────


def as_label(x: Any) -> Label:
    """A label along a dimension: a text or a number. Raises BadResult."""
    if isinstance(x, str):
        return str(x)
    x = x.item() if hasattr(x, "item") else x
    if isinstance(x, Integral) and not isinstance(x, bool):
        return int(x)
    if isinstance(x, Real) and not isinstance(x, bool):
        return float(x)
    raise BadResult("a label is a number or a text", received=repr(x), allowed="int, float or str")


def as_json(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as JSON has it, so that a result that is made can be saved."""
    try:
        return json.loads(json.dumps(dict(provenance)))
    except (TypeError, ValueError) as error:
        raise BadResult(
            "the provenance holds what is no plain value", received=str(error), allowed="text, numbers, lists, mappings"
        ) from None


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and isfinite(value) else None
