"""A probe, by its name here."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer


@dataclass(frozen=True, kw_only=True)
class ProbeField(Field):
    """A probe that is fitted."""

    kind: ClassVar[str] = "probe"

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=400)]

    def resolve(self, value: Any, world: World) -> Any:
        return world.probe(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.probe(value)

    @property
    def example(self) -> str:
        return "NAME|FILE"
