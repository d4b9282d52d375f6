"""Heads of several layers, each as layer and head: `23.3, 25.1`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World


@dataclass(frozen=True, kw_only=True)
class HeadGroupField(Field):
    """A group of heads of a whole model, under one name."""

    kind: ClassVar[str] = "head_group"

    def type(self) -> Any:
        return Annotated[list[Annotated[str, Bounds(pattern=r"^\d+\.\d+$")]], Bounds(min_length=1, max_length=1000)]

    def resolve(self, value: Any, world: World) -> Any:
        return {"these heads": [(int(layer), int(head)) for layer, _, head in (word.partition(".") for word in value)]}

    def code(self, value: Any, writer: Any) -> str:
        return repr(self.resolve(value, writer))

    def read(self, words: Sequence[str]) -> Any:
        return [part.strip() for part in words[0].split(",")]

    @property
    def example(self) -> str:
        return "23.3,25.1"
