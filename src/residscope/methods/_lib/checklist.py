"""The checklist of a tractable task, for the method that shows it and for every sweep over prompts with answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.model import Model, Prompt
from residscope.errors import TooFewPrompts, UnknownToken
from residscope.methods._lib.answers import answer_ids
from residscope.methods._lib.intervals import bootstrap, wilson
from residscope.model.prompts import Batch, PromptSet, require_set
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Record

ACCURATE = 0.8  # of the prompts, answered right
NEAR_THE_TOP = 10.0  # tokens likelier than the right answer, at the mean
MASS = 0.1  # of the probability, on the two answers
FLIPS = 0.8  # of the prompts answered right, whose partner has the other answer
WORST = 0.5  # accuracy of the hardest template
KEY = "task check"
Interval = tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class TaskLine(Record):
    """One line of the checklist. interval: 95 %, where there is one; passed: None where the data cannot tell, and note why."""

    kind: ClassVar[str] = "task_line"
    name: str
    value: float
    interval: Interval
    wanted: str
    passed: bool | None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Checked:
    """The lines; and of each prompt the differences (own and partner's), the right answer's rank and the answers' mass."""

    lines: tuple[TaskLine, ...]
    differences: Mapping[str, Float[Tensor, " prompt"]]
    rank: Float[Tensor, " prompt"]
    mass: Float[Tensor, " prompt"]
    groups: Mapping[str, tuple[int, float, float]]


def checklist(
    model: Model,
    data: PromptSet,
    *,
    by: str | None = None,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Checked:
    """Every prompt, and every partner, run once. Raises MissingLabel, UnknownToken, TooFewPrompts, PromptError, Cancelled."""
    require_set(data)
    if not len(data):
        raise TooFewPrompts("there is no prompt to check", received="0 prompts", allowed="1 or more")
    groups = _groups(data, by)
    answers = answer_ids(model, data)
    sets = {"prompt": model.batch(PromptSet(data.prompts))}
    if data.corrupted is not None:
        sets["partner"] = model.batch(PromptSet(data.corrupted))
    read: dict[str, list[Tensor]] = {name: [] for name in sets}
    with stage("Answering", len(sets) * len(data), progress, cancel) as tell:
        for number, (name, rows) in enumerate(sets.items()):
            for start in range(0, len(data), batch):
                own = range(start, min(start + batch, len(data)))
                read[name].append(_read(model, rows.take(own), answers[own.start : own.stop]))
                tell(number * len(data) + own.stop)
    found = {name: torch.cat(parts).double().cpu() for name, parts in read.items()}
    diffs = {name: one[:, 0] for name, one in found.items()}
    rank, mass = found["prompt"][:, 1], found["prompt"][:, 2]
    told = {name: _facts(diffs["prompt"][rows]) for name, rows in groups.items()}
    lines = (
        _accuracy(diffs["prompt"]),
        _rank(rank),
        *_partners(diffs, [one.lengths for one in sets.values()]),
        _mass(mass),
        _spread(told),
    )
    return Checked(lines, diffs, rank, mass, told)


def verdict(
    model: Model,
    prompts: Prompt,
    corrupted: Prompt | None = None,
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[str, Any]:
    """What the checklist says of a sweep's prompts, for its provenance: under "task check", in words and line by line.

    corrupted: partners instead of the set's own. Nothing of prompts without answers. Raises PromptError, Cancelled.
    """
    if not isinstance(prompts, PromptSet) or prompts.answers is None or not len(prompts):
        return {}
    rows: Any = prompts.corrupted
    if corrupted is not None:
        other = model.batch(corrupted)
        rows = tuple(tuple(ids[:n].tolist()) for ids, n in zip(other.ids, other.lengths, strict=True))
    data = PromptSet(prompts.prompts, rows, prompts.answers, prompts.labels)
    try:
        found = checklist(model, data, progress=progress, cancel=cancel)
    except UnknownToken:
        return {KEY: {"said": "not known: an answer is not one token here", "passed": None}}
    failed = [line.name for line in found.lines if line.passed is False]
    told = {line.name: line.value for line in found.lines if line.passed is not None}
    said = "passed" if not failed else f"failed by {', '.join(failed)}"
    said += f"; {told['accuracy']:.0%} of {len(data)} prompts answered right, "
    said += f"{told['answer rank']:.3g} tokens likelier than the answer, "
    said += f"logit difference {float(found.differences['prompt'].mean()):+.2f}"
    return {KEY: {"said": said, "passed": not failed, "failed": failed, **told}}


def _groups(data: PromptSet, by: str | None) -> dict[str, list[int]]:
    """The prompts of each template. Raises MissingLabel."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, value in enumerate(data.label(by or "template") if by or "template" in data.labels else ()):
        found[str(value)].append(i)
    return dict(found)


def _read(model: Model, rows: Batch, answers: Int[Tensor, "batch two"]) -> Float[Tensor, "batch three"]:
    """Of each row's end: the logit difference, the right answer's rank, and the probability of both answers."""
    logits = model.run(rows).logits_at(-1).float()
    own = logits.gather(1, answers)
    rank = (logits > own[:, :1]).sum(1)
    same = answers[:, 0] == answers[:, 1]
    p = logits.softmax(-1).gather(1, answers)
    return torch.stack([own[:, 0] - own[:, 1], rank, torch.where(same, p[:, 0], p.sum(1))], 1)


def _facts(diffs: Float[Tensor, " prompt"]) -> tuple[int, float, float]:
    return len(diffs), float((diffs > 0).double().mean()), float(diffs.mean())


def _mean(values: Float[Tensor, " prompt"]) -> tuple[float, Interval]:
    """The mean, and its interval where there is more than one value."""
    ends = bootstrap(values) if len(values) > 1 else None
    return float(values.mean()), None if ends is None else (float(ends[0]), float(ends[1]))


def _accuracy(diffs: Float[Tensor, " prompt"]) -> TaskLine:
    right, n = int((diffs > 0).sum()), len(diffs)
    ends = wilson(right, n)
    wanted = f"{ACCURATE:.0%} or more, interval above 50%"
    return TaskLine(
        "accuracy", right / n, ends, wanted, right / n >= ACCURATE and ends[0] > 0.5, f"{right} of {n} prompts"
    )


def _rank(rank: Float[Tensor, " prompt"]) -> TaskLine:
    value, ends = _mean(rank)
    first = int((rank == 0).sum())
    wanted = f"{NEAR_THE_TOP:.0f} or fewer likelier tokens"
    return TaskLine("answer rank", value, ends, wanted, value <= NEAR_THE_TOP, f"the likeliest of all on {first}")


def _mass(mass: Float[Tensor, " prompt"]) -> TaskLine:
    value, ends = _mean(mass)
    return TaskLine("answer mass", value, ends, f"{MASS:.0%} or more", value >= MASS, "probability of the two answers")


def _partners(diffs: Mapping[str, Tensor], lengths: Sequence[Sequence[int]]) -> tuple[TaskLine, TaskLine, TaskLine]:
    """What the partners tell: the difference over swaps, flips, and lengths."""
    names = ("logit difference over swaps", "partner flips the answer", "equal token counts")
    wanted = ("interval above 0 logits", f"{FLIPS:.0%} or more", "every pair")
    if "partner" not in diffs:
        unknown = [
            TaskLine(name, float("nan"), None, want, None, "the prompts have no partners")
            for name, want in zip(names, wanted, strict=True)
        ]
        return unknown[0], unknown[1], unknown[2]
    own, other = diffs["prompt"], diffs["partner"]
    value, ends = _mean((own - other) / 2)
    right = own > 0
    n, flipped = int(right.sum()), int((right & (other < 0)).sum())
    rate = flipped / n if n else float("nan")
    equal = sum(a == b for a, b in zip(*lengths, strict=True))
    note = f"{own.mean():+.2f} on the prompts, {other.mean():+.2f} on the partners"
    sure = None if ends is None else ends[0] > 0
    return (
        TaskLine(names[0], value, ends, wanted[0], sure, note if ends else f"{note}; one prompt has no interval"),
        TaskLine(names[1], rate, wilson(flipped, n), wanted[1], rate >= FLIPS if n else None, f"{flipped} of {n} answered right"),
        TaskLine(
            names[2], equal / len(own), None, wanted[2], equal == len(own),
            f"prompts of {min(lengths[0])} to {max(lengths[0])} tokens",
        ),
    )  # fmt: skip


def _spread(told: Mapping[str, tuple[int, float, float]]) -> TaskLine:
    """The hardest template's accuracy."""
    wanted = f"{WORST:.0%} or more of the hardest"
    if len(told) < 2:
        return TaskLine("spread over templates", float("nan"), None, wanted, None, "no label tells templates apart")
    hardest = min(told, key=lambda name: told[name][1:])
    n, accuracy, _ = told[hardest]
    apart = float(torch.tensor([mean for _, _, mean in told.values()]).double().std())
    note = f"{hardest}, {n} prompts; the {len(told)} means spread by {apart:.2f} logits"
    return TaskLine("spread over templates", accuracy, wilson(round(accuracy * n), n), wanted, accuracy >= WORST, note)
