"""What the session holds, as frozen values: a change is a new state, so a refused intent changes nothing. `to_wire`: its JSON."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor

from residscope.declare import EditSpec
from residscope.errors import ErrorBody, NotFound
from residscope.json_values import finite
from residscope.session import wire
from residscope.session.beside import NO_SECOND, NONE, Second
from residscope.shelf.items import ItemShelf, short_args
from residscope.shelf.stacks import NamedStack
from residscope.world.limits import OWN, Limits
from residscope.world.loaded import Loaded
from residscope.world.session_world import SessionWorld, need_model
from residscope.world.stack import kind_of
from residscope.world.values import Companion, Metric, Outcome, Prompt, Run, Step, Tok

if TYPE_CHECKING:
    from residscope.directions import Direction
    from residscope.session.jobs import Job
    from residscope.world.fitted import Fitted

MOST_RUNS = 50
MOST_UNDO = 100


def _no_shelf() -> wire.Shelf:
    return {"items": [], "bytes": 0, "budget": 0, "can_restore": False}


@dataclass(frozen=True)
class Saved:
    """A saved prompt; its summary follows once it has been run."""

    text: str
    tokens: int = 0
    top: str | None = None
    p: float | None = None
    tried: bool = False


@dataclass(frozen=True)
class Status:
    phase: str = "empty"
    detail: str = "No model is loaded yet."
    progress: float | None = None
    forward_ms: float | None = None
    error: ErrorBody | None = None
    wanted: str | None = None


@dataclass(frozen=True)
class State:
    """Everything the page shows. `version` counts what is to be computed; results carry the version they answer.

    `id`: of the session, one of its own each time: the runs and jobs of two sessions have the same names.
    """

    id: str = ""
    version: int = 0
    model: Loaded | None = None
    models: tuple[wire.ModelOffer, ...] = ()
    status: Status = Status()
    prompt: Prompt | None = None
    companion: Companion | None = None
    metric: Metric | None = None
    edits: tuple[EditSpec, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    inert: Mapping[str, str] = field(default_factory=dict)
    at: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    without: Mapping[str, Tensor] = field(default_factory=dict)
    past: tuple[Step, ...] = ()
    future: tuple[Step, ...] = ()
    links: int = 0  # that were opened
    runs: tuple[Run, ...] = ()
    compared: str | None = None
    comparing: bool = False  # the companion's run is to be compared with once it is there
    baseline: str | None = None
    edited: str | None = None
    count: int = 0
    second: Second = NO_SECOND
    selection: tuple[int, int] = (0, 0)
    saved: tuple[Saved, ...] = ()
    stacks: tuple[NamedStack, ...] = ()
    directions: Mapping[str, "Direction"] = field(default_factory=dict)
    probes: Mapping[str, "Fitted"] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    jobs: "tuple[Job, ...]" = ()
    items: wire.Shelf = field(default_factory=_no_shelf)
    shelf: ItemShelf | None = field(default=None, compare=False, repr=False)
    notices: tuple[str, ...] = ()
    present: tuple[str | None, ...] = ()
    library: int | None = None
    limits: Limits = OWN

    def world(self) -> SessionWorld:
        """What plain values mean here. Raises ModelNotFound."""
        return SessionWorld(
            need_model(self.model),
            self.prompt,
            self.metric,
            self.directions,
            self.probes,
            self.runs,
            self.active,
            self.shelf,
            self.given,
            None if self.companion is None else self.companion.prompt,
            self.second.loaded,
            self.limits,
        )

    @property
    def active(self) -> tuple[EditSpec, ...]:
        """The edits a run applies: enabled, and possible on this model and prompt."""
        return tuple(spec for spec in self.edits if spec.enabled and spec.id not in self.problems)

    @property
    def a(self) -> str | None:
        """The run compared with: one chosen, the second model's with the same edits, or the prompt's unedited run."""
        if self.run(self.compared):
            return self.compared
        return self.beside or self.baseline

    @property
    def beside(self) -> str | None:
        """The second model's run of what is shown, where it is there: with the same edits, unless it refuses them."""
        return next((id for id in (self.second.edited, self.second.baseline) if self.run(id)), None)

    def loaded_of(self, run: Run) -> Loaded:
        """The model that a run is one of. Raises ModelNotFound, NotFound."""
        if not run.of:
            return need_model(self.model)
        second = self.second.loaded
        if second is None or second.model.hash != run.weights:
            raise NotFound("the model that it is a run of is no longer beside this one", received=run.of[:200])
        return second

    @property
    def b(self) -> str | None:
        """The run looked at, where it is another than `a`."""
        shown = self.edited or self.baseline
        return shown if shown != self.a else None

    def run(self, id: str | None) -> Run | None:
        return next((run for run in self.runs if run.id == id), None)

    def with_edits(self, edits: tuple[EditSpec, ...]) -> "State":
        """A new stack, the old one on the pile for undo."""
        if edits == self.edits:
            return self
        return replace(self, edits=edits, past=(*self.past, Step(self.edits))[-MOST_UNDO:], future=())


T = TypeVar("T")
Change = tuple[State, T]
"""What an intent makes: the new state, and the intent's answer."""


def to_wire(state: State) -> wire.State:
    status = state.status
    return {
        "session": state.id,
        "version": state.version,
        "model": None if state.model is None else state.model.info,
        "models": list(state.models),
        "status": {
            "phase": status.phase,
            "detail": status.detail,
            "progress": status.progress,
            "forward_ms": status.forward_ms,
            "error": status.error,
            "wanted": status.wanted,
        },
        "prompt": _prompt(state.prompt),
        "companion": _companion(state.companion, state.metric),
        "other": _other(state.second),
        "metric": _metric(state.metric),
        "edits": [_edit(spec, state) for spec in state.edits],
        "can_undo": bool(state.past),
        "can_redo": bool(state.future),
        "links": {"opened": state.links, "undo": bool(state.past) and state.past[-1].link},
        "runs": [_run(run, state) for run in state.runs],
        "current": {"a": state.a, "b": state.b},
        "selection": {"layer": state.selection[0], "pos": state.selection[1]},
        "saved": [{"text": s.text, "tokens": s.tokens, "top": s.top, "p": s.p} for s in state.saved],
        "stacks": [_stack(stack, state) for stack in state.stacks],
        "directions": [
            {
                "name": name,
                "site": str(direction.site),
                "head": direction.head,
                "space": direction.space,
                "width": len(direction.read),
                "norm": finite(float(direction.read.norm())),
                "library": direction.provenance.get("library"),
            }
            for name, direction in state.directions.items()
        ],
        "probes": [_fitted(fitted) for fitted in state.probes.values()],
        "jobs": [_job(job) for job in state.jobs],
        "items": state.items,
        "notices": list(state.notices),
        "present": _present(state.present),
        "library": state.library,
    }


def _job(job: "Job") -> wire.Job:
    """A job; of what it was asked for, no long texts."""
    return {
        "id": job.id,
        "method": job.method,
        "title": job.title,
        "name": job.name,
        "phase": job.phase,
        "stage": job.stage,
        "progress": finite(job.progress),
        "left": finite(job.left),
        "cost": finite(job.cost),
        "seconds": finite(job.seconds),
        "revision": job.revision,
        "items": list(job.items),
        "note": job.note,
        "warnings": list(job.warnings),
        "error": job.error,
        "args": short_args(job.args),
    }


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level keys that differ, each whole."""
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


def _stack(stack: NamedStack, state: State) -> wire.NamedStack:
    here = state.model is not None and state.model.model.hash == stack.hash
    return {"name": stack.name, "model": stack.model, "here": here, "labels": [*stack.labels]}


def token(tok: Tok) -> wire.Tok:
    return {"id": tok.id, "text": tok.text}


def top(rows: tuple[tuple[int, str, float], ...]) -> list[wire.TokenP]:
    return [{"id": id, "text": text, "p": finite(p)} for id, text, p in rows]


def _prompt(prompt: Prompt | None) -> wire.Prompt | None:
    if prompt is None:
        return None
    turns = () if prompt.chat is None else prompt.chat.turns
    messages: list[wire.Turn] = [{"role": role, "content": content} for role, content in turns]
    chat: wire.Chat | None = None if prompt.chat is None else {"messages": messages, "answer": prompt.chat.answer}
    tokens = [token(tok) for tok in prompt.tokens]
    return {"text": prompt.text, "bos": prompt.begins, "by_ids": prompt.by_ids, "tokens": tokens, "chat": chat}


def _companion(companion: Companion | None, metric: Metric | None) -> wire.Companion | None:
    shown = None if companion is None else _prompt(companion.prompt)
    if companion is None or shown is None:
        return None
    return {**shown, "pairs": [*companion.pairs], "outcome": _outcome(companion.outcome, metric)}


def _outcome(outcome: Outcome | None, metric: Metric | None) -> wire.Outcome | None:
    if outcome is None:
        return None
    value = None if metric is None or outcome.last is None else finite(metric.of(outcome.last))
    return {"metric": value, "top": top(outcome.top), "error": outcome.failed}


def _other(second: Second) -> wire.Other | None:
    if second.phase == NONE:
        return None
    return {
        "name": second.name,
        "phase": second.phase,
        "detail": second.detail,
        "progress": finite(second.progress),
        "error": second.error,
        "hash": None if second.loaded is None else second.loaded.model.hash,
        "runs": {"baseline": second.baseline, "edited": second.edited},
    }


def _metric(metric: Metric | None) -> wire.Metric | None:
    if metric is None:
        return None
    return {"positive": token(metric.positive), "negative": token(metric.negative), "chosen": metric.chosen}


def _fitted(fitted: "Fitted") -> wire.ProbeInfo:
    probe = fitted.probe
    return {
        "name": fitted.id,
        "item": fitted.name or None,
        "job": fitted.job or None,
        "revision": fitted.revision,
        "mapped": fitted.mapped,
        "data": _data(fitted.recipe),
        "site": probe.site,
        "position": probe.position,
        "label": probe.label,
        "classes": list(probe.classes),
        "accuracy": finite(probe.accuracy),
        "control": finite(probe.control),
        "selectivity": finite(probe.selectivity),
        "interval": list(probe.interval),
        "C": probe.C,
        "train": sum(probe.counts),
        "held_out": probe.held_out,
    }


def _data(recipe: Mapping[str, Any] | None) -> wire.ProbeData | None:
    """The prompts that it was fitted from, a file's without its text."""
    if recipe is None:
        return None
    data = recipe["data"]
    shown = {part: value for part, value in data.items() if part != "text" or data["kind"] != "file"}
    return cast("wire.ProbeData", shown)


def _edit(spec: EditSpec, state: State) -> wire.ShownEdit:
    id = str(spec.id)
    layer, pos = state.at.get(id, (None, None))
    shown: wire.ShownEdit = {
        "id": id,
        "enabled": spec.enabled,
        "kind": spec.kind,
        "label": state.labels.get(id, spec.kind),
        "glyph": kind_of(spec).glyph,
        "beside": kind_of(spec).beside(spec),
        "slider": kind_of(spec).strength(spec),
        "at": {"layer": layer, "pos": pos},
        "delta": _delta(id, state),
        "inert": state.inert.get(id),
        "error": state.problems.get(id),
    }
    return cast("wire.ShownEdit", {**spec.model_dump(mode="json"), **shown})


def _delta(id: str, state: State) -> float | None:
    """The metric with the whole stack, minus the metric without this edit."""
    edited = state.run(state.edited)
    if state.metric is None or edited is None or edited.version != state.version or id not in state.without:
        return None
    return finite(state.metric.of(edited.last) - state.metric.of(state.without[id]))


def _present(names: tuple[str | None, ...]) -> list[wire.Present]:
    windows = Counter(names)
    return [
        {"name": name, "windows": count} for name, count in sorted(windows.items(), key=lambda one: one[0] or "\uffff")
    ]


def _own(run: Run) -> wire.RunMetric | None:
    if (metric := run.metric) is None:
        return None
    return {
        "positive": token(metric.positive),
        "negative": token(metric.negative),
        "value": finite(metric.of(run.last)),
    }


def _run(run: Run, state: State) -> wire.Run:
    metric, shown = state.metric, run.id in (state.a, state.b)
    return {
        "id": run.id,
        "version": run.version,
        "label": run.label,
        "model": run.of or None,
        "prompt": run.prompt.text,
        "tokens": [token(tok) for tok in run.prompt.tokens] if shown else None,
        "edits": len(run.active),
        "metric": None if metric is None else finite(metric.of(run.last)),
        "own": _own(run),
        "newest": run.newest,
        "top": top(run.top),
        "seconds": run.seconds,
    }
