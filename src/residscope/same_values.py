"""Whether two values are the same, down to the bit: what is saved and read again is."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def same(a: Any, b: Any) -> bool:
    """Of one class and the same parts: tensors by dtype, shape and entries, NaN the same as NaN; mappings in any order.

    >>> same({"x": torch.tensor([1.0, float("nan")])}, {"x": torch.tensor([1.0, float("nan")])})
    True
    >>> same((1, 2), [1, 2]), same(1, 1.0)
    (False, False)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and bool(torch.isclose(a.cpu(), b.cpu(), rtol=0, atol=0, equal_nan=True).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and same(torch.from_numpy(a), torch.from_numpy(b))
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a) and not isinstance(a, type):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b) or (a != a and b != b)
