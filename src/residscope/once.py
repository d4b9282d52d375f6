"""What is worked out once, however many threads ask for it at one time."""

from collections.abc import Callable
from functools import cache, wraps
from threading import RLock
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def once(make: Callable[P, T]) -> Callable[P, T]:
    """A function whose answers are kept, and that one thread at a time is in.

    `functools.cache` lets two threads that ask for one thing both work it out, at the same time: `ast.parse` of a deep file,
    a font that is being measured with, and an import are not made for that.

    >>> once(lambda n: [n])(1)
    [1]
    """
    kept, lock = cast(Callable[P, T], cache(make)), RLock()

    @wraps(make)
    def asked(*args: P.args, **named: P.kwargs) -> T:
        with lock:
            return kept(*args, **named)

    return asked
