"""The type checker behind every signature of the library while tests run: an int will do for a float."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(thing: Callable[..., Any]) -> Callable[..., Any]:
    """`Self` means nothing to a checker that sees methods one by one: what it stands for there is not checked."""
    hints = getattr(thing, "__annotations__", {})
    if Self in hints.values() and not isinstance(thing, type):
        thing.__annotations__ = {name: Any if hint is Self else hint for name, hint in hints.items()}
    return _checked(thing)
