"""Whether what a session says is what `web/said.schema.json` tells the page: read here from the files alone."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from residscope.errors import ResidscopeError
from residscope.session import Session, session

WEB = Path(__file__).parents[1] / "web"
SAID = json.loads((WEB / "said.schema.json").read_text(encoding="utf-8"))
VIEWS = json.loads((WEB / "views.schema.json").read_text(encoding="utf-8"))
TYPES = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
FITTING: set[tuple[str, str]] = set()
"""Parts of a state that were looked at before."""


def shape_of(kind: str, name: str) -> dict[str, Any]:
    """Of an answer, by "intents" or "queries" and its name."""
    return dict(SAID["properties"][kind]["properties"][name])


def misfits(value: Any, shape: Mapping[str, Any], *, at: str = "", of: Mapping[str, Any] = SAID) -> Iterator[str]:
    """Where a JSON value is not of a shape, in words."""
    if "tsType" in shape:
        assert shape["tsType"] == "PlainView"
        yield from misfits(value, VIEWS, at=at, of=VIEWS)
    elif "$ref" in shape:
        part = shape["$ref"].removeprefix("#/definitions/")
        yield from misfits(value, of if part == "#" else of["definitions"][part], at=at, of=of)
    elif "anyOf" in shape:
        every = [[*misfits(value, one, at=at, of=of)] for one in shape["anyOf"]]
        if all(every):
            yield (
                min(every, key=len)[0] if isinstance(value, dict | list) else f"{at}: {value!r:.60} is none of {shape}"
            )
    elif "enum" in shape or "const" in shape:
        if value not in shape.get("enum", [shape.get("const")]):
            yield f"{at}: {value!r:.60} is none of {shape}"
    elif shape.get("type") and not TYPES[shape["type"]](value):
        yield f"{at}: {value!r:.60} is no {shape['type']}"
    elif shape.get("type") == "array":
        items = shape["items"]
        if isinstance(items, list):
            if len(items) != len(value):
                yield f"{at}: {len(value)} parts, not {len(items)}"
            each = [*zip(value, items, strict=False)]
        else:
            each = [(one, items) for one in value]
        for i, (one, inner) in enumerate(each):
            yield from misfits(one, inner, at=f"{at}[{i}]", of=of)
    elif shape.get("type") == "object":
        properties, more = shape.get("properties", {}), shape.get("additionalProperties", True)
        for name in shape.get("required", ()):
            if name not in value:
                yield f"{at}: lacks {name}"
        for name, one in value.items():
            if name in properties:
                yield from misfits(one, properties[name], at=f"{at}.{name}", of=of)
            elif more is False:
                yield f"{at}: has {name}, which is not told of"
            elif isinstance(more, dict):
                yield from misfits(one, more, at=f"{at}.{name}", of=of)


def misfits_of_file(data: bytes, shape: Mapping[str, Any], *, at: str) -> Iterator[str]:
    """The same of a safetensors file: names, dtypes, how many axes, and the names of its metadata."""
    size = int.from_bytes(data[:8], "little")
    head: dict[str, Any] = json.loads(data[8 : 8 + size])
    yield from misfits(head.pop("__metadata__", {}), shape["properties"]["metadata"], at=f"{at}.metadata")
    tensors = shape["properties"]["tensors"]
    yield from (f"{at}: lacks {name}" for name in tensors["required"] if name not in head)
    for name, tensor in head.items():
        if name not in tensors["properties"]:
            yield f"{at}: has {name}, which is not told of"
            continue
        dtype, _, axes = tensors["properties"][name]["description"].partition(" ")
        if tensor["dtype"] != dtype or len(tensor["shape"]) != len(axes.split(",")):
            yield f"{at}.{name}: {tensor['dtype']} {tensor['shape']}, not {dtype} {axes}"


def misfits_of_answer(answer: Any, kind: str, name: str) -> list[str]:
    """Of an answer as it goes out, as JSON or as a file."""
    shape, at = shape_of(kind, name), f"{kind} {name}"
    if isinstance(answer, bytes):
        return [*misfits_of_file(answer, shape, at=at)]
    return [*misfits(json.loads(json.dumps(answer)), shape, at=at)]


CODE = re.compile(r"\w\(|\brs\.|`|\b[a-z_]+=")
"""What a way out on the page does not look like: calls, keyword arguments."""


def in_code(value: Any) -> Iterator[str]:
    """The ways out, in errors anywhere in what is said, that are lines of Python."""
    if isinstance(value, list):
        for one in value:
            yield from in_code(one)
    elif isinstance(value, dict):
        if {"type", "message", "fix"} <= value.keys() and CODE.search(str(value["fix"])):
            yield f"{value['type']} is to be mended by code: {value['fix']}"
        for one in value.values():
            yield from in_code(one)


class Heard:
    """What sessions said: which intents and queries they answered, which parts of the state changed, and what did not fit."""

    def __init__(self) -> None:
        self.answered: set[tuple[str, str]] = set()
        self.told: set[str] = set()
        self.misfits: list[str] = []

    def answer(self, answer: Any, kind: str, name: str) -> None:
        self.answered.add((kind, name))
        self.misfits += misfits_of_answer(answer, kind, name)

    def refusal(self, error: ResidscopeError) -> None:
        self.misfits += in_code(error.to_dict())

    def patch(self, patch: Mapping[str, Any]) -> None:
        self.told |= patch.keys()
        for part, value in patch.items():
            text = json.dumps(value)
            if (part, text) not in FITTING:  # the same model comes in most tests
                faults = [
                    *misfits({part: json.loads(text)}, SAID["definitions"]["State"] | {"required": []}, at="state")
                ]
                self.misfits += [*faults, *in_code(value)]
                if not faults:
                    FITTING.add((part, text))


@contextmanager
def hearing() -> Iterator[Heard]:
    """All that sessions say meanwhile, whoever asks: their answers, and every patch of the state."""
    heard = Heard()
    intent, query, changed = Session.intent, Session.query, session.changed

    @contextmanager
    def refusals_heard() -> Iterator[None]:
        try:
            yield
        except ResidscopeError as error:
            heard.refusal(error)
            raise

    def heard_intent(self: Session, name: str, args: Any = None, person: Any = None) -> Any:
        with refusals_heard():
            answer = intent(self, name, args, person)
        heard.answer(answer, "intents", name)
        return answer

    def heard_query(self: Session, name: str, args: Any = None, person: Any = None, **more: Any) -> Any:
        with refusals_heard():
            answer = query(self, name, args, person, **more)
        heard.answer(answer, "queries", name)
        return answer

    def heard_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
        patch = changed(old, new)
        heard.patch(patch)
        return patch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "intent", heard_intent)
        patch.setattr(Session, "query", heard_query)
        patch.setattr(session, "changed", heard_change)
        yield heard
