"""The next token under many cells of edits: log-probability of each prompt's target, and KL from the run as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import LeastEdit
from residscope.features.removal import Logits
from residscope.methods._lib.shifts import shift
from residscope.progress import Cancel, Progress

TOGETHER = 16  # prompts of one pass


@dataclass(frozen=True, eq=False)
class Measured:
    """Of each cell and prompt: log p of the prompt's target, and KL(p as it is || p of the cell), in nats; before: as it is."""

    log_prob: Float[Tensor, "cell prompt"]
    kl: Float[Tensor, "cell prompt"]
    before: Float[Tensor, " prompt"]


def measured(
    model: Model,
    prompts: Any,
    cells: Sequence[Sequence[LeastEdit]],
    targets: Sequence[int],
    *,
    background: Sequence[LeastEdit] = (),
    memory: int | None = None,
    what: str,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Measured:
    """One sweep; the logits of a few prompts at a time are held, and of no cell longer than it takes to read them."""
    plan = sweep(
        model, prompts, cells, Logits(), background, memory=memory, batch=TOGETHER if len(targets) > 1 else None
    )
    log_prob = torch.full((len(cells), len(targets)), torch.nan, dtype=torch.float64)
    kl, before = log_prob.clone(), torch.full((len(targets),), torch.nan, dtype=torch.float64)
    base: dict[int, Tensor] = {}
    for answers in plan.each(progress, cancel, what=what):
        rows = list(answers.prompts)
        logits = answers.values.double()
        ids = torch.tensor([targets[row] for row in rows], device=logits.device)
        own = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0].cpu()
        if answers.cell is None:
            base = dict(zip(rows, logits, strict=True))
            before[rows] = own
        else:
            log_prob[answers.cell, rows] = own
            kl[answers.cell, rows] = shift(logits, torch.stack([base[row] for row in rows]))[2].cpu()
    return Measured(log_prob, kl, before)
