"""The type checker behind every signature of the library while tests run: an int will do for a float.

jaxtyping's own wrapper binds a signature at each call, which takes as long as many of these calls: it stands only where a
signature names a shape. A function within a function, made anew at each call, is checked only where it names one.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ForwardRef, Self, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))  # as jaxtyping's own is one
_with_shapes = jaxtyping.jaxtyped


def checked(thing: Callable[..., Any]) -> Callable[..., Any]:
    """`Self` means nothing to a checker that sees methods one by one: what it stands for there is not checked."""
    hints = getattr(thing, "__annotations__", {})
    if Self in hints.values() and not isinstance(thing, type):
        thing.__annotations__ = {name: Any if hint is Self else hint for name, hint in hints.items()}
    return _checked(thing)


def names_shapes(hint: Any) -> bool:
    """Whether a hint is an array's shape, or has one in it; of words nobody has read yet, it may."""
    if isinstance(hint, str):
        return "[" in hint
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(names_shapes, get_args(hint)))


def _named(hint: Any) -> bool:
    """Whether a class is given by its name."""
    return isinstance(hint, str | ForwardRef) or any(map(_named, get_args(hint)))


def _read(hint: Any, names: dict[str, Any]) -> Any:
    """A hint with the classes that it names; a class that only type checkers import is not there, and not checked."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": hint}), names)["it"]
    except (NameError, AttributeError):
        return Any


def _once_called(thing: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """Checked from its first call on, when the classes that its hints name are there."""
    ready: list[Callable[..., Any]] = []

    @functools.wraps(thing)
    def first(*args: Any, **kwargs: Any) -> Any:
        if not ready:
            thing.__annotations__ = {
                name: _read(hint, thing.__globals__) for name, hint in thing.__annotations__.items()
            }
            ready.append(typechecker(thing))
        return ready[0](*args, **kwargs)

    return first


def jaxtyped(*those: Any, typechecker: Any) -> Any:
    """What the import hook puts over every function, class and property of the packages that it watches."""

    def watch(thing: Any) -> Any:
        watched = thing.__init__ if inspect.isclass(thing) and dataclasses.is_dataclass(thing) else thing
        if not inspect.isfunction(watched) or any(map(names_shapes, watched.__annotations__.values())):
            return _with_shapes(thing, typechecker=typechecker)
        if watched is thing and "<locals>" in thing.__qualname__:
            return thing
        later = any(map(_named, watched.__annotations__.values()))
        checker = _once_called(watched, typechecker) if later else typechecker(watched)
        if watched is thing:
            return checker
        thing.__init__ = checker
        return thing

    return watch(*those) if those else watch


jaxtyping.jaxtyped = jaxtyped
