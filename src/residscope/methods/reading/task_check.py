"""Whether a task can be studied on a model: the checklist of a tractable task, over prompts with partners and answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import MissingLabel, TooFewPrompts
from residscope.methods._lib.answers import answer_ids
from residscope.methods._lib.intervals import bootstrap, wilson
from residscope.model.prompts import Batch, PromptSet
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Record, Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Reference, Table, View

ACCURATE = 0.8  # of the prompts, answered right
NEAR_THE_TOP = 10.0  # tokens likelier than the right answer, at the mean
MASS = 0.1  # of the probability, on the two answers
FLIPS = 0.8  # of the prompts answered right, whose partner has the other answer
WORST = 0.5  # accuracy of the hardest template
VERDICTS = {True: "passed", False: "failed", None: "not known"}
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


@dataclass(frozen=True, eq=False, repr=False)
class TaskCheck(Report):
    """The checklist, a verdict a line; and what each prompt gave.

    differences[run, prompt]: logit(right) - logit(wrong) of the prompt and of its partner, both by the prompt's own answers.
    rank: how many tokens were likelier than the right answer. mass: the probability of the two answers together. groups: of
    each template its prompts, accuracy and mean difference.
    """

    kind: ClassVar[str] = "report:task_check"
    main: ClassVar[str] = "differences"
    lines: tuple[TaskLine, ...]
    differences: Result
    rank: Int[Tensor, " prompt"]
    mass: Float[Tensor, " prompt"]
    groups: Mapping[str, tuple[int, float, float]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every line that the data can tell of holds."""
        return all(line.passed is not False for line in self.lines)

    def line(self, name: str) -> TaskLine:
        """A line by its name. Raises MissingLabel."""
        for line in self.lines:
            if line.name == name:
                return line
        raise MissingLabel(
            "no such line in the checklist", received=repr(name), allowed=", ".join(line.name for line in self.lines)
        )

    def view(self) -> View:
        """The checklist, the templates, and each prompt's difference beside its partner's."""
        rows = [
            [x.name, _told(x.value), *map(_told, x.interval or (None, None)), x.wanted, VERDICTS[x.passed], x.note]
            for x in self.lines
        ]
        columns = ["check", "value", "from", "to", "wanted", "verdict", "note"]
        shown: list[View] = [Table(columns, rows, title=f"Is {self.provenance.get('data', 'the task')} tractable?")]
        if self.groups:
            of = self.provenance.get("by", "template")
            told = [[name, *facts] for name, facts in sorted(self.groups.items(), key=lambda one: one[1][1:])]
            columns = [of, "prompts", "accuracy", "logit difference"]
            shown.append(Table(columns, told, title=f"By {of}, hardest first"))
        values = self.differences.values
        shown.append(
            Curve(
                list(range(values.shape[1])),
                [Line(str(run), row.tolist()) for run, row in zip(self.differences.coords["run"], values, strict=True)],
                title="Logit difference of each prompt", x_title="prompt", y_title="logits", references=[Reference(0.0)],
            )
        )  # fmt: skip
        return Grid(shown, columns=1, title="Task check")

    def __repr__(self) -> str:
        failed = [line.name for line in self.lines if line.passed is False]
        return f"TaskCheck({'passed' if self.passed else 'failed: ' + ', '.join(failed)})"


def _price(model: Model, *, data: PromptSet, **_: Any) -> float:
    """Tokens through the whole model: every prompt, and every partner."""
    return float(sum(model.batch(data).lengths)) * (1 if data.corrupted is None else 2)


@method("task-check", title="Check a task", group="prompts", tokens=_price)
def task_check(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    by: Annotated[str | None, fields.name(of="label")] = None,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> TaskCheck:
    """The checklist of a tractable task: what must hold before heads and paths are looked for. Each line has its verdict.

        d = logit(right) - logit(wrong) at the prompt's end,    d' = the partner's, by the same two answers

    accuracy: share of prompts with d > 0, wanted 80 % and its interval above chance. answer rank: tokens likelier than the right
    one, mean at most 10. logit difference over swaps: mean (d - d') / 2, from which a liking for either answer as such falls
    out; its interval above 0. answer mass: p(right) + p(wrong), mean at least 10 %. partner flips: of the prompts with d > 0,
    those with d' < 0, at least 80 %. equal token counts: every partner as long as its prompt. spread over templates: accuracy of
    the hardest, at least 50 %.

    by: the label that tells templates apart; `template` where there is one. Intervals are 95 %: Wilson's of shares, the
    bootstrap's of means. Lines that the data cannot tell of (no partners, no templates) say so. d, d' in logits.

        rs.task_check(model, rs.tasks.ioi(model, 100)).passed

    Raises:
        MissingLabel: no answers, or no such label. UnknownToken: an answer is not a single token. TooFewPrompts: none.
        PromptError, Cancelled.

    Zhang and Nanda 2024 (2309.16042) on metrics and corrupted prompts; Wang et al. 2022 (2211.00593).
    """
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
    about = {**model.provenance, **data.provenance, "method": "task_check", "by": by or "template"}
    differences = Result(
        torch.stack([*diffs.values()]), ("run", "prompt"), {"run": [*diffs], "prompt": [*range(len(data))]},
        name="logit difference right − wrong answer", unit="logits", provenance=about,
    )  # fmt: skip
    return TaskCheck(lines, differences, rank.long(), mass, told, about)


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


def _told(value: float | None) -> float | None:
    """NaN as an empty cell."""
    return None if value is None or value != value else round(value, 4)
