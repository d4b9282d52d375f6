"""A declaration: a function, what a person is asked for to call it, and all that follows from that for every door.

    @edit(title="Scale", glyph="×")
    def scale(site: Annotated[str, fields.site()], factor: Annotated[float, fields.number(strength=True)], ...) -> Scale: ...

An argument whose annotation carries no field is for Python alone.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, TypedDict, get_args, get_origin, get_type_hints

from pydantic import Field as Bounds
from pydantic import TypeAdapter, ValidationError, create_model

from residscope.errors import BadArguments, ResidscopeError
from residscope.fields.base import Field, Spec, World, Writer
from residscope.views.schema import More


@dataclass(frozen=True)
class Argument:
    """One argument of a function: its field, and its default (`Argument.required`: it has none)."""

    name: str
    field: Field
    default: Any

    required: ClassVar[Any] = inspect.Parameter.empty

    @property
    def wire(self) -> str:
        """What the wire calls it."""
        return self.field.name or self.name

    @property
    def title(self) -> str:
        return self.field.title or self.name.replace("_", " ")


class FormProperty(TypedDict):
    """One argument as JSON Schema, with the `kind` of its field and that kind's own hints."""

    kind: str
    argument: Annotated[str, "Its name in Python."]
    title: str


class FormSchema(TypedDict):
    """What a form is drawn from: JSON Schema, each property with the `kind` of its field, which says what it may hold."""

    id: str
    title: str
    about: str
    type: Literal["object"]
    properties: dict[str, Annotated[FormProperty, More()]]
    required: list[str]


@dataclass(frozen=True, eq=False)
class Declared:
    """A function with a name that every door knows."""

    id: str
    title: str
    function: Callable[..., Any]

    refusal: ClassVar[type[ResidscopeError]] = BadArguments
    base: ClassVar[type[Spec]] = Spec

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """What a person is asked for, in order."""
        hints = get_type_hints(self.function, include_extras=True)
        arguments: list[Argument] = []
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                several = get_type_hints(get_args(hints[name])[0], include_extras=True) if name in hints else {}
                arguments += [Argument(key, field, None) for key, hint in several.items() if (field := _field_of(hint))]
            elif field := _field_of(hints.get(name)):
                arguments.append(Argument(name, field, parameter.default))
        return tuple(arguments)

    @cached_property
    def shape(self) -> type[Spec]:
        """The plain arguments, as pydantic checks them."""
        parts: dict[str, Any] = {}
        for argument in self.arguments:
            kind, default = argument.field.type(), argument.default
            about: dict[str, Any] = {"title": argument.title, "description": argument.field.help or None}
            about["json_schema_extra"] = {"kind": argument.field.kind, "argument": argument.name} | self._hints(
                argument
            )
            if default is Argument.required:
                parts[argument.wire] = (kind, Bounds(..., **about))
            else:
                default = argument.field.plain(default)
                parts[argument.wire] = (kind if default is not None else kind | None, Bounds(default, **about))
        return create_model(self.id, __base__=self.base, **self._extra(), **parts)

    def _extra(self) -> dict[str, Any]:
        return {}

    def _hints(self, argument: Argument) -> dict[str, Any]:
        field = argument.field
        conditions = {"when": field.when, "unless": field.unless}
        typed = {"words": field.words, "example": field.example}
        return field.hints() | {name: list(value) for name, value in conditions.items() if value} | typed

    @cached_property
    def _adapter(self) -> TypeAdapter[Spec]:
        return TypeAdapter(self.shape)

    def check(self, raw: Any, *, where: str = "", called: Callable[[str], str] = str) -> Spec:
        """Plain arguments, checked. called: what the door they came through calls each of them.

        Raises BadArguments (of an edit, BadEdit) with what came and what is taken.
        """
        try:
            return self._adapter.validate_python(raw)
        except ValidationError as error:
            raise self.refusal(
                f"{where} does not parse: {reasons(error, called)}"
                if where else f"the arguments of {self.id} do not parse: {reasons(error, called)}",
                received=shorten(raw), allowed=self._allowed(called),
            ) from None  # fmt: skip

    def _allowed(self, called: Callable[[str], str]) -> str:
        return ", ".join(
            f"{called(a.wire)}{'' if a.default is Argument.required else ' (may be left out)'}" for a in self.arguments
        )

    def said(self, plain: Spec) -> dict[str, Any]:
        """The arguments that differ from what is taken unless said, by argument."""
        values: dict[str, Any] = {}
        for argument in self.arguments:
            value, default = getattr(plain, argument.wire), argument.default
            value = argument.field.unsaid(plain) if value is None else value
            if default is Argument.required or not (value is None or _same(value, default)):
                values[argument.name] = value
        return values

    def resolved(self, plain: Spec, world: World, *, slow: bool = True) -> dict[str, Any]:
        """What the function is to be given, without the model; slow=False: what is slow to resolve stays as it is written.

        Raises what the fields do.
        """
        by_name = {argument.name: argument.field for argument in self.arguments}
        return {
            name: by_name[name].resolve(value, world) if slow or not by_name[name].slow else value
            for name, value in self.said(plain).items()
        }

    def code(self, plain: Spec, writer: Writer, *first: str) -> str:
        """The call as Python; `first` are expressions that come before, such as `model`."""
        positional, named = [*first], []
        by_name = {argument.name: argument for argument in self.arguments}
        for name, value in self.said(plain).items():
            argument = by_name[name]
            expression = argument.field.code(value, writer)
            if argument.default is Argument.required and not self._keyword_only(name):
                positional.append(expression)
            else:
                named.append(f"{name}={expression}")
        return f"{self._expression(writer)}({', '.join([*positional, *named])})"

    def _keyword_only(self, name: str) -> bool:
        parameter = inspect.signature(self.function).parameters.get(name)
        return parameter is None or parameter.kind is parameter.KEYWORD_ONLY

    def _expression(self, writer: Writer) -> str:
        """The function as the copied lines call it."""
        if self.name_in_python == self.function.__name__:
            writer.need(f"from {self.function.__module__} import {self.function.__name__}")
        return self.name_in_python

    @property
    def name_in_python(self) -> str:
        """What the function goes by after `import residscope as rs` and `from residscope import edits`, or its own name."""
        name, module = self.function.__name__, self.function.__module__
        public = import_module("residscope").__all__  # not by name: all that it offers would count as imported here
        if module.startswith("residscope.edits."):
            return f"edits.{name}"
        if module == "residscope.probes.concepts":
            return f"rs.concepts.{name}"
        if module.startswith("residscope.sae.") and name in import_module("residscope.sae").__all__:
            return f"rs.sae.{name}"
        return f"rs.{name}" if name in public else str(name)

    @property
    def about(self) -> str:
        """The first paragraph of its docstring."""
        words = (inspect.getdoc(self.function) or "").split("\n\n")[0].replace("\n", " ")
        return words.replace("`", "")

    def schema(self) -> FormSchema:
        """What a form is drawn from."""
        schema = self.shape.model_json_schema()
        named = {argument.wire for argument in self.arguments}
        properties: dict[str, Any] = {
            name: _drawn(part) for name, part in schema["properties"].items() if name in named
        }
        required = [name for name in schema.get("required", ()) if name in named]
        return {
            "id": self.id, "title": self.title, "about": self.about, "type": "object", "properties": properties,
            "required": required,
        }  # fmt: skip


def _field_of(hint: Any) -> Field | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((part for part in get_args(hint)[1:] if isinstance(part, Field)), None)


REFERS = ("prompts", "source", "text", "direction", "metric", "edits", "rank_one", "endpoint")
"""Kinds whose values are objects of several shapes: the page has a picker of its own for each."""


def _drawn(part: dict[str, Any]) -> dict[str, Any]:
    """A property without what its kind says already, and without the null that may stand for nothing."""
    if part.get("kind") in REFERS:
        return {
            key: value for key, value in part.items() if key not in ("anyOf", "oneOf", "discriminator", "$ref", "items")
        }
    several = [option for option in part.get("anyOf", ()) if option.get("type") != "null"]
    if len(several) == 1:
        part = {key: value for key, value in part.items() if key != "anyOf"} | several[0]
    return part


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list) and isinstance(default, tuple):
        return value == [*default]
    return bool(type(value) is type(default) and value == default) or (
        isinstance(value, float | int) and isinstance(default, float | int) and value == default
    )


def reasons(error: ValidationError, called: Callable[[str], str] = str) -> str:
    """What pydantic found, in one line."""
    errors = error.errors(include_url=False)[:4]
    places = [[called(str(at)) if i == 0 else str(at) for i, at in enumerate(item["loc"])] for item in errors]
    several = [(".".join(place), item["msg"]) for place, item in zip(places, errors, strict=True)]
    return "; ".join(f"{place}: {message}" if place else message for place, message in several)


def shorten(raw: Any, *, limit: int = 200) -> str:
    text = repr(raw)
    return text if len(text) <= limit else text[: limit - 1] + "…"
