"""What the model answers: logit(right) - logit(wrong) at the end of each prompt, without edits and with many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import LeastEdit
from residscope.errors import MissingLabel
from residscope.methods._lib.intervals import wilson
from residscope.metrics import logit_diff
from residscope.model.prompts import PromptSet, require_set
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.views import Card


def answer_diffs(
    model: Model,
    data: PromptSet,
    cells: Sequence[Sequence[LeastEdit]] = ((),),
    *,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Float[Tensor, "cell prompt"]:
    """logit(right) - logit(wrong) of each prompt's own answers at its own end, in logits, for every cell of edits.

    An exact `rs.sweep`, so many prompts of like length at a time. Edits made from a probe are tied to the prompts; any other edit
    must fit prompts of any length.

    Raises:
        MissingLabel: the prompts have no answers. UnknownToken: one is not a single token. Cancelled.
    """
    answer_ids(model, data)
    plan = sweep(model, data, cells, logit_diff(), batch=batch)
    return plan.run(progress, cancel, what="Answering").values.float().cpu()


def answer_ids(model: Model, data: PromptSet) -> Int[Tensor, "prompt two"]:
    """Token ids of each prompt's right and wrong answer. Raises MissingLabel, UnknownToken."""
    require_set(data)
    if data.answers is None:
        raise MissingLabel(
            "the prompts have no answers", fix="give answers=, or `answer` and `wrong` columns in the file"
        )
    return torch.tensor([[model.token_id(token) for token in pair] for pair in data.answers], device=model.device)


@dataclass(frozen=True, eq=False)
class Flips(Report):
    """Of the prompts answered right without the edit, how many are answered wrong with it; and how far answers move."""

    kind: ClassVar[str] = "report:flips"
    right: int
    flipped: int
    interval: tuple[float, float]
    mean_shift: float
    mean_absolute_shift: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.flipped / self.right if self.right else float("nan")

    def view(self) -> Card:
        low, high = self.interval
        fields: dict[str, float | str] = {
            "answered right without the edit": self.right,
            "answered wrong with it": self.flipped,
            "flip rate": self.rate,
        }
        fields |= {"95 % interval": f"{low:.1%} to {high:.1%}", "mean shift, logits": self.mean_shift}
        return Card("Flips", fields | {"mean absolute shift, logits": self.mean_absolute_shift})


def flips(clean: Float[Tensor, "prompt"], edited: Float[Tensor, "prompt"]) -> Flips:
    """Compare two rows of `answer_diffs`. The interval of the rate is Wilson's, 95 %; shifts are in logits, over all prompts.

    >>> flips(torch.tensor([2.0, 1.0, -1.0]), torch.tensor([-2.0, 0.5, -3.0])).rate
    0.5
    """
    right: Bool[Tensor, "prompt"] = clean > 0
    flipped = int((right & (edited < 0)).sum())
    moved = (edited - clean).double()
    interval = wilson(flipped, int(right.sum()))
    return Flips(int(right.sum()), flipped, interval, float(moved.mean()), float(moved.abs().mean()))
