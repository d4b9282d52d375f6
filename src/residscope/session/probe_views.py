"""What the Probe tab is told of a probe: its pictures as plain data, and where the live prompt stands among them."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.json_values import finite
from residscope.model.prompts import PromptSet
from residscope.probes import concepts
from residscope.probes.concept_edit import NEUTRAL
from residscope.probes.probe import Probe
from residscope.session.probes import Fitted, Map, accuracy
from residscope.views import HeatMap, Histogram, Reference, Scatter

BINS = 48
LEAST_REACH = 12.0  # nats to either side: past the e^10 that LRQP asks for
MOST_EXAMPLES, MOST_CLASSES = 12, 12
METHODS = ("mean_difference", "project_out", "constant_dose")


def describe_data(data: PromptSet) -> dict[str, Any]:
    """What the intent `read_data` answers: which labels and positions there are to choose from."""
    counts = {name: _counts(column) for name, column in data.labels.items()}
    return {
        "name": data.name,
        "n": len(data),
        "labels": [
            {"name": name, "classes": len(found), "most": dict(list(found.items())[:MOST_CLASSES])}
            for name, found in counts.items()
        ],
        "positions": [{"name": name, "lacking": column.count(None)} for name, column in data.positions.items()],
        "texts": list((data.texts or ())[:3]),
    }


def describe_probe(fitted: Fitted) -> dict[str, Any]:
    """The query `probe` of the wire."""
    probe, held_out = fitted.probe, set(fitted.held_out)
    of = [probe.classes[-1]] if len(probe.classes) == 2 else list(probe.classes)
    reach = _reach(fitted)
    return {
        "name": fitted.name,
        "revision": fitted.revision,
        "reach": reach,
        "map": _map(fitted).to_dict(),
        "map_at": {"sites": list(fitted.map.sites), "positions": list(fitted.map.positions)},
        "cloud": _cloud(fitted).to_dict(),
        "margins": [{"of": name, "view": _margins(fitted, name, reach).to_dict()} for name in of],
        "examples": [_example(fitted, i) for i in sorted(held_out)[:MOST_EXAMPLES]],
    }


def place_of(fitted: Fitted, ids: tuple[int, ...]) -> tuple[int | None, str | None]:
    """Where the probe's position stands in this prompt, and its label, where it is one of the probe's own prompts."""
    if ids not in fitted.data.prompts:
        return None, None
    row = fitted.data.prompts.index(ids)
    return fitted.data.positions[fitted.recipe.position][row], str(fitted.data.label(fitted.recipe.label)[row])


def read_vector(fitted: Fitted, x: Float[Tensor, "d"]) -> dict[str, Any]:
    """What the probe reads in one vector, and all that the page needs to say where each edit would put it.

    log_prob[class]; xy on the cloud's axes. moves[method][class]: scores and xy after that edit, `at` + dose * `slope` and `xy`
    + dose * `xy_slope` (slopes are zero where the edit has no dose). LRQP has no entry: it puts the least log-odds of its
    class at what is asked, or leaves them; "neutral" puts them where project_out's does. steps[covariance]: for two
    classes, the Mahalanobis length of one nat, and how far it moves the point on the axes.
    """
    probe, x = fitted.probe, x.double().cpu()
    return {
        "log_prob": probe.log_prob(x).tolist(),
        "xy": ((x - fitted.centre) @ fitted.axes.T).tolist(),
        "moves": {method: {to: _move(fitted, method, to, x) for to in _wanted(probe, method)} for method in METHODS},
        "steps": _steps(fitted) if len(probe.classes) == 2 else None,
    }


def _wanted(probe: Probe, method: str) -> tuple[str, ...]:
    return probe.classes if method == "constant_dose" else (*probe.classes, "neutral")


def _move(fitted: Fitted, method: str, to: str, x: Tensor) -> dict[str, list[float]]:
    probe, dosed = fitted.probe, method == "constant_dose"
    edit = concepts.constant_dose(probe, to, dose=1.0) if dosed else getattr(concepts, method)(probe, to)
    target = torch.tensor([NEUTRAL if to == "neutral" else probe.classes.index(to)])
    change = edit.moved(x[None], target, None)[0] - x
    starts = {"at": x @ probe.weights.T + probe.bias, "xy": (x - fitted.centre) @ fitted.axes.T}
    steps = {"at": change @ probe.weights.T, "xy": change @ fitted.axes.T}
    none = {name: torch.zeros_like(step) for name, step in steps.items()}
    at = starts if dosed else {name: starts[name] + steps[name] for name in starts}
    slope = steps if dosed else none
    return {
        "at": at["at"].tolist(), "slope": slope["at"].tolist(), "xy": at["xy"].tolist(), "xy_slope": slope["xy"].tolist(),
    }  # fmt: skip


def _steps(fitted: Fitted) -> dict[str, Any]:
    """Along Sigma a the log-odds a . x + c rise by one nat for each Sigma a / (a^T Sigma a)."""
    probe = fitted.probe
    normal = probe.weights[1] - probe.weights[0]
    found = {}
    for name, sigma in (("total", probe.covariance), ("within", probe.within)):
        along = sigma @ normal
        variance = float(normal @ along)
        if variance > 0:
            xy = (fitted.axes @ along / variance).tolist()
            found[name] = {"length": finite(1 / math.sqrt(variance)), "xy": xy}
    return found


def margin(log_prob: Float[Tensor, "n classes"], k: int) -> Float[Tensor, "n"]:
    """log P(class) less that of the likeliest other: for two classes, the log-odds."""
    others = log_prob.clone()
    others[:, k] = -torch.inf
    return log_prob[:, k] - others.max(1).values


def _reach(fitted: Fitted) -> float:
    held = fitted.log_prob[list(fitted.held_out)]
    most = max(float(margin(held, k).abs().max()) for k in range(len(fitted.probe.classes)))
    return math.ceil(max(LEAST_REACH, 1.1 * most))


def _map(fitted: Fitted) -> HeatMap:
    here, probe, n = fitted.map, fitted.probe, len(fitted.held_out)
    labels = [str(fitted.data.label(fitted.recipe.label)[i]) for i in fitted.held_out]
    chance = max(_counts(labels).values()) / n
    cells = [[accuracy(here.right.get((site, p)), n) for site in here.sites] for p in here.positions]
    low, high = ([[cell[side] - chance for cell in row] for row in cells] for side in (1, 2))
    at = [(here.positions.index(probe.position), here.sites.index(probe.site))] if probe.site in here.sites else []
    kind = probe.site.split(".")[0]
    return HeatMap(
        [[cell[0] - chance for cell in row] for row in cells],
        here.positions,
        [site.split(".")[-1] for site in here.sites],
        title=f"Where {probe.label} can be read: held-out accuracy over chance ({chance:.0%})",
        column_title=f"layer of {kind}",
        unit="over chance",
        limit=max(1 - chance, 0.05),
        low=low,
        high=high,
        marks=at,
        note=_hatched(here),
    )


def _hatched(here: Map) -> str:
    if not here.done:
        return "Hatched: not fitted yet."
    return "Hatched: too few tokens but first ones and attention sinks." if None in here.right.values() else ""


def _cloud(fitted: Fitted) -> Scatter:
    found, texts = [str(value) for value in fitted.data.label(fitted.recipe.label)], fitted.data.texts
    # in the order of the classes, which gives each the colour that it has in the histogram
    order = sorted(range(len(found)), key=lambda i: fitted.probe.classes.index(found[i]))
    points = fitted.points[order]
    return Scatter(
        points[:, 0],
        points[:, 1] if points.shape[1] > 1 else torch.zeros(len(found)),
        groups=[found[i] for i in order],
        texts=None if texts is None else [texts[i][-80:] for i in order],
        title="First two singular vectors",
        x_title=f"first ({fitted.shares[0]:.0%} of the variance)",
        y_title=f"second ({fitted.shares[1]:.0%})",
        note="Every prompt; the vectors are found without the label, and without first tokens and attention sinks.",
    )


def _margins(fitted: Fitted, name: str, reach: float) -> Histogram:
    probe = fitted.probe
    k = probe.classes.index(name)
    found = margin(fitted.log_prob[list(fitted.held_out)], k)
    labels = [str(fitted.data.label(fitted.recipe.label)[i]) for i in fitted.held_out]
    others = probe.classes[1 - k] if len(probe.classes) == 2 else "likeliest other"
    return Histogram(
        {own: found[[label == own for label in labels]] for own in probe.classes},
        bins=[-reach + 2 * reach * i / BINS for i in range(BINS + 1)],
        title="What the probe reads in prompts it has not seen",
        x_title=f"log P({name}) / P({others})",
        unit="nats",
        references=[Reference(0.0)],
    )


def _example(fitted: Fitted, i: int) -> dict[str, Any]:
    data = fitted.data
    return {
        "text": (data.texts or data.prompts)[i],
        "label": str(data.label(fitted.recipe.label)[i]),
        "answers": None if data.answers is None else list(data.answers[i]),
    }


def _counts(column: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in map(str, column):
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items()))
