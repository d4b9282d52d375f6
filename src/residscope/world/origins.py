"""How an item came to be: the method, the arguments as they were used, and the Python that makes it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from residscope.corpus.text import called
from residscope.declare import Method
from residscope.fields.base import Spec
from residscope.fields.contrasts import Two
from residscope.fields.texts import HubText, TypedText
from residscope.manifest import find_method
from residscope.world.python import method_code
from residscope.world.session_world import SessionWorld, source_of
from residscope.world.writer import MOST_TYPED, SessionWriter


@dataclass(frozen=True)
class Origin:
    """line: one expression of `model`, `rs` and `directions` that makes it; empty where none does, or a text is too long."""

    method: Method
    plain: Spec
    code: str
    line: str

    @property
    def args(self) -> dict[str, Any]:
        return self.plain.model_dump(mode="json")


def origin_of(item: Any, method: Method, plain: Spec, world: SessionWorld, code: str, *, part: str = "") -> Origin:
    """Of an item that a method made, or of one of several, by name; a data set is at the commit that was read.

    code: the call as it was asked for, as Python.
    """
    asked = method, plain
    if method.parts is not None and part:
        id, argument = method.parts
        method = find_method(id)
        known = {other.wire for other in method.arguments}
        args = {name: value for name, value in plain.model_dump(mode="json").items() if name in known}
        plain = method.check(args | {argument: part})
    plain = plain.model_copy(
        update={
            argument.wire: _read(getattr(plain, argument.wire), item)
            for argument in method.arguments
            if argument.field.kind in ("text", "contrast")
        }
    )
    if asked != (method, plain):
        code = method_code(method, plain, world)
    return Origin(method, plain, code, _line(method, plain, world))


def _line(method: Method, plain: Spec, world: SessionWorld) -> str:
    if any(_long(getattr(plain, argument.wire)) for argument in method.arguments):
        return ""
    writer = SessionWriter(world)
    if world.prompt is not None:
        writer.prompt_name = writer.tokens(world.prompt)
    line = method.code(plain, writer, "model")
    return "" if writer.lines or writer.imports else line


def _read(text: Any, item: Any) -> Any:
    """A text as it was read."""
    if isinstance(text, Two):
        return Two(first=_read(text.first, item), second=_read(text.second, item))
    if not isinstance(text, HubText):
        return text
    told: Mapping[str, Any] = getattr(item, "provenance", {})
    known = {told.get("corpus"), *(told.get("corpora") or {}).values()}
    stem = called(source_of(text)).split("#")[0].split("?")[0].split("@")[0]
    source = next((name for name in known if isinstance(name, str) and name.startswith(f"{stem}@")), None)
    if source is None:
        return text
    return text.model_copy(update={"name": source.removeprefix("hub:").partition("#")[0]})


def _long(text: Any) -> bool:
    if isinstance(text, Two):
        return _long(text.first) or _long(text.second)
    return isinstance(text, TypedText) and len(text.text) > MOST_TYPED
