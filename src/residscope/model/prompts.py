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
    """Token ids, right-padded to one length (which causality makes exact), and each row's own length."""

    ids: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Which entries are tokens rather than padding."""
        ends = torch.tensor(self.lengths, device=self.ids.device)
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None] < ends[:, None]

    def __len__(self) -> int:
        return len(self.lengths)


def pad(rows: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> Batch:
    """Right-pad rows of token ids with zeros."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
    return Batch(ids, tuple(map(len, rows)))
