"""Pairs of tiny models of every kind: one, and the same with other weights in some places."""

from copy import deepcopy
from typing import Any

import torch

from engine.families import FAMILIES
from residscope.engine.model import Model


def pair(family: str, *, seed: int = 5, size: float = 0.3) -> tuple[Model, Model]:
    """A tiny model, and one whose every parameter is moved at random."""
    base = FAMILIES[family].build()
    other: Any = deepcopy(base)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(size * weight.abs().mean() * torch.randn(weight.shape, generator=drawn, dtype=weight.dtype))
    return Model(base, name="base"), Model(other, name="other")


def logits(hf: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return hf(ids).logits[:, -1]
