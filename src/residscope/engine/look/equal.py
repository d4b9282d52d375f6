"""What equals what: values of a trace compared as the stream is, one vector a token."""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import combinations, permutations

import torch
from torch import Tensor

from residscope.engine.look.trace import Call

# stock norms compute in float32 whatever the model's dtype
CLOSE = {torch.float64: 1e-5, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def flat(value: Tensor | None, length: int, width: int | None = None) -> Tensor | None:
    """A value as [pos, width], whatever the module folds into what; None where it is of another size."""
    if value is None or value.ndim < 2 or (width is not None and value.shape[-1] != width):
        return None
    return value.reshape(length, -1).double() if value.numel() == length * value.shape[-1] else None


def same(a: Tensor | None, b: Tensor | None, close: float) -> bool:
    """Whether two values are one, but for rounding."""
    if a is None or b is None or a.shape != b.shape:
        return False
    return bool((a - b).norm() <= close * b.norm().clamp_min(1e-12))


class Values:
    """The calls of one part of a model as [pos, d_model] vectors, those with one value together."""

    def __init__(self, calls: Iterable[Call], length: int, d_model: int, close: float) -> None:
        self.length, self.d_model, self.close = length, d_model, close
        self.calls = list(calls)
        self.wrote = {c.path: flat(c.wrote, length, d_model) for c in self.calls}
        self.read = {c.path: flat(c.read, length, d_model) for c in self.calls}

    def writing(self, value: Tensor | None) -> list[Call]:
        """The calls that gave this value."""
        return [c for c in self.calls if same(self.wrote[c.path], value, self.close)]

    def reading(self, value: Tensor | None) -> list[Call]:
        """The calls that were given this value."""
        return [c for c in self.calls if same(self.read[c.path], value, self.close)]

    def groups(self, *without: Tensor) -> list[list[Call]]:
        """The calls of modules that change what they read, by the value they gave, in order; some values left out."""
        groups: list[list[Call]] = []
        for call in self.calls:
            value = self.wrote[call.path]
            idle = not call.weights and same(self.read[call.path], value, self.close)
            if value is None or idle or any(same(value, x, self.close) for x in without) or not value.any():
                continue
            for group in groups:
                if same(value, self.wrote[group[0].path], self.close):
                    group.append(call)
                    break
            else:
                groups.append([call])
        return groups


def summed(
    target: Tensor, values: Sequence[Tensor], close: float, *, most: int = 3
) -> list[tuple[tuple[int, ...], Tensor]]:
    """Which few of the values, each times a factor, make the target: the smallest such sets, and their factors.

    Sets that make it as they are go first, whatever their size: where all that is written is long along one direction, any one
    of the values is the target times a factor, but for rounding.
    """
    scale = target.norm().clamp_min(1e-12)
    for count in range(1, min(most, len(values)) + 1):
        plain = [
            (chosen, torch.ones(count, dtype=target.dtype, device=target.device))
            for chosen in combinations(range(len(values)), count)
            if (sum(values[i] for i in chosen) - target).norm() <= close * scale
        ]
        if plain:
            return plain
    for count in range(1, min(most, len(values)) + 1):
        found = []
        for chosen in combinations(range(len(values)), count):
            columns = torch.stack([values[i].flatten() for i in chosen], 1)
            factors = torch.linalg.lstsq(columns, target.flatten()[:, None]).solution[:, 0]
            if (columns @ factors - target.flatten()).norm() <= close * scale and factors.abs().min() > 1e-6:
                found.append((chosen, factors))
        if found:
            return found
    return []


def added(
    x: Tensor, y: Tensor, values: Sequence[Tensor], dtype: torch.dtype, *, most: int = 3
) -> list[tuple[tuple[int, ...], Tensor]]:
    """Which few of the values x has become y by, to the bit, in half precision: the smallest such sets, as `summed` gives them.

    Where a token's stream is a thousand times as long as what is added to it, y - x is rounding.
    """
    if dtype.itemsize >= 4:
        return []
    start, target, terms = x.to(dtype), y.to(dtype), [v.to(dtype) for v in values]
    for count in range(1, min(most, len(terms)) + 1):
        found = []
        for chosen in combinations(range(len(terms)), count):
            for order in permutations([start, *(terms[i] for i in chosen)]):
                if torch.equal(reduce(torch.add, order), target):
                    found.append((chosen, torch.ones(count, dtype=x.dtype, device=x.device)))
                    break
        if found:
            return found
    return []
