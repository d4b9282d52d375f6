"""What is computed after the first paint, one forward at a time: the companion, leave-one-out deltas, saved prompts."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from residscope.declare import EditSpec
from residscope.errors import Cancelled, ResidscopeError
from residscope.session import compute
from residscope.session.companion import with_outcome
from residscope.session.state import Saved, State
from residscope.world.loaded import Loaded
from residscope.world.values import Outcome, Prompt


@dataclass(frozen=True)
class LeaveOut:
    """The last position's logits with the whole stack but one edit."""

    id: str
    loaded: Loaded
    prompt: Prompt
    rest: tuple[EditSpec, ...]


@dataclass(frozen=True)
class Summarise:
    """A saved prompt's next token."""

    text: str
    loaded: Loaded


@dataclass(frozen=True)
class Beside:
    """What comes out of the companion."""

    loaded: Loaded
    prompt: Prompt


Task = LeaveOut | Summarise | Beside
Answer = Tensor | Saved | Outcome


def next_task(state: State) -> Task | None:
    if state.model is None or state.status.phase != "idle":
        return None
    if state.companion is not None and state.companion.outcome is None:
        return Beside(state.model, state.companion.prompt)
    if state.prompt is not None and state.edited is not None:
        for spec in state.active:
            if spec.id not in state.without:
                rest = tuple(other for other in state.active if other is not spec)
                return LeaveOut(str(spec.id), state.model, state.prompt, rest)
    untried = (entry for entry in state.saved if not entry.tried)
    return next((Summarise(entry.text, state.model) for entry in untried), None)


def do(task: Task, state: State) -> Answer:
    """The task's answer; NaN, or no summary, where the model refuses it. Raises Cancelled where it is stopped."""
    if isinstance(task, Beside):
        return _outcome(task, state)
    try:
        if isinstance(task, LeaveOut):
            return compute.last_logits(state.world(), task.prompt, task.rest)
        prompt = task.loaded.prompt(task.text)
        ((_, text, p),) = compute.top_tokens(task.loaded.model, compute.last_logits(state.world(), prompt, ()), 1)
        return Saved(task.text, tokens=len(prompt.tokens), top=text, p=p, tried=True)
    except Cancelled:
        raise
    except (ResidscopeError, RuntimeError):
        unknown = torch.full((task.loaded.model.d_vocab,), torch.nan)
        return unknown if isinstance(task, LeaveOut) else Saved(task.text, tried=True)


def merge(now: State, asked: State, task: Task, answer: Answer) -> State:
    """The state with an answer in it, if it still is an answer to this state."""
    if isinstance(task, LeaveOut):
        if now.version != asked.version:
            return now
        assert isinstance(answer, Tensor)
        return replace(now, without={**now.without, task.id: answer})
    if now.model is None or now.model.model is not task.loaded.model:
        return now
    if isinstance(task, Beside):
        assert isinstance(answer, Outcome)
        return with_outcome(now, task.prompt, answer)
    assert isinstance(answer, Saved)
    entries = (answer if entry.text == task.text and not entry.tried else entry for entry in now.saved)
    return replace(now, saved=tuple(entries))


def _outcome(task: Beside, state: State) -> Outcome:
    started = time.perf_counter()
    try:
        last = compute.last_logits(state.world(), task.prompt, ())
    except Cancelled:
        raise
    except (ResidscopeError, RuntimeError) as error:
        return Outcome(failed=str(error))
    seconds = time.perf_counter() - started
    return Outcome(last, compute.top_tokens(task.loaded.model, last, compute.TOP), seconds)
