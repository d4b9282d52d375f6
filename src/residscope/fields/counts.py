"""How many of something."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field


@dataclass(frozen=True, kw_only=True)
class CountField(Field):
    """A whole number between bounds."""

    low: int = 0
    high: int = 1_000_000_000
    kind: ClassVar[str] = "count"

    def type(self) -> Any:
        return Annotated[int, Bounds(ge=self.low, le=self.high)]

    def read(self, words: Sequence[str]) -> Any:
        return int(words[0])
