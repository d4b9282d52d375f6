"""A dictionary, by its id here."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer


@dataclass(frozen=True, kw_only=True)
class DictionaryField(Field):
    """A dictionary of directions."""

    kind: ClassVar[str] = "dictionary"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=200)]

    def resolve(self, value: Any, world: World) -> Any:
        return world.dictionary(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.dictionary(value)

    @property
    def example(self) -> str:
        return "pca@resid_post.23|FILE"
