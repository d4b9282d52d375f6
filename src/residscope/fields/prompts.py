"""Prompts: the live one, typed ones, a task's, those drawn from a text, a fitted probe's, or a set that has a name here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from pydantic import Field as Bounds

from residscope.fields.base import Field, Spec, World, Writer
from residscope.fields.tasks import FileData, TaskData
from residscope.fields.texts import TextRef
from residscope.incoming import path_of

MOST_TEXT = 1 << 20
Text = Annotated[str, Bounds(min_length=1, max_length=MOST_TEXT)]


class LivePrompt(Spec):
    """The prompt on the page."""

    kind: Literal["live"]


class CompanionPrompt(Spec):
    """The prompt that stands beside the one on the page."""

    kind: Literal["companion"]


class TypedPrompts(Spec):
    """Texts. ids: the tokens of each, where their texts would be read as others."""

    kind: Literal["typed"]
    texts: list[Text] = Bounds(min_length=1, max_length=10_000)
    bos: bool | None = None
    ids: list[list[int]] | None = Bounds(default=None, min_length=1, max_length=10_000)


class DrawnPrompts(Spec):
    """n windows of a text, `length` tokens each."""

    kind: Literal["drawn"]
    text: TextRef
    n: int = Bounds(default=24, ge=1, le=2000)
    length: int = Bounds(default=40, ge=4, le=4096)
    seed: int = Bounds(default=0, ge=0, lt=1 << 32)


class NamedPrompts(Spec):
    """A set of prompts of the shelf."""

    kind: Literal["item"]
    name: str = Bounds(min_length=1, max_length=200)


class ProbePrompts(Spec):
    """The prompts of a fitted probe: those that its fit has not seen, those that it was fitted to, or all."""

    kind: Literal["probe"]
    probe: str = Bounds(min_length=1, max_length=400)
    part: Literal["held_out", "training", "all"] = "held_out"


def _typed(value: Any) -> Any:
    return {"kind": "typed", "texts": [value]} if isinstance(value, str) else value


OnePrompt = Annotated[
    Annotated[LivePrompt | CompanionPrompt | TypedPrompts, Bounds(discriminator="kind")],
    BeforeValidator(_typed),
]
SeveralPrompts = Annotated[
    Annotated[
        LivePrompt | CompanionPrompt | TypedPrompts | TaskData | FileData | DrawnPrompts | NamedPrompts,
        Bounds(discriminator="kind"),
    ],
    BeforeValidator(_typed),
]
LabelledPrompts = Annotated[TaskData | FileData | NamedPrompts | ProbePrompts, Bounds(discriminator="kind")]


def read_prompts(words: str) -> dict[str, Any]:
    """A prompt as typed; `task:ioi,n=50,seed=1,partner=ABC`; a .csv, .tsv or .jsonl file of labelled prompts; a saved set's
    .safetensors; `probe:FILE`, the prompts held out from the probe of a saved map."""
    if words.startswith("probe:"):
        return {"kind": "probe", "probe": words.removeprefix("probe:").strip()}
    if words.startswith("task:"):
        name, *options = words.removeprefix("task:").split(",")
        spec: dict[str, Any] = {"kind": "task", "task": name.strip()}
        for option in options:
            key, _, value = option.partition("=")
            spec[key.strip()] = _option(key.strip(), value.strip())
        return spec
    path = path_of(words)
    if path.suffix in (".csv", ".tsv", ".jsonl") and path.is_file():
        return {"kind": "file", "name": path.name, "text": path.read_text(encoding="utf-8")}
    if path.suffix == ".safetensors" and path.is_file():
        return {"kind": "item", "name": words}
    return {"kind": "typed", "texts": [words]}


def _option(key: str, value: str) -> bool | str | int:
    return value == "true" if key == "prefixes" else value if key == "partner" else int(value)


@dataclass(frozen=True, kw_only=True)
class PromptsField(Field):
    """Prompts as `model.run` takes them. one: a single prompt. labelled: with labels and named positions, as a probe needs.

    live: the prompt on the page stands where none is given. begin: what a form begins with ("typed").
    """

    one: bool = False
    labelled: bool = False
    live: bool = False
    begin: str = ""
    kind: ClassVar[str] = "prompts"

    def type(self) -> Any:
        return LabelledPrompts if self.labelled else OnePrompt if self.one else SeveralPrompts

    def hints(self) -> dict[str, Any]:
        return {"one": self.one, "labelled": self.labelled, "begin": self.begin}

    def unsaid(self, plain: Any) -> Any:
        return LivePrompt(kind="live") if self.live and self.applies(plain) else None

    def resolve(self, value: Any, world: World) -> Any:
        return world.prompts(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.prompts(value)

    def read(self, words: Sequence[str]) -> Any:
        return read_prompts(words[0])

    @property
    def example(self) -> str:
        return "task:ioi,n=50" if self.labelled else "PROMPT"
