"""Another model of the same shapes, by its name."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer

ModelName = Annotated[str, Bounds(min_length=1, max_length=4096)]


@dataclass(frozen=True, kw_only=True)
class ModelField(Field):
    """Another model, laid beside the one that is loaded: a catalog name, a hub id, a folder, or BASE+ADAPTER."""

    kind: ClassVar[str] = "model"
    slow: ClassVar[bool] = True

    def type(self) -> Any:
        return ModelName

    def resolve(self, value: Any, world: World) -> Any:
        return world.other(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.other(value)

    @property
    def example(self) -> str:
        return "MODEL|MODEL+ADAPTER"
