"""An item of one kind, by its name here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer


@dataclass(frozen=True, kw_only=True)
class ItemField(Field):
    """An item that a method made, such as a causal graph. of: its kind, as in `report:graph`."""

    of: str = ""
    kind: ClassVar[str] = "item"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=400)]

    def hints(self) -> dict[str, Any]:
        return {"of": self.of}

    def resolve(self, value: Any, world: World) -> Any:
        return world.item(value, self.of)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.item(value)

    def read(self, words: Sequence[str]) -> Any:
        return words[0]

    @property
    def example(self) -> str:
        return "FILE"
