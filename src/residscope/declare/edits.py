"""Edits declared: a function that makes one, its glyph, and which of its numbers a person turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypedDict, TypeVar

from pydantic import BaseModel
from pydantic import Field as Bounds

from residscope.declare.base import Declared, FormSchema
from residscope.declare.plugins import claim
from residscope.errors import BadEdit, ResidscopeError
from residscope.fields.base import Spec, World

F = TypeVar("F", bound=Callable[..., Any])
MOST_SHOWN = 40  # characters of a text beside an edit


class EditSpec(Spec):
    """An edit as the wire says it, not yet tied to a model: its kind, and what that kind takes."""

    id: str | None = Bounds(default=None, max_length=64)
    enabled: bool = True
    kind: str


class EditForm(FormSchema):
    glyph: str


class Slider(TypedDict):
    """The one number of an edit that a person turns, and between what."""

    name: str
    value: float
    min: float
    max: float
    step: float
    unit: str


@dataclass(frozen=True, eq=False)
class EditKind(Declared):
    """A function that makes edits. says: what stands beside the label, in words that may name its arguments: `to {to}`."""

    glyph: str = "·"
    says: str = ""

    refusal: ClassVar[type[ResidscopeError]] = BadEdit
    base: ClassVar[type[Spec]] = EditSpec

    def _extra(self) -> dict[str, Any]:
        return {"kind": (Literal[self.id], ...)}

    def schema(self) -> EditForm:
        return {**super().schema(), "glyph": self.glyph}

    def make(self, plain: EditSpec, world: World) -> Any:
        """The edit. Raises what its fields and the edit itself refuse."""
        return self.function(**self.resolved(plain, world))

    @cached_property
    def _properties(self) -> dict[str, dict[str, Any]]:
        """What `strength` reads for each edit of each state: worked out once."""
        properties: dict[str, dict[str, Any]] = self.shape.model_json_schema()["properties"]
        return properties

    def strength(self, plain: EditSpec) -> Slider | None:
        """The one number that a person turns, and between what; None where there is none."""
        for argument in self.arguments:
            hints = self._properties[argument.wire]
            value = getattr(plain, argument.wire)
            if "strength" not in hints or value is None or not argument.field.applies(plain):
                continue
            others = [other for other in hints["strength_where"] if _holds(other["where"], plain)]
            slider = {**hints["strength"], **(others[0] if others else {})}
            low, high = min(slider["min"], value), max(slider["max"], value)
            if slider["min"] == -slider["max"]:
                low, high = min(low, -high), max(high, -low)
            return {
                "name": argument.wire, "value": value, "min": low, "max": high, "step": slider["step"], "unit": slider["unit"],
            }  # fmt: skip
        return None

    def beside(self, plain: EditSpec) -> str:
        """Where it acts, or what it does, in a few words beside its label."""
        if self.says:
            return self.says.format_map({a.wire: _short(getattr(plain, a.wire)) for a in self.arguments})
        parts = [
            f"{argument.title} {_listed(value)}"
            for argument in self.arguments
            if argument.field.kind == "heads" and (value := getattr(plain, argument.wire)) is not None
        ]
        pos = getattr(plain, "pos", None)
        return " · ".join([*parts, "all pos" if pos is None else f"pos {_listed(pos)}"])


def _holds(where: Mapping[str, Any], plain: Any) -> bool:
    return all(getattr(plain, name, None) == value for name, value in where.items())


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, BaseModel):
        parts = [v for k, v in value.model_dump().items() if k != "kind" and isinstance(v, str)]
        words = " ".join(parts)  # of a prompt its end, where prompts that are compared differ
        return words if len(words) <= MOST_SHOWN else f"…{words[1 - MOST_SHOWN :]}"
    return _listed(value)


EDITS: dict[str, EditKind] = {}


def edit(id: str = "", *, title: str, glyph: str = "·", says: str = "") -> Callable[[F], F]:
    """Declare a function that makes edits; its name is its id unless said."""

    def declare(function: F) -> F:
        kind = EditKind(id or function.__name__, title, function, glyph, says)
        claim("kinds of edit", kind.id, EDITS.get(kind.id), function)
        EDITS[kind.id] = kind
        return function

    return declare
