"""A name: of a label, of a position of a task's prompts, of a module's weight."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field


@dataclass(frozen=True, kw_only=True)
class NameField(Field):
    """A short text. of: whose name, where the page can offer some ("weight", "label", "position")."""

    of: str = ""
    kind: ClassVar[str] = "name"

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=400)]

    def hints(self) -> dict[str, Any]:
        return {"of": self.of} if self.of else {}
