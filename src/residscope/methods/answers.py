"""What the model answers: logit(right) - logit(wrong) at the end of each prompt, without edits and with many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.windows import Window
from residscope.errors import MissingLabel
from residscope.methods.activations import Progress, batches
from residscope.methods.concept_edit import ConceptEdit
from residscope.methods.intervals import wilson
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site

Cell = Sequence[Any]


def answer_diffs(
    model: Model, data: PromptSet, cells: Sequence[Cell] = ((),), *, batch: int = 32, progress: Progress | None = None
) -> Float[Tensor, "cell prompt"]:
    """logit(right) - logit(wrong) of each prompt's own answers at its own end, in logits, for every cell of edits.

    Each batch of prompts runs once as it is; a cell then runs from its first edit's layer and token on, which is exact. Edits
    made from a probe are tied to the prompts; any other edit must fit every batch.

    Raises:
        MissingLabel: the prompts have no answers. UnknownToken: one is not a single token.
    """
    if data.answers is None:
        raise MissingLabel(
            "the prompts have no answers", fix="give answers=, or `answer` and `wrong` columns in the file"
        )
    ids = torch.tensor([[model.token_id(token) for token in pair] for pair in data.answers], device=model.device)
    tied = [[edit.on(data) if isinstance(edit, ConceptEdit) else edit for edit in cell] for cell in cells]
    end = Site("resid_post", model.n_layers - 1)
    found = torch.zeros(len(cells), len(data))
    for done, rows in enumerate(batches(model, data, size=batch)):
        part = data.subset(rows)
        base = model.run(part, ["resid_pre", "k", "v", end] if any(tied) else [end])
        for i, cell in enumerate(tied):
            own = [edit.take(rows) if isinstance(edit, ConceptEdit) else edit for edit in cell]
            run = model.run(part, [end], edits=own, window=_window(model, base, own)) if own else base
            last = torch.tensor([length - 1 - run.offset for length in run.lengths], device=model.device)
            logits = model.lens(run[end][torch.arange(len(rows), device=model.device), last])
            pair = logits.gather(1, ids[rows])
            found[i, rows] = (pair[:, 0] - pair[:, 1]).float().cpu()
            if progress is not None:
                progress("answers", done * batch * len(tied) + (i + 1) * len(rows), len(data) * len(tied))
    return found


def _window(model: Model, base: Any, edits: Cell) -> Window:
    """From the first layer and token that the edits touch; everything before is as recorded."""
    layers = [site.layer for edit in edits for site in edit.places(model.sites)]
    start = min((0 if layer is None else layer for layer in layers), default=0)
    tied = [edit.where for edit in edits if isinstance(edit, ConceptEdit) and edit.where is not None]
    pos = min(int(where.min()) for where in tied) if len(tied) == len(edits) else 0
    return Window(base, start=start, pos=pos)


@dataclass(frozen=True)
class Flips:
    """Of the prompts answered right without the edit, how many are answered wrong with it; and how far answers move."""

    right: int
    flipped: int
    interval: tuple[float, float]
    mean_shift: float
    mean_absolute_shift: float

    @property
    def rate(self) -> float:
        return self.flipped / self.right if self.right else float("nan")


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
