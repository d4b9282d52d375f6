"""Undo and redo: a step of the stack of edits, or all that a link brought."""

from dataclasses import replace
from typing import Any

from residscope.session.settle import companion_for, metric_for, prompt_for
from residscope.session.state import Change, State
from residscope.world.session_world import need_model
from residscope.world.values import Step


def standing(state: State) -> Step:
    """What stands now, as the step that brings it back once a link was opened over it."""
    weights = need_model(state.model).model.hash
    return Step(state.edits, True, state.prompt, state.companion, state.metric, weights)


def undo(state: State, args: Any) -> Change[None]:
    if not state.past:
        return state, None
    *past, step = state.past
    return replace(_turned(state, step), past=(*past,), future=(*state.future, _back(state, step))), None


def redo(state: State, args: Any) -> Change[None]:
    if not state.future:
        return state, None
    *future, step = state.future
    return replace(_turned(state, step), future=(*future,), past=(*state.past, _back(state, step))), None


def _back(state: State, step: Step) -> Step:
    """The step that leads from where another leads to here."""
    return standing(state) if step.link else Step(state.edits)


def _turned(state: State, step: Step) -> State:
    """The state with what a step brings back, read anew where the model is another by now."""
    state = replace(state, edits=step.edits)
    if not step.link or step.prompt is None:
        return state
    loaded, prompt, companion, metric = need_model(state.model), step.prompt, step.companion, step.metric
    if step.weights != loaded.model.hash:
        prompt = prompt_for(loaded, prompt) or prompt
        companion, metric = companion_for(loaded, companion, prompt), metric_for(loaded, metric)
    selection = (state.selection[0], len(prompt.tokens) - 1)
    return replace(
        state,
        prompt=prompt,
        companion=companion,
        metric=metric,
        compared=None,
        comparing=False,
        selection=selection,
    )
