"""A seed: the same one draws the same."""

from dataclasses import dataclass
from typing import ClassVar

from residscope.fields.counts import CountField


@dataclass(frozen=True, kw_only=True)
class SeedField(CountField):
    """A whole number that random draws begin with."""

    high: int = (1 << 32) - 1
    kind: ClassVar[str] = "seed"
