"""An atlas of features, by its name here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer


@dataclass(frozen=True, kw_only=True)
class AtlasField(Field):
    """An atlas on the shelf, or in a file."""

    kind: ClassVar[str] = "atlas"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=400)]

    def resolve(self, value: Any, world: World) -> Any:
        return world.atlas(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.atlas(value)

    def read(self, words: Sequence[str]) -> Any:
        return words[0]

    @property
    def example(self) -> str:
        return "NAME|FILE"
