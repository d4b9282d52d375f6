"""Two texts that are to be told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from residscope.fields.base import Field, Spec, World, Writer
from residscope.fields.texts import TextRef, read_text


class Two(Spec):
    """The second text's mean is taken off the first's."""

    first: TextRef
    second: TextRef

    @property
    def names(self) -> tuple[str, str]:
        """What tells them apart."""
        one, two = self.first.name, self.second.name
        return one, two if two != one else f"{two} (2)"


@dataclass(frozen=True, kw_only=True)
class ContrastField(Field):
    """Two texts by name."""

    kind: ClassVar[str] = "contrast"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return Two

    def resolve(self, value: Any, world: World) -> Any:
        return dict(zip(value.names, (world.text(value.first), world.text(value.second)), strict=True))

    def code(self, value: Any, writer: Writer) -> str:
        (one, two), (first, second) = value.names, (writer.text(value.first), writer.text(value.second))
        return f"{{{one!r}: {first}, {two!r}: {second}}}"

    def read(self, words: Sequence[str]) -> Any:
        return {"first": read_text(words[0]), "second": read_text(words[1])}

    @property
    def words(self) -> int:
        return 2

    @property
    def example(self) -> str:
        return "TEXT TEXT"
