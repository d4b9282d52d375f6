"""A made-up model's key, and directions of it."""

import torch

from residscope.directions import Direction
from residscope.store.entries import ModelKey

WIDTH = 8
MODEL = ModelKey("a" * 64, "toy", torch.arange(24.0))
OTHER = ModelKey("b" * 64, "other-toy", -torch.arange(24.0))


def direction(seed: int = 0, **facts: object) -> Direction:
    random = torch.Generator().manual_seed(seed)
    read, write = torch.randn(2, WIDTH, generator=random)
    return Direction(read, write, **{"site": "resid_pre.1", "name": f"direction {seed}"} | facts)
