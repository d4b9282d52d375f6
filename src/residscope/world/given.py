"""Edits that come as objects, from code in the same process: said as the wire says them where that gives the very same edit."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from residscope import fields
from residscope.declare import EDITS, EditKind, EditSpec
from residscope.directions import Dictionary, Direction, LinearDictionary
from residscope.edits import to_json
from residscope.edits.base import BaseEdit
from residscope.errors import ResidscopeError
from residscope.fields.base import World

KIND = "given"
MOST_SAID = 20_000  # characters of an edit that a line holds whole
_LEFT_OUT = object()


def _given(name: Annotated[str, fields.name(of="edit")]) -> Any:
    """An edit that code made, which no words of the page say: it goes in and out of the stack as it is."""
    raise TypeError(f"{name} is held by the session")


class _Given(EditKind):
    def make(self, plain: EditSpec, world: World) -> Any:
        return world.given(plain.name)  # type: ignore[attr-defined]

    def code(self, plain: Any, writer: Any, *first: str) -> str:
        return str(writer.given(plain.name))


GIVEN = _Given(KIND, "From code", _given, glyph="ƒ", says="from code")


def key_of(spec: EditSpec) -> str:
    """What makes two edits of a stack the same edit."""
    return spec.model_dump_json(exclude={"id", "enabled"})


def code_of(name: str, given: Mapping[str, Any]) -> str:
    """An edit that was given, as Python: whole where that is short, else by its name in the notebook's workbench."""
    try:
        said = to_json(given[name])
    except (ResidscopeError, KeyError):
        said = ""
    return f"edits.from_json({said!r})[0]" if 0 < len(said) <= MOST_SAID else f"wb.given[{name!r}]"


def words_of(edit: Any, world: Any, name_direction: Callable[[Direction], str]) -> dict[str, Any] | None:
    """An edit as the wire says it, without an id; None where no words do. name_direction: holds a direction, answers its name.

    Whoever asks makes an edit of the words again and compares (`same`): the words may say less than the edit.
    """
    kind = EDITS.get("ablate" if getattr(edit, "kind", "") == "resample" else getattr(edit, "kind", ""))
    if not isinstance(edit, BaseEdit) or kind is None:
        return None
    said: dict[str, Any] = {"kind": kind.id}
    if edit.kind == "resample":
        said["to"] = "resample"
    for argument in kind.arguments:
        value = getattr(edit, argument.name, None)
        if argument.name == "receiver":
            value = edit.site
        if value is None or argument.wire in said:
            continue
        plain = _plain(argument.field.kind, value, world, name_direction)
        if plain is _LEFT_OUT:
            return None
        said[argument.wire] = plain
    return said


def _plain(kind: str, value: Any, world: Any, name_direction: Callable[[Direction], str]) -> Any:
    if kind == "direction":
        several = value if isinstance(value, tuple | list) else [value]
        if not all(isinstance(one, Direction) for one in several):
            return _LEFT_OUT
        named = [_component(one, world) or {"kind": "saved", "name": name_direction(one)} for one in several]
        return named if len(named) > 1 else named[0]
    if kind == "dictionary":
        known = world.loaded.dictionaries.items()
        return next((id for id, one in known if one is value or one.hash == value.hash), _LEFT_OUT) if isinstance(
            value, Dictionary
        ) else _LEFT_OUT  # fmt: skip
    if kind == "align":
        return (
            value
            if isinstance(value, str)
            else [[*pair] for pair in value.items()]
            if isinstance(value, Mapping)
            else _LEFT_OUT
        )
    if kind == "source":
        return {"kind": "prompt", "text": value} if isinstance(value, str) else _LEFT_OUT
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else [*value]
    return value if isinstance(value, str | int | float | bool) else _LEFT_OUT


def _component(direction: Direction, world: Any) -> dict[str, Any] | None:
    """One of a dictionary's own directions, as the page says it."""
    for id, dictionary in world.loaded.dictionaries.items():
        if not isinstance(dictionary, LinearDictionary) or dictionary.site != direction.site:
            continue
        if dictionary.read.shape[-1] != len(direction.read) or dictionary.read.dtype != direction.read.dtype:
            continue
        (places,) = (dictionary.read == direction.read).all(-1).nonzero(as_tuple=True)
        if len(places):
            return {"kind": "mix", "terms": [{"dictionary": id, "index": int(places[0]), "weight": 1.0}]}
    return None


def same(made: Any, edit: Any, world: Any) -> bool:
    """Whether two edits do one thing: written down, they are the same to the last byte but for what parts of them are called."""
    if isinstance(getattr(edit, "source", None), str):
        edit = replace(edit, source=[[*world.loaded.prompt(edit.source).ids]])
    try:
        return bool(_doing(json.loads(to_json(made))) == _doing(json.loads(to_json(edit))))
    except ResidscopeError:
        return False


def _doing(said: Any) -> Any:
    """An edit written down, without the names of its parts and where they come from."""
    if isinstance(said, dict):
        return {key: _doing(value) for key, value in said.items() if key not in ("name", "provenance")}
    return [_doing(one) for one in said] if isinstance(said, list) else said


def still_held(held: Mapping[str, Any], stacks: Sequence[Sequence[EditSpec]]) -> dict[str, Any]:
    """Of what is held, that which a stack still uses: by its name, or as what a spec was said for."""
    used = {key for stack in stacks for spec in stack for key in (key_of(spec), getattr(spec, "name", None))}
    return {key: edit for key, edit in held.items() if key in used}
