"""A dictionary, by its id here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer


@dataclass(frozen=True, kw_only=True)
class DictionaryField(Field):
    """A dictionary of directions; with `several`, a list of them."""

    several: bool = False
    kind: ClassVar[str] = "dictionary"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        one = Annotated[str, Bounds(min_length=1, max_length=200)]
        return Annotated[list[one], Bounds(min_length=1, max_length=200)] if self.several else one

    def hints(self) -> dict[str, Any]:
        return {"several": True} if self.several else {}

    def resolve(self, value: Any, world: World) -> Any:
        return [world.dictionary(id) for id in value] if isinstance(value, list) else world.dictionary(value)

    def code(self, value: Any, writer: Writer) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(writer.dictionary, value))}]"
        return writer.dictionary(value)

    def read(self, words: Sequence[str]) -> Any:
        return words[0].split(",") if self.several else words[0]

    @property
    def example(self) -> str:
        return "pca@resid_post.23|FILE,..." if self.several else "pca@resid_post.23|FILE"
