"""The plain data of every kind of view as JSON Schema, from which the page's types are made: `make view-types`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from residscope.views import contexts, network, pictures, words
from residscope.views.view import Part, Plain, View

KINDS: tuple[type[View], ...] = (
    pictures.HeatMap, pictures.Curve, pictures.Histogram, pictures.Scatter, pictures.TokenStrip, contexts.Contexts,
    network.Network, pictures.Pattern, words.Table, words.Text, words.Card, words.Grid,
)  # fmt: skip
_SCALARS = {str: "string", float: "number", int: "number", bool: "boolean", NoneType: "null"}
_INFINITE = {
    "type": "object",
    "additionalProperties": {"enum": ["inf", "-inf"]},
    "description": "Where a null stands for an infinity, by path.",
}


def schema() -> dict[str, Any]:
    """One definition for every kind and for each of its parts; a document is any of the kinds."""
    shapes = Views()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "PlainView",
        "description": "A view of any kind.",
        "anyOf": [shapes.of(kind) for kind in KINDS],
        "definitions": dict(sorted(shapes.definitions.items())),
    }


def name_of(part: type) -> str:
    return f"{part.__name__}View"


@dataclass(frozen=True)
class More:
    """Beside a part, in `Annotated`: it has more than is named."""


class Shapes:
    """Types of Python as JSON Schema. Typed dicts and dataclasses that are met are in `definitions`, each once, by name."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._met: dict[str, type] = {}

    def of(self, hint: Any) -> dict[str, Any]:
        """What a value of that type is in JSON."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.annotated(arguments[0], arguments[1:])
        if hint is Any:
            return {}
        if hint in _SCALARS:
            return {"type": _SCALARS[hint]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, UnionType):
            return {"anyOf": [self.of(option) for option in arguments]}
        if origin is tuple and arguments[-1] is not Ellipsis:
            items = [self.of(item) for item in arguments]
            return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
        if origin in (Sequence, list, tuple):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (Mapping, dict):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(hint, type) and (is_typeddict(hint) or is_dataclass(hint)):
            return self.part(hint)
        raise TypeError(f"nothing is known of {hint!r} as JSON: say it with view.Plain")

    def annotated(self, hint: Any, about: Sequence[Any]) -> dict[str, Any]:
        """Of what is said beside a type, its plain one, and a sentence about it."""
        plain = next((one.type for one in about if isinstance(one, Plain)), hint)
        shape = self.of(plain)
        if any(isinstance(one, More) for one in about):
            self.definitions[self.name_of(plain)]["additionalProperties"] = True
        description = next((one for one in about if isinstance(one, str)), None)
        return shape if description is None or "$ref" in shape else {"description": description} | shape

    def part(self, part: type) -> dict[str, Any]:
        """A reference to the part, which is defined."""
        name = self.name_of(part)
        if self._met.setdefault(name, part) is not part:
            raise TypeError(f"{part!r} and {self._met[name]!r} would both be {name}: call one of them something else")
        if name not in self.definitions:
            self.definitions[name] = {}  # it may hold itself
            self.definitions[name] = self.whole(part)
        return {"$ref": f"#/definitions/{name}"}

    def name_of(self, part: type) -> str:
        return part.__name__

    def whole(self, part: type) -> dict[str, Any]:
        """All that the part has, and nothing else."""
        hints = self.hints(part)
        optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
        description = (part.__doc__ or "").strip().split("\n")[0]
        return {
            "type": "object",
            **({"description": description} if description else {}),
            "properties": {n: self.of(get_args(h)[0] if n in optional else h) for n, h in hints.items()},
            "required": [name for name in hints if name not in optional],
            "additionalProperties": False,
        }

    def hints(self, part: type) -> dict[str, Any]:
        hints = get_type_hints(part, include_extras=True)
        return {f.name: hints[f.name] for f in fields(part)} if is_dataclass(part) else hints


class Views(Shapes):
    """Views and their parts; one within another may be of any kind."""

    def of(self, hint: Any) -> dict[str, Any]:
        if hint is View:
            return {"$ref": "#"}
        return self.part(hint) if isinstance(hint, type) and issubclass(hint, Part) else super().of(hint)

    def name_of(self, part: type) -> str:
        return name_of(part)

    def whole(self, part: type) -> dict[str, Any]:
        whole = super().whole(part)
        if not issubclass(part, Part):
            return whole
        kind = {"kind": {"const": part.kind}} if issubclass(part, View) else {}
        whole["properties"] = kind | whole["properties"] | {"infinite": _INFINITE}
        return whole | {"required": [*kind, *whole["required"]]}

    def hints(self, part: type) -> dict[str, Any]:
        return part.plain_types() if issubclass(part, Part) else super().hints(part)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
