"""Prompts: text or tokens, one or many, and what belongs to each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class PromptSet:
    """Prompts and what belongs to each: corrupted partner, answers, labels, named token positions.

    `prompts` holds texts or tuples of token ids. A string is a set of one: `model.run("text")` takes it as it is.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    corrupted: tuple[str | tuple[int, ...], ...] | None = None
    answers: tuple[tuple[str, str], ...] | None = None
    labels: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns: dict[str, Sequence[object] | None] = {"corrupted": self.corrupted, "answers": self.answers}
        columns |= {**self.labels, **self.positions}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.prompts):
                raise ValueError(f"{name} has {len(column)} entries for {len(self.prompts)} prompts")

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Batch:
    """Token ids, right-padded to one length (which causality makes exact), and each row's own length.

    `rows`: which prompts of a larger set the rows are, where they are not all of them in order. `answers`: of each row, the
    right one and the wrong one, where the prompts came with them.
    """

    ids: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    answers: tuple[tuple[str, str], ...] | None = None

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which entries are tokens rather than padding."""
        ends = torch.tensor(self.lengths, device=self.ids.device)
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None] < ends[:, None]

    def take(self, index: Sequence[int]) -> "Batch":
        """Some of the rows, in the order given and as often; they remember which they are."""
        rows = range(len(self)) if self.rows is None else self.rows
        answers = None if self.answers is None else tuple(self.answers[i] for i in index)
        return Batch(
            self.ids[list(index)], tuple(self.lengths[i] for i in index), tuple(rows[i] for i in index), answers
        )

    def __len__(self) -> int:
        return len(self.lengths)


def pad(rows: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> Batch:
    """Right-pad rows of token ids with zeros."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
    return Batch(ids, tuple(map(len, rows)))
