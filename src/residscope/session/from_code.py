"""What code in the same process asks of a session: objects go into its state, and come out of it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import count
from typing import Any

from residscope.declare import EditSpec
from residscope.directions import Direction
from residscope.engine.protocols import LeastEdit, whole
from residscope.errors import BadEdit, ResidscopeError
from residscope.session.editing import SetEdits, set_edits
from residscope.session.state import Change, State
from residscope.world.given import KIND, key_of, same, still_held, words_of
from residscope.world.imported import take_in
from residscope.world.session_world import need_model
from residscope.world.stack import make, parse_edits

_numbers = count(1)  # names are given once: a history may still say them


def put_edits(state: State, stack: Sequence[Any]) -> Change[None]:
    """The state with these objects as its stack. Those that stand in it already keep their ids; others are said as the page
    says them where that gives the very same edit, so that it has its sliders; the rest are held as they are.

    Raises:
        BadEdit: something is no edit. SiteError, DirectionError, UnknownPosition: what the model or the prompt lacks.
    """
    standing = {id(edit): spec for spec, edit in zip(state.active, edits_of(state), strict=True)}
    specs: list[EditSpec] = []
    for edit in stack:
        if not isinstance(edit, LeastEdit):
            raise BadEdit(
                "this is no edit", received=f"{type(edit).__name__} {edit!r}"[:120], allowed="a tuple of residscope.edits",
                fix='wb.edits = (rs.edits.ablate("z.9", head=6),)',
            )  # fmt: skip
        known = standing.pop(id(edit), None)
        if known is None:
            state, known = _say(state, edit)
        specs.append(known)
    new, _ = set_edits(state, SetEdits(edits=_with_ids(specs)))
    stacks = [new.edits, *(step.edits for step in (*new.past, *new.future)), *(run.edits for run in new.runs)]
    return replace(new, given=still_held(new.given, stacks)), None


def edits_of(state: State) -> tuple[Any, ...]:
    """The edits that a run applies, as objects: those that code put there are the very ones."""
    if state.model is None:
        return ()
    world = state.world()
    return tuple(_object(spec, state, world) for spec in state.active)


def _object(spec: EditSpec, state: State, world: Any) -> Any:
    held = state.given.get(getattr(spec, "name", "") if spec.kind == KIND else key_of(spec))
    return held if held is not None else world.made([spec])[0]


def _say(state: State, edit: Any) -> tuple[State, EditSpec]:
    """An edit as a spec, and the state that holds what the spec names."""
    said = state

    def name_direction(direction: Direction) -> str:
        nonlocal said
        said, name = hold_direction(said, direction)
        return name

    with suppress(ResidscopeError, TypeError, ValueError):
        words = words_of(edit, state.world(), name_direction)
        if words is not None:
            (spec,) = parse_edits([words])
            if same(make(spec, said.world()), edit, said.world()):
                return replace(said, given={**said.given, key_of(spec): edit}), spec
    whole(edit).places(state.world().model.sites)  # refuses at once what the model lacks, in the engine's words
    name = f"g{next(_numbers)}"
    (held,) = parse_edits([{"kind": KIND, "name": name}])
    return replace(state, given={**state.given, name: edit}), held


def hold_direction(state: State, direction: Direction) -> tuple[State, str]:
    """A direction of code's among the session's, under its own name or one like it. Raises DirectionError, SiteError."""
    known, named = state.directions, replace(direction, name=direction.name or "direction")
    digest = sha256(direction.read.float().cpu().numpy().tobytes() + direction.write.float().cpu().numpy().tobytes())
    name, held = take_in(named, need_model(state.model), known, id=digest.hexdigest())
    held = replace(direction, name=name, read=held.read, write=held.write)
    return replace(state, directions={**known, name: held}), name


def _with_ids(specs: Sequence[EditSpec]) -> list[Any]:
    """The same, those that came without an id, or with one that stands there already, with none yet."""
    taken: set[str | None] = set()
    kept: list[Any] = []
    for spec in specs:
        kept.append(spec if spec.id not in taken else spec.model_copy(update={"id": None}))
        taken.add(spec.id)
    return kept
