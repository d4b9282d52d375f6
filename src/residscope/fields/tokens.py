"""Tokens, each as the text it has in the middle of a text: mind the leading space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field

TokenText = Annotated[str, Bounds(min_length=1, max_length=400)]


@dataclass(frozen=True, kw_only=True)
class TokensField(Field):
    """One token; with `several`, a list of them."""

    several: bool = False
    kind: ClassVar[str] = "tokens"

    def type(self) -> Any:
        return Annotated[list[TokenText], Bounds(min_length=1, max_length=1000)] if self.several else TokenText

    def hints(self) -> dict[str, Any]:
        return {"several": self.several}

    def read(self, words: Sequence[str]) -> Any:
        if not self.several:
            return words[0]
        return [part for part in words[0].split(",") if part] or [words[0]]

    @property
    def example(self) -> str:
        return '" Mary, John"' if self.several else '" Mary"'
