"""The plain data of every kind of view as JSON Schema, from which the page's types are made: `make view-types`."""

import json
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, is_typeddict

from residscope.views import pictures, words
from residscope.views.view import Part, Plain, View

KINDS: tuple[type[View], ...] = (
    pictures.HeatMap, pictures.Curve, pictures.Histogram, pictures.Scatter, pictures.TokenStrip, pictures.Pattern,
    words.Table, words.Text, words.Card, words.Grid,
)  # fmt: skip
_SCALARS = {str: "string", float: "number", int: "number", bool: "boolean", NoneType: "null"}
_INFINITE = {
    "type": "object",
    "additionalProperties": {"enum": ["inf", "-inf"]},
    "description": "Where a null stands for an infinity, by path.",
}


def schema() -> dict[str, Any]:
    """One definition for every kind and for each of its parts; a document is any of the kinds."""
    parts: dict[str, Any] = {}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "PlainView",
        "description": "A view of any kind.",
        "anyOf": [_of(kind, parts) for kind in KINDS],
        "definitions": dict(sorted(parts.items())),
    }


def name_of(part: type) -> str:
    return f"{part.__name__}View"


def _of(hint: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """What a value of that type is in JSON; parts that are met on the way are defined in `parts`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        mark = next((about for about in arguments[1:] if isinstance(about, Plain)), None)
        return _of(mark.type if mark else arguments[0], parts)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_of(option, parts) for option in arguments]}
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = [_of(item, parts) for item in arguments]
        return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (Sequence, list, tuple):
        return {"type": "array", "items": _of(arguments[0], parts)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of(arguments[1], parts)}
    if hint is View:
        return {"$ref": "#"}
    if isinstance(hint, type) and (issubclass(hint, Part) or is_typeddict(hint)):
        return _part(hint, parts)
    raise TypeError(f"nothing is known of {hint!r} as JSON: say it with view.Plain")


def _part(part: type, parts: dict[str, Any]) -> dict[str, Any]:
    name = name_of(part)
    if name not in parts:
        parts[name] = {}  # it may hold itself
        kind = {"kind": {"const": part.kind}} if issubclass(part, View) else {}
        hints = part.plain_types() if issubclass(part, Part) else part.__annotations__
        properties = kind | {field: _of(hint, parts) for field, hint in hints.items()}
        infinite = {"infinite": _INFINITE} if issubclass(part, Part) else {}
        parts[name] = {
            "type": "object",
            "description": (part.__doc__ or "").strip().split("\n")[0],
            "properties": properties | infinite,
            "required": list(properties),
            "additionalProperties": False,
        }
    return {"$ref": f"#/definitions/{name}"}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
