"""Features by their numbers, counted from zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field
from residscope.fields.layers import parse_numbers


@dataclass(frozen=True, kw_only=True)
class IndicesField(Field):
    """Some of a dictionary's features, a site's dimensions. most: of them."""

    most: int = 1000
    kind: ClassVar[str] = "indices"

    def type(self) -> Any:
        return Annotated[list[Annotated[int, Bounds(ge=0)]], Bounds(min_length=1, max_length=self.most)]

    def read(self, words: Sequence[str]) -> Any:
        return parse_numbers(words[0])

    @property
    def example(self) -> str:
        return "0-5,29"
