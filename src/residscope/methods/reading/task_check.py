"""Whether a task can be studied on a model: the checklist of a tractable task, over prompts with partners and answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import MissingLabel
from residscope.methods._lib.checklist import TaskLine, checklist
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Reference, Table, View

VERDICTS = {True: "passed", False: "failed", None: "not known"}


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
    found = checklist(model, data, by=by, batch=batch, progress=progress, cancel=cancel)
    diffs = found.differences
    about = {**model.provenance, **data.provenance, "method": "task_check", "by": by or "template"}
    differences = Result(
        torch.stack([*diffs.values()]), ("run", "prompt"), {"run": [*diffs], "prompt": [*range(len(data))]},
        name="logit difference right − wrong answer", unit="logits", provenance=about,
    )  # fmt: skip
    return TaskCheck(found.lines, differences, found.rank.long(), found.mass, found.groups, about)


def _told(value: float | None) -> float | None:
    """NaN as an empty cell."""
    return None if value is None or value != value else round(value, 4)
