"""One token of a text with what stands around it."""

from dataclasses import dataclass
from typing import ClassVar

from residscope.reports import Record

AFTER = 4  # tokens shown after the one in question


@dataclass(frozen=True, eq=False)
class Example(Record):
    """One token of the text with what stands around it: `tokens[at]` is the one, `values` the coordinate at each.

    A value is NaN where it is left out (the first token of a row, attention sinks).
    """

    kind: ClassVar[str] = "example"
    row: int
    pos: int
    value: float
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    at: int

    @property
    def token(self) -> str:
        return self.tokens[self.at]
