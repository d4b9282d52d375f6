"""Layers, counted from zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field


def parse_numbers(text: str) -> list[int]:
    """`0-5,29` as numbers. Raises ValueError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-") if not part.strip().startswith("-") else (part, "", "")
        numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    return numbers


@dataclass(frozen=True, kw_only=True)
class LayersField(Field):
    """Several layers; all of them unless said."""

    kind: ClassVar[str] = "layers"

    def type(self) -> Any:
        return Annotated[list[int], Bounds(min_length=1, max_length=10_000)]

    def read(self, words: Sequence[str]) -> Any:
        return parse_numbers(words[0])

    @property
    def example(self) -> str:
        return "0-5,29"
