"""What the Probe tab is told of a probe, and of prompts that one may be fitted to."""

import math
from collections import Counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.model.prompts import PromptSet
from residscope.probes import concepts
from residscope.probes.concept_edit import NEUTRAL
from residscope.probes.probe import Probe
from residscope.probes.probe_map import ProbeMap
from residscope.world.fitted import Fitted

MOST_EXAMPLES, MOST_CLASSES = 12, 12
METHODS = ("mean_difference", "project_out", "constant_dose")


def describe_data(data: PromptSet) -> dict[str, Any]:
    """What the query `read_data` answers: which labels and positions there are to choose from."""
    counts = {name: Counter(map(str, column)) for name, column in data.labels.items()}
    return {
        "name": data.name,
        "n": len(data),
        "labels": [
            {"name": name, "classes": len(found), "most": dict(sorted(found.items())[:MOST_CLASSES])}
            for name, found in counts.items()
        ],
        "positions": [{"name": name, "lacking": column.count(None)} for name, column in data.positions.items()],
        "texts": list((data.texts or ())[:3]),
    }


def describe_probe(fitted: Fitted, mapped: ProbeMap) -> dict[str, Any]:
    """What the query `probe` answers."""
    return {
        "name": fitted.id,
        "revision": fitted.revision,
        "reach": mapped.reach,
        "map": mapped.map().to_dict(),
        "map_at": {"sites": list(mapped.sites), "positions": list(mapped.positions)},
        "cloud": mapped.cloud().to_dict(),
        "margins": [{"of": name, "view": mapped.margins(name).to_dict()} for name in mapped.shown],
        "examples": [_example(mapped, i) for i in sorted(mapped.held_out)[:MOST_EXAMPLES]],
    }


def place_of(mapped: ProbeMap, ids: tuple[int, ...]) -> tuple[int | None, str | None]:
    """Where the probe's position stands in this prompt, and its label, where it is one of the probe's own prompts."""
    if ids not in mapped.data.prompts:
        return None, None
    row = mapped.data.prompts.index(ids)
    return mapped.data.positions[mapped.probe.position][row], mapped.labels[row]


def read_vector(mapped: ProbeMap, x: Float[Tensor, "d"]) -> dict[str, Any]:
    """What the probe reads in one vector, and all that the page needs to say where each edit would put it.

    log_prob[class]; xy on the cloud's axes. moves[method][class]: scores and xy after that edit, `at` + dose * `slope` and `xy`
    + dose * `xy_slope` (slopes are zero where the edit has no dose). LRQP has no entry: it puts the least log-odds of its
    class at what is asked, or leaves them; "neutral" puts them where project_out's does. steps[covariance]: for two
    classes, the Mahalanobis length of one nat, and how far it moves the point on the axes.
    """
    probe, x = mapped.probe, x.double().cpu()
    return {
        "log_prob": probe.log_prob(x).tolist(),
        "xy": ((x - mapped.centre) @ mapped.axes.T).tolist(),
        "moves": {method: {to: _move(mapped, method, to, x) for to in _wanted(probe, method)} for method in METHODS},
        "steps": _steps(mapped) if len(probe.classes) == 2 else None,
    }


def _wanted(probe: Probe, method: str) -> tuple[str, ...]:
    return probe.classes if method == "constant_dose" else (*probe.classes, "neutral")


def _move(mapped: ProbeMap, method: str, to: str, x: Tensor) -> dict[str, list[float]]:
    probe, dosed = mapped.probe, method == "constant_dose"
    edit = concepts.constant_dose(probe, to, dose=1.0) if dosed else getattr(concepts, method)(probe, to)
    target = torch.tensor([NEUTRAL if to == "neutral" else probe.classes.index(to)])
    change = edit.moved(x[None], target, None)[0] - x
    starts = {"at": x @ probe.weights.T + probe.bias, "xy": (x - mapped.centre) @ mapped.axes.T}
    steps = {"at": change @ probe.weights.T, "xy": change @ mapped.axes.T}
    none = {name: torch.zeros_like(step) for name, step in steps.items()}
    at = starts if dosed else {name: starts[name] + steps[name] for name in starts}
    slope = steps if dosed else none
    return {
        "at": at["at"].tolist(), "slope": slope["at"].tolist(), "xy": at["xy"].tolist(), "xy_slope": slope["xy"].tolist(),
    }  # fmt: skip


def _steps(mapped: ProbeMap) -> dict[str, Any]:
    """Along Sigma a the log-odds a . x + c rise by one nat for each Sigma a / (a^T Sigma a)."""
    probe = mapped.probe
    normal = probe.weights[1] - probe.weights[0]
    found = {}
    for name, sigma in (("total", probe.covariance), ("within", probe.within)):
        along = sigma @ normal
        variance = float(normal @ along)
        if variance > 0:
            xy = (mapped.axes @ along / variance).tolist()
            found[name] = {"length": 1 / math.sqrt(variance), "xy": xy}
    return found


def _example(mapped: ProbeMap, i: int) -> dict[str, Any]:
    data = mapped.data
    return {
        "text": (data.texts or data.prompts)[i],
        "label": mapped.labels[i],
        "answers": None if data.answers is None else list(data.answers[i]),
    }
