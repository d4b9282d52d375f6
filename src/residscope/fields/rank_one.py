"""A change of rank one to a weight: what is read, what is written, and how strongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from residscope.fields.base import Field, Spec, World, Writer
from residscope.fields.directions import DirectionRef, read_direction


class RankOne(Spec):
    """x W + strength (x . read) write."""

    read: DirectionRef
    write: DirectionRef
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RankOneField(Field):
    """Two directions, at unit length: one as wide as what the weight reads, one as what it writes."""

    kind: ClassVar[str] = "rank_one"

    def type(self) -> Any:
        return RankOne

    def resolve(self, value: Any, world: World) -> Any:
        read, write = world.direction(value.read).read, world.direction(value.write).write
        return read.float() / read.float().norm(), value.strength * write.float() / write.float().norm()

    def code(self, value: Any, writer: Writer) -> str:
        read, write = f"{writer.direction(value.read)}.read.float()", f"{writer.direction(value.write)}.write.float()"
        return f"({read} / {read}.norm(), {value.strength!r} * {write} / {write}.norm())"

    def read(self, words: Sequence[str]) -> Any:
        return {"read": read_direction(words[0]), "write": read_direction(words[1]), "strength": float(words[2])}

    @property
    def words(self) -> int:
        return 3

    @property
    def example(self) -> str:
        return "READ WRITE STRENGTH"
