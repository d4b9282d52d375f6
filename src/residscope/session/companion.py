"""The companion: the prompt beside the live one, which it is compared with and patched from."""

from dataclasses import replace
from typing import Any

from pydantic import Field

from residscope.errors import ModelNotFound, NotFound
from residscope.fields.base import Spec
from residscope.fields.prompts import MOST_TEXT
from residscope.session.state import MOST_RUNS, Change, State
from residscope.world.fitted import names_in
from residscope.world.session_world import need_model
from residscope.world.values import Companion, Outcome, Prompt, Run, run_key


class SetCompanion(Spec):
    """The prompt to compare with and to patch from; None: none. bos: as the live prompt has it, unless said. ids: its tokens,
    where its text would be read as others."""

    text: str | None = Field(default=None, max_length=MOST_TEXT)
    bos: bool | None = None
    ids: list[int] | None = Field(default=None, min_length=1, max_length=MOST_TEXT)


def set_companion(state: State, args: SetCompanion) -> Change[None]:
    if args.text is None and args.ids is None:
        return replace(state, companion=None, comparing=False), None
    if state.prompt is None:
        raise ModelNotFound("there is no prompt to stand beside yet", fix="set a prompt first")
    loaded, bos = need_model(state.model), state.prompt.bos if args.bos is None else args.bos
    prompt = loaded.prompt(args.text or "", bos=bos) if args.ids is None else loaded.prompt_of(args.ids)
    companion = Companion.of(prompt, state.prompt)
    return replace(state, companion=known(state, companion), comparing=False), None


def swap_companion(state: State, args: Any) -> Change[None]:
    """The companion becomes the prompt, and the prompt its companion; the answers stay, guessed ones too."""
    companion, live = _beside(state)
    prompt = replace(companion.prompt, names=names_in(companion.prompt.ids, state.probes.values()))
    selection = (state.selection[0], len(prompt.tokens) - 1)
    beside = known(state, Companion.of(live, prompt))
    metric = state.metric and replace(state.metric, chosen=True)
    return replace(
        state, prompt=prompt, companion=beside, metric=metric, compared=None, comparing=False, selection=selection
    ), None


def compare_companion(state: State, args: Any) -> Change[None]:
    """The companion's unedited run becomes run A: now where it has been run, else once it has."""
    companion, _ = _beside(state)
    state = replace(state, companion=known(state, companion))
    return compared(replace(state, comparing=True)), None


def known(state: State, companion: Companion) -> Companion:
    """The companion with what came out of it, where the history has its run."""
    run = _run_of(state, companion.prompt)
    if companion.outcome is not None or run is None:
        return companion
    return replace(companion, outcome=Outcome(run.last, run.top, run.seconds))


def with_outcome(state: State, prompt: Prompt, outcome: Outcome) -> State:
    """The state once its companion has been run, if it still is its companion."""
    companion = state.companion
    if companion is None or companion.prompt != prompt:
        return state
    return compared(replace(state, companion=replace(companion, outcome=outcome)))


def compared(state: State) -> State:
    """The state with the companion's run as run A, where that is asked for and it has been run."""
    companion = state.companion
    if not state.comparing or companion is None or companion.outcome is None or companion.outcome.last is None:
        return state
    outcome, run = companion.outcome, _run_of(state, companion.prompt)
    if run is None:
        run = Run(
            id=f"r{state.count + 1}", version=state.version, prompt=companion.prompt, metric=state.metric, edits=(), active=(),
            label="unedited", newest=None, last=companion.outcome.last, top=outcome.top, seconds=outcome.seconds,
        )  # fmt: skip
        state = replace(state, runs=(*state.runs, run)[-MOST_RUNS:], count=state.count + 1)
    return replace(state, compared=run.id, comparing=False)


def _run_of(state: State, prompt: Prompt) -> Run | None:
    key = run_key(prompt, ())
    return next((run for run in state.runs if run.key == key), None)


def _beside(state: State) -> tuple[Companion, Prompt]:
    if state.companion is None or state.prompt is None:
        raise NotFound("no companion stands beside the prompt", fix="write one first")
    return state.companion, state.prompt
