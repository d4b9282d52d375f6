"""Where files lie: a name that ships, a repository of a hub, a file or folder of this machine."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World


@dataclass(frozen=True, kw_only=True)
class PlaceField(Field):
    """A source of files. Whether it may be opened is the door's to say: a server that several use opens its own folders alone."""

    kind: ClassVar[str] = "place"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=400)]

    def resolve(self, value: Any, world: World) -> Any:
        return world.place(value)

    @property
    def example(self) -> str:
        return "FILE|FOLDER|OWNER/NAME"
