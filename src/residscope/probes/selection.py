"""Which training vectors a probe is estimated from: one selection for everything, and what it leaves out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from residscope.errors import TooFewPrompts

Mask = Sequence[bool] | Bool[Tensor, "train"] | None


def selected(
    first: Mask, sinks: Mask, y: np.ndarray, classes: Sequence[str], where: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, int]]:
    """The training rows that everything is estimated from, and how many were left out. Raises TooFewPrompts."""
    at_first, at_sink = (
        np.zeros(len(y), dtype=bool) if mask is None else np.asarray(mask, dtype=bool) for mask in (first, sinks)
    )
    at_sink = at_sink & ~at_first
    keep = ~(at_first | at_sink)
    left_out = {"at position 0": int(at_first.sum()), "attention sinks": int(at_sink.sum())}
    for k, name in enumerate(classes):
        of, used = int((y == k).sum()), int((keep & (y == k)).sum())
        if used < 2:
            spot = " at " + ", ".join(str(where[part]) for part in ("site", "position") if part in where)
            raise TooFewPrompts(
                f"too few usable training activations with {where.get('label', 'label')} {name}{spot if len(spot) > 4 else ''}",
                received=f"{used} of {of}: {int((at_first & (y == k)).sum())} stand at position 0, "
                f"{int((at_sink & (y == k)).sum())} are attention sinks",
                allowed="2 or more of every class",
                fix="choose another position, or add prefixes",
            )
    return keep, left_out
