"""A probe, by its name here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer


@dataclass(frozen=True, kw_only=True)
class ProbeField(Field):
    """A probe that is fitted; with `several`, a list of them."""

    several: bool = False
    kind: ClassVar[str] = "probe"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        one = Annotated[str, Bounds(min_length=1, max_length=400)]
        return Annotated[list[one], Bounds(min_length=1, max_length=100)] if self.several else one

    def hints(self) -> dict[str, Any]:
        return {"several": self.several}

    def resolve(self, value: Any, world: World) -> Any:
        return [world.probe(name) for name in value] if isinstance(value, list) else world.probe(value)

    def code(self, value: Any, writer: Writer) -> str:
        return f"[{', '.join(map(writer.probe, value))}]" if isinstance(value, list) else writer.probe(value)

    def read(self, words: Sequence[str]) -> Any:
        return words[0].split(",") if self.several else words[0]

    @property
    def example(self) -> str:
        return "NAME|FILE"
