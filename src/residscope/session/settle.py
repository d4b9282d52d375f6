"""What follows from a change of the state: labels, refusals, the version; and the results when they come."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from residscope.declare import EditSpec
from residscope.errors import ResidscopeError
from residscope.session.beside import NO_SECOND
from residscope.session.compute import TOP, Held, top_tokens
from residscope.session.state import MOST_RUNS, Saved, State
from residscope.world.inert import find_inert
from residscope.world.loaded import Loaded
from residscope.world.stack import check, place
from residscope.world.values import Companion, Metric, Prompt, Run, Tok, run_key

EXAMPLE = "When John and Mary went to the store, John gave a bottle of milk to"
SHORT_EXAMPLE = "The"  # for models of a few dozen tokens
EXAMPLE_ANSWERS = (" Mary", " John")


def settle(old: State, new: State) -> State:
    """The new state with everything that depends on what changed; a new version where other runs are needed."""
    if new.model is None or new.prompt is None:
        return new
    if (
        new.model is not old.model
        or new.prompt != old.prompt
        or new.edits != old.edits
        or new.probes.keys() != old.probes.keys()
    ):
        new = _judge_edits(new, new.model, new.prompt)
    if new.companion is not None and new.prompt is not None and new.prompt != old.prompt:
        new = replace(new, companion=new.companion.beside(new.prompt))
    again = old.status.phase == "failed" and new.prompt is not old.prompt
    if plan(new) != plan(old) or again:
        status = replace(new.status, phase="running", detail="", progress=None, error=None, wanted=None)
        new = replace(new, version=old.version + 1, without={}, status=status)
    if new.metric is None:
        new = replace(new, metric=guess_metric(new))
    if new.metric != old.metric:
        here = (new.baseline, new.edited, new.second.baseline, new.second.edited)
        mine = [r.id for r in new.runs if r.id in here and r.version == new.version]
        new = replace(new, runs=tuple(replace(r, metric=new.metric) if r.id in mine else r for r in new.runs))
    return new


def plan(state: State) -> object:
    """What is to be computed: two states with one plan share their results."""
    return (
        None if state.prompt is None else (id(state.model and state.model.model), run_key(state.prompt, state.active))
    )


def finished(state: State, base: Held, edited: Held | None, *, forward_ms: float | None) -> State:
    """The state once its runs are done."""
    state = _enter(state, (), base, "baseline")
    state = _enter(state, state.active, edited, "edited") if edited is not None else replace(state, edited=None)
    state = _beside(state)
    if state.metric is None or not state.metric.chosen:
        state = replace(state, metric=guess_metric(state))
    runs = tuple(replace(r, metric=state.metric) if r.version == state.version else r for r in state.runs)
    without: Mapping[str, Tensor] = {}
    if edited is not None:
        without = {str(spec.id): edited.last for spec in state.active if str(spec.id) in state.inert}
        if len(state.active) == 1:
            without = {str(state.active[0].id): base.last}
    shown = forward_ms if forward_ms is not None else state.status.forward_ms
    status = replace(state.status, phase="idle", detail="", progress=None, forward_ms=shown, error=None, wanted=None)
    return replace(state, runs=runs, without=without, status=status)


def other_finished(state: State, loaded: Loaded, base: Held, edited: Held | None) -> State:
    """The state once the second model's runs of the same are done."""
    of = state.second.name, loaded.model.hash
    for active, held in (((), base), (state.active, edited)):
        state = state if held is None else _entered(state, active, held, of)[0]
    return _beside(state)


def _beside(state: State) -> State:
    """The state with the second model's runs of what is shown, as far as they are there."""
    second, prompt = state.second, state.prompt
    if second.loaded is None or prompt is None:
        return state
    known = {run.key: run.id for run in state.runs}
    of = second.loaded.model.hash
    baseline = known.get(run_key(prompt, (), of))
    edited = known.get(run_key(prompt, state.active, of)) if state.active else None
    return replace(state, second=replace(second, baseline=baseline, edited=edited))


def guess_metric(state: State) -> Metric | None:
    """The example's own answers on the example; else the two likeliest next tokens of the unedited run."""
    if state.prompt is None or state.model is None:
        return None
    if state.prompt.text == EXAMPLE:
        try:
            positive, negative = map(state.model.token, EXAMPLE_ANSWERS)
            return Metric(positive, negative, chosen=False)
        except ResidscopeError:
            pass
    key = run_key(state.prompt, ())
    base = next((run for run in state.runs if run.key == key), None)
    if base is None or len(base.top) < 2:
        return None
    (a, a_text, _), (b, b_text, _) = base.top[:2]
    return Metric(Tok(a, a_text), Tok(b, b_text), chosen=False)


def with_model(state: State, loaded: Loaded) -> State:
    """The state on another model: prompt, metric, edits and saved prompts carried over as far as they go."""
    prompt = prompt_for(loaded, state.prompt)
    companion = None if prompt is None else companion_for(loaded, state.companion, prompt)
    selection = (loaded.model.n_layers - 1, len(prompt.tokens) - 1 if prompt else 0)
    notices = state.notices
    if state.directions:
        notices = (*notices, f"Imported directions belong to the model before: {', '.join(state.directions)} dropped.")
    if state.probes:
        kept = {} if state.shelf is None else state.shelf.items
        written = [fitted.name in kept and kept[fitted.name].file is not None for fitted in state.probes.values()]
        gone = "put away until it is loaded again" if all(written) else "dropped"
        notices = (*notices, f"Probes belong to the model before: {len(state.probes)} {gone}.")
    if state.second.name:
        notices = (*notices, f"{state.second.name} stood beside the model before, and is put away.")
    if state.model is not None and (fitted := len(state.model.fitted.keys() - loaded.fitted.keys())):
        gone = "dropped" if state.model.file is None else "put away until it is loaded again"
        notices = (*notices, f"Fitted dictionaries belong to the model before: {fitted} {gone}.")
    return replace(
        state,
        model=loaded,
        prompt=prompt,
        companion=companion,
        metric=metric_for(loaded, state.metric),
        selection=selection,
        notices=notices,
        runs=(),
        compared=None,
        comparing=False,
        baseline=None,
        edited=None,
        without={},
        second=NO_SECOND,
        directions={},
        probes={},
        jobs=(),
        saved=tuple(Saved(s.text, tokens=_count(loaded, s.text)) for s in state.saved),
        status=replace(state.status, phase="idle", detail="", progress=None, forward_ms=None, error=None, wanted=None),
    )


def _judge_edits(state: State, loaded: Loaded, prompt: Prompt) -> State:
    world, n_pos = state.world(), len(prompt.tokens)
    judged = {str(s.id): check(s, world, n_pos) for s in state.edits}
    problems = {id: problem for id, (_, _, problem) in judged.items() if problem is not None}
    state = replace(state, labels={id: label for id, (label, _, _) in judged.items()}, problems=problems)
    active = [(str(spec.id), judged[str(spec.id)][1]) for spec in state.active]
    table = loaded.model.sites
    at = {id: place(edit, table) for id, (_, edit, _) in judged.items() if edit is not None}
    return replace(state, inert=find_inert(active, table, n_pos=n_pos), at=at)


def _enter(state: State, active: tuple[EditSpec, ...], held: Held, role: str) -> State:
    entered, run = _entered(state, active, held)
    return replace(entered, baseline=run.id) if role == "baseline" else replace(entered, edited=run.id)


def _entered(
    state: State, active: tuple[EditSpec, ...], held: Held, of: tuple[str, str] = ("", "")
) -> tuple[State, Run]:
    """The state with a run in its history. of: name and hash of the second model, of its runs."""
    assert state.model is not None
    assert state.prompt is not None
    key = run_key(state.prompt, active, of[1])
    known = next((run for run in state.runs if run.key == key), None)
    count = state.count + (known is None)
    run = Run(
        id=known.id if known else f"r{count}",
        version=state.version,
        prompt=state.prompt,
        metric=state.metric,
        edits=state.edits if active else (),
        active=active,
        label=" + ".join(state.labels[str(spec.id)] for spec in active) or "unedited",
        newest=state.labels[str(active[-1].id)] if active else None,
        last=held.last,
        top=known.top if known else top_tokens(state.model.model, held.last, TOP),
        seconds=held.seconds,
        of=of[0],
        weights=of[1],
    )
    runs = (*(r for r in state.runs if r.id != run.id), run)[-MOST_RUNS:]
    return replace(state, runs=runs, count=count), run


def prompt_for(loaded: Loaded, prompt: Prompt | None) -> Prompt | None:
    """The prompt as another model reads it; an example's where it cannot."""
    if prompt is not None and prompt.chat is not None:
        with suppress(ResidscopeError):
            return loaded.conversation(prompt.chat)
    wanted = [] if prompt is None else [(prompt.text, prompt.bos)]
    for text, bos in [*wanted, (EXAMPLE, None), (SHORT_EXAMPLE, None)]:
        try:
            return loaded.prompt(text, bos=bos)
        except ResidscopeError:
            continue
    return None


def companion_for(loaded: Loaded, companion: Companion | None, live: Prompt) -> Companion | None:
    """The companion as another model reads it; None where it cannot."""
    if companion is None:
        return None
    try:
        return Companion.of(loaded.prompt(companion.prompt.text, bos=companion.prompt.bos), live)
    except ResidscopeError:
        return None


def metric_for(loaded: Loaded, metric: Metric | None) -> Metric | None:
    """The answers that were chosen, as another model's tokens; None where it has none such."""
    if metric is None or not metric.chosen:
        return None
    try:
        return Metric(loaded.token(metric.positive.text), loaded.token(metric.negative.text), chosen=True)
    except ResidscopeError:
        return None


def _count(loaded: Loaded, text: str) -> int:
    try:
        return len(loaded.prompt(text).tokens)
    except ResidscopeError:
        return 0
