"""Token positions: by number, negative ones from the end, or by the names that the prompts give them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer
from residscope.fields.layers import parse_numbers

Indices = int | Annotated[list[int], Bounds(min_length=1, max_length=100_000)]


@dataclass(frozen=True, kw_only=True)
class PositionsField(Field):
    """Positions of a prompt. known: further words ("each", "all"). named: the prompts' own names (S2, END), one or several.

    several: a list of names. live: a name is of the live prompt, and stands for the position it has there.
    """

    known: tuple[str, ...] = ()
    named: bool = False
    single: bool = False
    live: bool = False
    several: bool = False
    kind: ClassVar[str] = "positions"

    def type(self) -> Any:
        name = Annotated[str, Bounds(min_length=1, max_length=100)]
        if self.several:
            return Annotated[list[name], Bounds(min_length=1, max_length=100)]
        if self.single:
            return (int | name) if self.named else int
        if self.named or self.known:
            return Indices | name | Annotated[list[name], Bounds(min_length=1, max_length=100)]
        return Indices

    def resolve(self, value: Any, world: World) -> Any:
        if isinstance(value, str) and self.live and value not in self.known:
            return world.position(value)
        return value

    def code(self, value: Any, writer: Writer) -> str:
        if isinstance(value, str) and self.live and value not in self.known:
            return repr(writer.position(value))
        return repr(value)

    def hints(self) -> dict[str, Any]:
        return {"known": list(self.known), "named": self.named, "single": self.single, "several": self.several}

    def read(self, words: Sequence[str]) -> Any:
        if self.several:
            return [part.strip() for part in words[0].split(",")]
        try:
            numbers = parse_numbers(words[0])
        except ValueError:
            names = [part.strip() for part in words[0].split(",")]
            return names if len(names) > 1 else names[0]
        return numbers[0] if self.single or len(numbers) == 1 else numbers

    @property
    def example(self) -> str:
        return "3,-1"
