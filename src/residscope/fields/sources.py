"""Where a value is taken from: another prompt, a run of the history, a saved recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from pydantic import Field as Bounds

from residscope.fields.base import Field, Spec, World, Writer
from residscope.fields.models import ModelName
from residscope.fields.prompts import MOST_TEXT, Text
from residscope.incoming import path_of


class PromptSource(Spec):
    """A run of another prompt, unedited unless said. ids: its tokens, where its text would be read as others."""

    kind: Literal["prompt"]
    text: Text
    bos: bool | None = None
    edits: list[dict[str, Any]] = Bounds(default=[], max_length=200)
    ids: list[int] | None = Bounds(default=None, min_length=1, max_length=MOST_TEXT)


class RunSource(Spec):
    """A run of the history, with its edits."""

    kind: Literal["run"]
    run: str = Bounds(min_length=1, max_length=64)


class ModelSource(Spec):
    """A run of another model of the same shapes, unedited unless said: on the live prompt, or on another text."""

    kind: Literal["model"]
    model: ModelName
    text: Text | None = None
    bos: bool | None = None
    edits: list[dict[str, Any]] = Bounds(default=[], max_length=200)
    ids: list[int] | None = Bounds(default=None, min_length=1, max_length=MOST_TEXT)


class ItemSource(Spec):
    """A recording of the shelf."""

    kind: Literal["item"]
    name: str = Bounds(min_length=1, max_length=200)


def _prompt(value: Any) -> Any:
    return {"kind": "prompt", "text": value} if isinstance(value, str) else value


class CompanionSource(Spec):
    """An unedited run of the companion, the prompt beside the live one."""

    kind: Literal["companion"]


SourceRef = Annotated[
    Annotated[PromptSource | RunSource | ModelSource | ItemSource | CompanionSource, Bounds(discriminator="kind")],
    BeforeValidator(_prompt),
]


@dataclass(frozen=True, kw_only=True)
class SourceField(Field):
    """Another run: its values are put into this one."""

    kind: ClassVar[str] = "source"

    def type(self) -> Any:
        return SourceRef

    def resolve(self, value: Any, world: World) -> Any:
        return world.source(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.source(value)

    def read(self, words: Sequence[str]) -> Any:
        path = path_of(words[0])
        if path.suffix == ".safetensors" and path.is_file():
            return {"kind": "item", "name": words[0]}
        return {"kind": "prompt", "text": words[0]}

    @property
    def example(self) -> str:
        return "PROMPT|FILE"
