"""A second model beside the session's own: asked for, loaded, and run on the same prompt with the same edits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import Field

from residscope.engine.alike import require_alike
from residscope.engine.model import Model
from residscope.errors import Cancelled, explain
from residscope.fields.base import Spec
from residscope.session.beside import FAILED, LOADING, NO_SECOND, READY, Second
from residscope.session.state import Change, State
from residscope.world.loaded import Loaded
from residscope.world.session_world import need_model


class SetOther(Spec):
    """The model to lay beside this one: a catalog name, a hub id, a folder or BASE+ADAPTER; None: none."""

    model: str | None = Field(default=None, min_length=1, max_length=4096)


def set_other(state: State, args: SetOther) -> Change[None]:
    """Raises ModelNotFound where no model is loaded to lay it beside."""
    need_model(state.model)
    if args.model is None:
        return without_other(state), None
    if state.second.name == args.model and state.second.phase in (LOADING, READY):
        return replace(state, compared=None), None
    asked = Second(args.model, LOADING, f"Loading {args.model}")
    return replace(without_other(state), second=asked), None


def without_other(state: State) -> State:
    """The state without a second model, and without its runs."""
    runs = tuple(run for run in state.runs if not run.of)
    compared = state.compared if any(run.id == state.compared for run in runs) else None
    return replace(state, second=NO_SECOND, runs=runs, compared=compared)


def load_second(
    state: State, load: Callable[..., Any], wanted: Callable[[], bool], tell: Callable[..., None]
) -> Second:
    """The second model that a state asks for, loaded; or why it is not there. In the worker.

    wanted: whether it still is. tell: of its progress. Raises Cancelled.
    """
    name, own = state.second.name, need_model(state.model)

    def progress(stage: str, done: int, total: int) -> None:
        if not wanted():
            raise Cancelled("the second model is not wanted any more")
        tell(detail=f"{name}: {stage}", progress=min(done / total, 1.0) if total else None)

    try:
        if own.source == name:
            model: Model = own.model
        else:
            model = load(name, dtype=own.model.dtype, device=own.model.device, progress=progress)
        require_alike(own.model, model)
        loaded = Loaded.of(model, source=name)
    except Cancelled:
        raise
    except Exception as error:
        return Second(name, FAILED, f"{name} is not beside {own.model.name}.", error=explain(error))
    return Second(name, READY, loaded=loaded)
