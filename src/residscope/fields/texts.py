"""Text to read: built in, typed, or a hub's data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Bounds

from residscope.fields.base import Field, Spec, World, Writer
from residscope.incoming import path_of


class BuiltInText(Spec):
    kind: Literal["builtin"]
    name: str


class TypedText(Spec):
    """A name and what the file of that name would hold: `.jsonl` has a `text` on each line, others have paragraphs."""

    kind: Literal["typed"]
    name: str = Bounds(min_length=1, max_length=200)
    text: str = Bounds(repr=False)


class HubText(Spec):
    """A data set: `org/name`, perhaps with a folder and a revision as in `hub:org/name/folder@revision`."""

    kind: Literal["hub"]
    name: str = Bounds(min_length=1, max_length=400)
    field: str = Bounds(default="text", min_length=1, max_length=200)


TextRef = Annotated[BuiltInText | TypedText | HubText, Bounds(discriminator="kind")]


def read_text(words: str) -> dict[str, Any]:
    """`python-docs`, `english`, `hub:org/name#field`, or a .txt or .jsonl file, whose text it takes."""
    if words.startswith("hub:"):
        name, _, field = words.removeprefix("hub:").partition("#")
        return {"kind": "hub", "name": name, "field": field or "text"}
    path = path_of(words)
    if path.suffix in (".txt", ".jsonl") and path.is_file():
        return {"kind": "typed", "name": path.name, "text": path.read_text(encoding="utf-8")}
    return {"kind": "builtin", "name": words}


@dataclass(frozen=True, kw_only=True)
class TextField(Field):
    """A corpus."""

    kind: ClassVar[str] = "text"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return TextRef

    def plain(self, default: Any) -> Any:
        return BuiltInText(kind="builtin", name=default) if isinstance(default, str) else default

    def resolve(self, value: Any, world: World) -> Any:
        return world.text(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.text(value)

    def read(self, words: Sequence[str]) -> Any:
        return read_text(words[0])

    @property
    def example(self) -> str:
        return "python-docs|english|FILE|hub:ORG/NAME"
