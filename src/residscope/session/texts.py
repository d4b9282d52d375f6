"""Texts as the wire names them: built in, typed, or of a hub's data set."""

from typing import Annotated, Literal

from pydantic import Field

from residscope.corpus.text import BUILT_IN, Source, typed
from residscope.errors import CorpusError
from residscope.session.specs import Spec


class BuiltInText(Spec):
    kind: Literal["builtin"]
    name: str


class TypedText(Spec):
    """A name and what the file of that name would hold: `.jsonl` has a `text` on each line, others have paragraphs."""

    kind: Literal["typed"]
    name: str = Field(min_length=1, max_length=200)
    text: str = Field(repr=False)


class HubText(Spec):
    """A data set: `org/name`, perhaps with a folder and a revision as in `hub:org/name/folder@revision`."""

    kind: Literal["hub"]
    name: str = Field(min_length=1, max_length=400)
    field: str = Field(default="text", min_length=1, max_length=200)


TextRef = Annotated[BuiltInText | TypedText | HubText, Field(discriminator="kind")]


def source_of(text: TextRef) -> Source:
    """The corpus. Raises CorpusError: no such built-in text, or a line of JSON without text."""
    if isinstance(text, TypedText):
        return typed(text.name, text.text)
    if isinstance(text, HubText):
        return f"hub:{text.name}" + ("" if text.field == "text" else f"#{text.field}")
    if text.name not in BUILT_IN:  # never a path: a page does not read the server's files
        raise CorpusError("there is no built-in text of that name", received=text.name, allowed=", ".join(BUILT_IN))
    return text.name
