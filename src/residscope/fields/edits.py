"""Edits: those of the live stack, or as many as are written down."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer
from residscope.incoming import path_of

MOST_EDITS = 200
EditsRef = Literal["live"] | Annotated[list[dict[str, Any]], Bounds(max_length=MOST_EDITS)]


@dataclass(frozen=True, kw_only=True)
class EditsField(Field):
    """A stack of edits, in order; "live" is the one on the page."""

    kind: ClassVar[str] = "edits"

    def type(self) -> Any:
        return EditsRef

    def resolve(self, value: Any, world: World) -> Any:
        return world.edits(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.edits(value)

    def read(self, words: Sequence[str]) -> Any:
        path = path_of(words[0])
        return json.loads(path.read_text() if path.suffix == ".json" and path.is_file() else words[0])

    @property
    def example(self) -> str:
        return "JSON|FILE.json"
