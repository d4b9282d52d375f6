"""The stack of edits as it is set: whole, one more, or those that fit; each edit says itself what it is made from."""

from collections.abc import Sequence
from typing import Any, TypedDict

from pydantic import Field

from residscope.declare import EditSpec, shorten
from residscope.errors import ErrorBody, MalformedJSON, ModelNotFound, NotFound, ResidscopeError
from residscope.fields.base import Spec
from residscope.fields.sources import CompanionSource, ModelSource, PromptSource, RunSource
from residscope.session.state import Change, State
from residscope.world.stack import kind_of, make, parse_edits
from residscope.world.values import Prompt, Run

MOST_EDITS = 200


class SetEdits(Spec):
    edits: list[Any] = Field(max_length=MOST_EDITS)
    skip_refused: bool = False


class AddEdit(Spec):
    edit: Any


class Refused(TypedDict):
    """An edit of those that were sent, and why it is not in the stack."""

    index: int
    error: ErrorBody


class RefusedEdits(TypedDict):
    refused: list[Refused]


class Added(TypedDict):
    id: str


def set_edits(state: State, args: SetEdits) -> Change[RefusedEdits | None]:
    if args.skip_refused:
        return _set_those_that_fit(state, args.edits)
    specs = tuple(_whole(state, spec) for spec in parse_edits(args.edits))
    for spec in specs:
        if spec not in state.edits and spec.model_copy(update={"enabled": not spec.enabled}) not in state.edits:
            _check(state, spec)
    return state.with_edits(specs), None


def _set_those_that_fit(state: State, raw: Sequence[Any]) -> Change[RefusedEdits]:
    """The stack without the edits that are refused, each with its place in what was sent and why: one step of the history."""
    specs: list[EditSpec] = []
    refused: list[Refused] = []
    for i, one in enumerate(raw):
        try:
            *_, spec = parse_edits([*specs, one])
            spec = _whole(state, spec)
            _check(state, spec)
            specs.append(spec)
        except ResidscopeError as error:
            refused.append({"index": i, "error": error.to_dict()})
    return state.with_edits(tuple(specs)), {"refused": refused}


def add_edit(state: State, args: AddEdit) -> Change[Added]:
    if len(state.edits) >= MOST_EDITS:
        raise MalformedJSON(
            "the stack of edits is full", received=len(state.edits) + 1, allowed=f"up to {MOST_EDITS} edits"
        )
    specs = parse_edits([*state.edits, args.edit])
    specs = (*specs[:-1], _whole(state, specs[-1]))
    _check(state, specs[-1])
    return state.with_edits(specs), {"id": str(specs[-1].id)}


def _whole(state: State, spec: EditSpec) -> EditSpec:
    """An edit that says itself what run its values are from, for the history forgets; and a probe by its id, for names change."""
    changed: dict[str, Any] = {}
    for argument in kind_of(spec).arguments:
        source = getattr(spec, argument.wire)
        if isinstance(source, RunSource):
            run = find_run(state, source.run)
            edits = [other.model_dump(mode="json", exclude={"id", "enabled"}) for other in run.active]
            changed[argument.wire] = _source(run.prompt, edits, of=run.of)
        if isinstance(source, CompanionSource):
            changed[argument.wire] = _source(state.world().beside(), [])
        if argument.field.kind == "probe" and isinstance(source, str) and source not in state.probes:
            changed[argument.wire] = next((p.id for p in state.probes.values() if p.name == source), source)
    return spec.model_copy(update=changed) if changed else spec


def _source(prompt: Prompt, edits: list[dict[str, Any]], of: str = "") -> PromptSource | ModelSource:
    said: dict[str, Any] = {"text": prompt.text, "bos": prompt.bos, "edits": edits}
    said["ids"] = [*prompt.ids] if prompt.by_ids else None
    return ModelSource(kind="model", model=of, **said) if of else PromptSource(kind="prompt", **said)


def find_run(state: State, id: str) -> Run:
    """A run of the history.

    Raises:
        NotFound.
    """
    run = state.run(id)
    if run is None:
        held = f"{state.runs[0].id} to {state.runs[-1].id}" if state.runs else "none yet"
        raise NotFound("that run is no longer held, or never was", received=shorten(id), allowed=f"runs {held}")
    return run


def _check(state: State, spec: EditSpec) -> None:
    if state.prompt is None:
        raise ModelNotFound("there is no prompt to edit yet", fix="set a prompt first")
    make(spec, state.world(), len(state.prompt.tokens))
