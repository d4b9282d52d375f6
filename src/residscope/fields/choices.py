"""One of a few words."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from residscope.fields.base import Field


@dataclass(frozen=True, init=False)
class ChoiceField(Field):
    """One of these words, in this order: `fields.choice("zero", "mean", "resample")`."""

    options: tuple[str, ...] = ()
    kind: ClassVar[str] = "choice"

    def __init__(self, *options: str, **common: Any) -> None:
        super().__init__(**common)
        object.__setattr__(self, "options", options)

    def type(self) -> Any:
        return Literal[self.options]

    @property
    def example(self) -> str:
        return "|".join(self.options)
