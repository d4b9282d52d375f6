"""The state as the JSON of docs/wire.md."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from residscope.declare import EditSpec
from residscope.json_values import finite
from residscope.session.state import State
from residscope.shelf.items import short_args
from residscope.world.stack import kind_of
from residscope.world.values import Metric, Prompt, Run, Tok

if TYPE_CHECKING:
    from residscope.session.jobs import Job
    from residscope.world.fitted import Fitted


def to_wire(state: State) -> dict[str, Any]:
    return {
        "version": state.version,
        "model": None if state.model is None else state.model.info,
        "models": list(state.models),
        "status": asdict(state.status),
        "prompt": _prompt(state.prompt),
        "metric": _metric(state.metric),
        "edits": [_edit(spec, state) for spec in state.edits],
        "can_undo": bool(state.past),
        "can_redo": bool(state.future),
        "runs": [_run(run, state) for run in state.runs],
        "current": {"a": state.a, "b": state.b},
        "selection": {"layer": state.selection[0], "pos": state.selection[1]},
        "saved": [{"text": s.text, "tokens": s.tokens, "top": s.top, "p": s.p} for s in state.saved],
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
        "items": dict(state.items),
        "notices": list(state.notices),
    }


def _job(job: "Job") -> dict[str, Any]:
    """A job; of what it was asked for, no long texts."""
    numbers = {name: finite(getattr(job, name)) for name in ("progress", "left", "cost", "seconds")}
    told = {
        name: getattr(job, name)
        for name in ("id", "method", "title", "name", "phase", "stage", "revision", "note", "error")
    }
    return told | numbers | {"items": list(job.items), "warnings": list(job.warnings), "args": short_args(job.args)}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level keys that differ, each whole."""
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


def token(tok: Tok) -> dict[str, Any]:
    return {"id": tok.id, "text": tok.text}


def top(rows: tuple[tuple[int, str, float], ...]) -> list[dict[str, Any]]:
    return [{"id": id, "text": text, "p": finite(p)} for id, text, p in rows]


def _prompt(prompt: Prompt | None) -> dict[str, Any] | None:
    if prompt is None:
        return None
    return {"text": prompt.text, "bos": prompt.begins, "tokens": [token(tok) for tok in prompt.tokens]}


def _metric(metric: Metric | None) -> dict[str, Any] | None:
    if metric is None:
        return None
    return {"positive": token(metric.positive), "negative": token(metric.negative), "chosen": metric.chosen}


def _fitted(fitted: "Fitted") -> dict[str, Any]:
    probe = fitted.probe
    numbers = {name: finite(getattr(probe, name)) for name in ("accuracy", "control", "selectivity")}
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
        **numbers,
        "interval": list(probe.interval),
        "C": probe.C,
        "train": sum(probe.counts),
        "held_out": probe.held_out,
    }


def _data(recipe: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The prompts that it was fitted from, a file's without its text."""
    if recipe is None:
        return None
    data = recipe["data"]
    return {part: value for part, value in data.items() if part != "text" or data["kind"] != "file"}


def _edit(spec: EditSpec, state: State) -> dict[str, Any]:
    id = str(spec.id)
    layer, pos = state.at.get(id, (None, None))
    return spec.model_dump(mode="json") | {
        "label": state.labels.get(id, spec.kind),
        "glyph": kind_of(spec).glyph,
        "beside": kind_of(spec).beside(spec),
        "slider": kind_of(spec).strength(spec),
        "at": {"layer": layer, "pos": pos},
        "delta": _delta(id, state),
        "inert": state.inert.get(id),
        "error": state.problems.get(id),
    }


def _delta(id: str, state: State) -> float | None:
    """The metric with the whole stack, minus the metric without this edit."""
    edited = state.run(state.edited)
    if state.metric is None or edited is None or edited.version != state.version or id not in state.without:
        return None
    return finite(state.metric.of(edited.last) - state.metric.of(state.without[id]))


def _run(run: Run, state: State) -> dict[str, Any]:
    metric, shown = state.metric, run.id in (state.a, state.b)
    return {
        "id": run.id,
        "version": run.version,
        "label": run.label,
        "prompt": run.prompt.text,
        "tokens": [token(tok) for tok in run.prompt.tokens] if shown else None,
        "edits": len(run.active),
        "metric": None if metric is None else finite(metric.of(run.last)),
        "top": top(run.top),
        "seconds": run.seconds,
    }
