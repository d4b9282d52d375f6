"""Heads, key-value heads or neurons: which of a site's parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from residscope.fields.base import Field
from residscope.fields.layers import parse_numbers
from residscope.fields.positions import Indices


@dataclass(frozen=True, kw_only=True)
class HeadsField(Field):
    """One or several, counted from zero. axis: "head", "kv_head", "neuron", or "feature" of a dictionary."""

    axis: str = "head"
    single: bool = False
    kind: ClassVar[str] = "heads"

    def type(self) -> Any:
        return int if self.single else Indices

    def hints(self) -> dict[str, Any]:
        return {"axis": self.axis, "single": self.single}

    def read(self, words: Sequence[str]) -> Any:
        numbers = parse_numbers(words[0])
        return numbers[0] if self.single or len(numbers) == 1 else numbers

    @property
    def example(self) -> str:
        return "3,5"
