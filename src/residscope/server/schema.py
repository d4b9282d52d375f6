"""What each intent and query takes, as JSON Schema, from which the page's types are made: `make view-types`."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from residscope.fields.directions import AnyDirection
from residscope.fields.texts import TextRef
from residscope.server import library
from residscope.session.intents import INTENTS, Intent
from residscope.session.queries import QUERIES, Query

KEPT = (
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "oneOf",
    "enum",
    "const",
    "description",
    "$ref",
)
FILE = {"tsType": "Blob"}


def schema() -> dict[str, Any]:
    """The arguments of every intent and query by name, those of the library too; and what is referred to in several."""
    parts: dict[str, Any] = {}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Asked",
        "description": "What may be asked of a session.",
        "type": "object",
        "properties": {
            "intents": _all(_args(INTENTS) | {name: args for name, (args, _) in library.INTENTS.items()}, parts),
            "queries": _all(_args(QUERIES) | {name: args for name, (args, _) in library.QUERIES.items()}, parts),
        },
        "required": ["intents", "queries"],
        "additionalProperties": False,
        "definitions": parts
        | {
            "DirectionRef": _of(TypeAdapter(AnyDirection).json_schema(), parts),
            "TextRef": _of(TypeAdapter(TextRef).json_schema(), parts),
        },
    }


def _args(asked: Mapping[str, Intent] | Mapping[str, Query]) -> dict[str, type[BaseModel]]:
    return {name: one.args for name, one in asked.items()}


def _all(shapes: Mapping[str, type[BaseModel]], parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _of(shapes[name].model_json_schema(), parts) for name in sorted(shapes)},
        "required": sorted(shapes),
        "additionalProperties": False,
    }


def _of(whole: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """A shape without its own definitions, which go to `parts`."""
    for name, part in whole.get("$defs", {}).items():
        parts[name] = _plain(part)
    return _plain(whole)


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    """What a type says; bounds and defaults are the server's to check."""
    if part.get("format") == "binary":
        return dict(FILE)
    plain = {key: value for key, value in part.items() if key in KEPT}
    if "$ref" in plain:
        return {"$ref": plain["$ref"].replace("#/$defs/", "#/definitions/")}
    if "properties" in plain:
        plain["properties"] = {name: _plain(inner) for name, inner in plain["properties"].items()}
    for several in ("anyOf", "oneOf"):
        if several in plain:
            plain[several] = [_plain(inner) for inner in plain[several]]
    for one in ("items", "additionalProperties"):
        if isinstance(plain.get(one), dict):
            plain[one] = _plain(plain[one])
    return plain


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
