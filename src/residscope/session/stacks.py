"""Stacks of edits under names: what is kept of the live one, to be put back later."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

from pydantic import Field

from residscope.edits.saved import from_json, to_json
from residscope.errors import BadEdit, MalformedJSON, NameTaken, NotFound
from residscope.fields.base import Spec
from residscope.session.state import Change, State
from residscope.shelf.stacks import NamedStack
from residscope.world.given import KIND
from residscope.world.session_world import need_model
from residscope.world.stack import describe_edit, parse_edits
from residscope.written import name_of

MOST_STACKS = 200
MOST_EDITS = 200
MOST_NAME = 100
MOST_TEXT = 16 << 20


class SaveStack(Spec):
    """edits: instead of those that are live. replace: one of that name makes way."""

    name: str
    edits: list[Any] | None = Field(default=None, max_length=MOST_EDITS)
    replace: bool = False


class RenameStack(Spec):
    name: str
    to: str


class DeleteStack(Spec):
    name: str


class ImportStack(Spec):
    """text: as `edits.to_json` writes it."""

    text: str = Field(max_length=MOST_TEXT)


class OfStack(Spec):
    """name: None is the live one."""

    name: str | None = None


class StackEdits(TypedDict):
    """The edits as they are sent, those that are switched off too."""

    edits: list[Any]


class StackJson(TypedDict):
    """What `edits.to_json` writes of those that are switched on; `edits.from_json` reads it."""

    json: str


def find_stack(state: State, name: str) -> NamedStack:
    """Raises NotFound."""
    found = next((stack for stack in state.stacks if stack.name == name), None)
    if found is None:
        known = ", ".join(stack.name for stack in state.stacks) or "none is saved"
        raise NotFound("no stack of that name is saved", received=name[:MOST_NAME], allowed=known)
    return found


def save_stack(state: State, args: SaveStack) -> Change[None]:
    name, loaded = name_of(args.name, "a stack's name", most=MOST_NAME), need_model(state.model)
    specs = state.edits if args.edits is None else parse_edits(args.edits)
    if not specs:
        raise BadEdit("there are no edits to save", fix="put one on the stack first")
    held = [spec for spec in specs if spec.kind == KIND]
    if held:
        raise BadEdit(
            "an edit that code holds as an object has no words to be saved in",
            received=state.labels.get(str(held[0].id), held[0].kind),
            fix="save it in code, with residscope.edits.save",
        )
    others = tuple(stack for stack in state.stacks if stack.name != name)
    if len(others) < len(state.stacks) and not args.replace:
        raise NameTaken("a stack of that name is saved already", received=name, fix="choose another, or replace it")
    if len(others) >= MOST_STACKS:
        raise MalformedJSON("the list of saved stacks is full", allowed=f"up to {MOST_STACKS}", fix="delete one first")
    world = state.world()
    labels = [state.labels.get(str(spec.id)) or describe_edit(spec, world.made([spec])[0], world) for spec in specs]
    edits = tuple(spec.model_dump(mode="json", exclude={"id"}) for spec in specs)
    made = NamedStack(name, loaded.source or loaded.model.name, loaded.model.hash, edits, tuple(labels))
    return replace(state, stacks=(*others, made)), None


def rename_stack(state: State, args: RenameStack) -> Change[None]:
    old, to = find_stack(state, args.name), name_of(args.to, "a stack's name", most=MOST_NAME)
    if to != old.name and any(stack.name == to for stack in state.stacks):
        raise NameTaken("a stack of that name is saved already", received=to, fix="choose another")
    stacks = tuple(replace(stack, name=to) if stack is old else stack for stack in state.stacks)
    return replace(state, stacks=stacks), None


def delete_stack(state: State, args: DeleteStack) -> Change[None]:
    old = find_stack(state, args.name)
    return replace(state, stacks=tuple(stack for stack in state.stacks if stack is not old)), None


def import_stack(state: State, args: ImportStack) -> Change[None]:
    """The session itself does this: edits of a file come as objects."""
    return state, None


def imported(text: str) -> Sequence[Any]:
    """Raises BadEdit, naming the entry that does not parse."""
    return from_json(text)


def edits_of_stack(state: State, name: str | None) -> StackEdits:
    """Raises NotFound."""
    if name is None:
        return {"edits": [spec.model_dump(mode="json", exclude={"id"}) for spec in state.edits]}
    return {"edits": [dict(edit) for edit in find_stack(state, name).edits]}


def json_of_stack(state: State, name: str | None) -> StackJson:
    """Raises NotFound, and what an edit's making refuses: what it names may be of another model, or gone."""
    specs = state.edits if name is None else parse_edits([*find_stack(state, name).edits])
    return {"json": to_json(state.world().made(spec for spec in specs if spec.enabled))}
