"""What is said to a page, as JSON Schema, from which its types are made: the state, and the answer of every intent and query."""

import json
from collections.abc import Mapping
from typing import Any, Never, get_args

from jaxtyping import AbstractArray

from residscope.server import library
from residscope.session.compute import TensorFile
from residscope.session.intents import INTENTS
from residscope.session.queries import QUERIES
from residscope.session.wire import State
from residscope.views.schema import Shapes
from residscope.views.view import View

PICTURE = {"tsType": "PlainView"}
ARRAYS = {"float32": ("F32", "Float32Array"), "int64": ("I64", "Float64Array"), "uint8": ("U8", "Uint8Array")}
"""Of each dtype, what safetensors calls it and what the page reads it into."""


def answers() -> dict[str, dict[str, Any]]:
    """The type of every answer, by the name of its intent or query."""
    return {
        "intents": {name: intent.answer_type for name, intent in INTENTS.items()} | _of_library(library.INTENTS),
        "queries": {name: query.answer_type for name, query in QUERIES.items()} | _of_library(library.QUERIES),
    }


def schema() -> dict[str, Any]:
    """The state, and the answers to intents and queries by name, those of the library too."""
    shapes = Said()
    parts = {"state": shapes.of(State)} | {kind: _all(shapes, types) for kind, types in answers().items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Said",
        "description": "What a session says.",
        "type": "object",
        "properties": parts,
        "required": [*parts],
        "additionalProperties": False,
        "definitions": dict(sorted(shapes.definitions.items())),
    }


class Said(Shapes):
    """Answers and their parts; a picture is a view of any kind, tensors are as the page reads them."""

    def of(self, hint: Any) -> dict[str, Any]:
        if hint is View:
            return dict(PICTURE)
        if isinstance(hint, type) and issubclass(hint, TensorFile):
            return self._file(*get_args(vars(hint)["__orig_bases__"][0]))
        if isinstance(hint, type) and issubclass(hint, AbstractArray):
            (dtype,) = hint.dtypes
            file, page = ARRAYS[dtype]
            return {"tsType": f"Tensor<{page}>", "description": f"{file} [{hint.dim_str.replace(' ', ', ')}]"}
        return super().of(hint)

    def _file(self, tensors: type, words: Any) -> dict[str, Any]:
        """Tensors by name, and the names of its metadata, which are all JSON."""
        metadata = {} if words is Never else {name: {"type": "string"} for name in get_args(words)}
        parts = {"metadata": _object(metadata), "tensors": self.whole(tensors)}
        return _object(parts)


def _of_library(asked: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: answer_type for name, (_, answer_type) in asked.items()}


def _all(shapes: Shapes, types: Mapping[str, Any]) -> dict[str, Any]:
    return _object({name: shapes.of(types[name]) for name in sorted(types)})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
