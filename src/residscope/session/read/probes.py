"""What the Probe tab is told of a probe, and of prompts that one may be fitted to."""

import math
from collections import Counter
from typing import Annotated, NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import NotFound
from residscope.model.prompts import PromptSet
from residscope.probes import concepts
from residscope.probes.concept_edit import NEUTRAL
from residscope.probes.probe_map import ProbeMap
from residscope.tasks import TASKS
from residscope.views.view import Plain, PlainView
from residscope.world.fitted import Fitted
from residscope.world.values import Prompt

MOST_EXAMPLES, MOST_CLASSES = 12, 12


class LabelChoice(TypedDict):
    """A label: how many classes it has, and how many prompts are of the first of them."""

    name: str
    classes: int
    most: dict[str, int]


class PositionChoice(TypedDict):
    """A named position, and how many prompts lack it."""

    name: str
    lacking: int


class ProbeChoices(TypedDict):
    """What can be chosen in some data."""

    name: str
    n: int
    labels: list[LabelChoice]
    positions: list[PositionChoice]
    texts: list[str]


class MapAt(TypedDict):
    """The columns and the rows of a probe's map."""

    sites: list[str]
    positions: list[str]


class Margin(TypedDict):
    of: str
    view: PlainView


class ProbeExample(TypedDict):
    text: str
    label: str
    answers: Annotated[list[str], Plain(tuple[str, str])] | None


class ProbeDetail(TypedDict):
    """The pictures of a probe."""

    name: str
    revision: int
    reach: Annotated[float, "To either side, in nats."]
    map: PlainView
    map_at: MapAt
    cloud: PlainView
    margins: list[Margin]
    examples: list[ProbeExample]
    held_out: Annotated[
        list[int], "Which of its prompts the fit has not seen, in the order of what is measured over them."
    ]
    cloud_rows: Annotated[list[int], "Which prompt each point of the cloud is."]


class ProbeMove(TypedDict):
    """Scores and cloud coordinates after an edit, `at` + dose * `slope`."""

    at: list[float]
    slope: list[float]
    xy: list[float]
    xy_slope: list[float]


class ProbeMoves(TypedDict):
    """By class, or "neutral"."""

    mean_difference: dict[str, ProbeMove]
    project_out: dict[str, ProbeMove]
    constant_dose: dict[str, ProbeMove]


class ProbeStep(TypedDict):
    length: float
    xy: list[float]


class ProbeSteps(TypedDict):
    """By covariance, where anything varies along the probe."""

    total: NotRequired[ProbeStep]
    within: NotRequired[ProbeStep]


class VectorReading(TypedDict):
    log_prob: list[float]
    xy: list[float]
    moves: ProbeMoves
    steps: Annotated[ProbeSteps | None, "Between two classes."]


class ProbeReading(VectorReading):
    """What a probe reads at one token of a run, and where each edit would put it."""

    run: str
    pos: int
    own: Annotated[bool, "The prompt is one of the probe's own data; `label` is then its label."]
    label: str | None
    place: Annotated[
        int | None,
        "Where the probe's position stands in this prompt, by its data or by the form of its task's prompts.",
    ]


def describe_data(data: PromptSet) -> ProbeChoices:
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


def describe_probe(fitted: Fitted, mapped: ProbeMap, model: Model) -> ProbeDetail:
    """What the query `probe` answers."""
    return {
        "name": fitted.id,
        "revision": fitted.revision,
        "reach": mapped.reach,
        "map": mapped.map().to_dict(),
        "map_at": {"sites": list(mapped.sites), "positions": list(mapped.positions)},
        "cloud": mapped.cloud().to_dict(),
        "margins": [{"of": name, "view": mapped.margins(name).to_dict()} for name in mapped.shown],
        "examples": [_example(mapped, i, model) for i in sorted(mapped.held_out)[:MOST_EXAMPLES]],
        "held_out": [*mapped.held_out],
        "cloud_rows": mapped.cloud_rows,
    }


def describe_prompt(mapped: ProbeMap, row: int, model: Model) -> ProbeExample:
    """What the query `probe_prompt` answers: one of a probe's own prompts, by its number. Raises NotFound."""
    if not 0 <= row < len(mapped.data):
        raise NotFound(
            "the probe has no prompt of that number", received=str(row), allowed=f"0 to {len(mapped.data) - 1}"
        )
    return _example(mapped, row, model)


class Place(NamedTuple):
    """Where a probe's position stands in a prompt, if that is known; own: it is one of the probe's prompts, with this label."""

    pos: int | None
    own: bool = False
    label: str | None = None


def place_of(fitted: Fitted, mapped: ProbeMap, prompt: Prompt, model: Model) -> Place:
    """By the probe's own data, else by the form of its task's prompts."""
    ids, position = tuple(prompt.ids), mapped.probe.position
    if ids in mapped.data.prompts:
        row = mapped.data.prompts.index(ids)
        return Place(mapped.data.positions[position][row], True, mapped.labels[row])
    data = fitted.args.get("data") or {}
    task = TASKS.get(data.get("task", "")) if data.get("kind") == "task" else None
    if task is None or task.find is None or tuple(model.encode(prompt.text)) != ids:
        return Place(None)
    return Place((task.find(model, prompt.text) or {}).get(position))


def read_vector(mapped: ProbeMap, x: Float[Tensor, "d"]) -> VectorReading:
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
        "moves": {
            "mean_difference": _moves(mapped, "mean_difference", x),
            "project_out": _moves(mapped, "project_out", x),
            "constant_dose": _moves(mapped, "constant_dose", x),
        },
        "steps": _steps(mapped) if len(probe.classes) == 2 else None,
    }


def _moves(mapped: ProbeMap, method: str, x: Tensor) -> dict[str, ProbeMove]:
    classes = mapped.probe.classes
    wanted = classes if method == "constant_dose" else (*classes, "neutral")
    return {to: _move(mapped, method, to, x) for to in wanted}


def _move(mapped: ProbeMap, method: str, to: str, x: Tensor) -> ProbeMove:
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


def _steps(mapped: ProbeMap) -> ProbeSteps:
    """Along Sigma a the log-odds a . x + c rise by one nat for each Sigma a / (a^T Sigma a)."""
    probe = mapped.probe
    normal = probe.weights[1] - probe.weights[0]
    found: ProbeSteps = {}
    if total := _step(mapped, probe.covariance @ normal, normal):
        found["total"] = total
    if within := _step(mapped, probe.within @ normal, normal):
        found["within"] = within
    return found


def _step(mapped: ProbeMap, along: Tensor, normal: Tensor) -> ProbeStep | None:
    variance = float(normal @ along)
    if variance <= 0:
        return None
    return {"length": 1 / math.sqrt(variance), "xy": (mapped.axes @ along / variance).tolist()}


def _example(mapped: ProbeMap, i: int, model: Model) -> ProbeExample:
    """A prompt as it is typed, also where the data has token ids alone."""
    data = mapped.data
    pair = None if data.answers is None else data.answers[i]
    return {
        "text": model.text(data.prompts[i]) if data.texts is None else data.texts[i],
        "label": mapped.labels[i],
        "answers": None if pair is None else [_spelled(answer, model) for answer in pair],
    }


def _spelled(answer: str | int, model: Model) -> str:
    return answer if isinstance(answer, str) else model.token_texts([answer])[0]
