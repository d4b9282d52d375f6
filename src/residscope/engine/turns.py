"""Turns: a long pass that gives way. It is let go of between two blocks, and made again once who waited has been served.

A pass changes nothing, so that made again it gives the same numbers to the last bit. Only a call that takes the model's lock for
this pass alone gives way: under a lock that its caller holds, or where it fills a cache of the caller's, it runs to its end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock, get_ident
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
MOST = 2  # times in a row that a pass gives way: then it runs to its end, so that who asks again and again cannot starve it

_waits: ContextVar[Callable[[], object] | None] = ContextVar("waits", default=None)
_armed: ContextVar[bool] = ContextVar("armed", default=False)
_locks: "WeakKeyDictionary[Any, ModelLock]" = WeakKeyDictionary()
_locks_lock = RLock()


class GaveWay(BaseException):
    """A pass that was let go of; never seen outside `repeated`."""


class ModelLock:
    """A lock that its thread may take again, and that says whether this thread has it."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._depth = 0  # read and written by the thread that has the lock
        self._owner: int | None = None

    def __enter__(self) -> "ModelLock":
        self._lock.acquire()
        self._depth += 1
        self._owner = get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._lock.release()

    @property
    def mine(self) -> bool:
        return self._owner == get_ident()


def lock_of(hf: Any) -> ModelLock:
    """The one lock around every forward of a model object, however many `Model`s wrap it."""
    with _locks_lock:
        return _locks.setdefault(hf, ModelLock())


@contextmanager
def giving_way(waits: Callable[[], object]) -> Iterator[None]:
    """Passes inside may give way. waits: returns once they may go on, and may raise; it is called outside the model's lock."""
    token = _waits.set(waits)
    try:
        yield
    finally:
        _waits.reset(token)


def repeated(hf: Any, make: Callable[[], T]) -> T:
    """What `make` gives, which takes the model's lock for a pass: where that gives way, it is made again."""
    waits = _waits.get()
    if waits is None or lock_of(hf).mine or _armed.get():
        return make()
    for _ in range(MOST):
        waits()
        token = _armed.set(True)
        try:
            return make()
        except GaveWay:
            pass
        finally:
            _armed.reset(token)
    waits()
    return make()


def give_way() -> None:
    """Let go of the pass under way, where it can be made again; else nothing."""
    if _armed.get():
        raise GaveWay
