"""Turns: a long pass that stands aside. Between two blocks it lends the model to who waits, and then goes on where it was.

What a pass puts on the model acts in its own thread alone, and who has the model meanwhile leaves it as it was, so that the pass
gives the same numbers to the last bit. Of one model one pass at a time may stand aside: what is put on a module is taken off in
the reverse order. A pass under a lock that its caller holds runs to its end.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock, get_ident
from typing import Any
from weakref import WeakKeyDictionary

Waits = Callable[[], object]

_waits: ContextVar[Waits | None] = ContextVar("waits", default=None)
_turn: "ContextVar[tuple[ModelLock, Waits] | None]" = ContextVar("turn", default=None)
_locks: "WeakKeyDictionary[Any, ModelLock]" = WeakKeyDictionary()
_locks_lock = RLock()


class ModelLock:
    """A lock that its thread may take again, and that says whether this thread has it.

    aside: held by the one thread whose pass may lend the lock.
    """

    def __init__(self) -> None:
        self.aside = RLock()
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

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Others may have the lock inside; this thread has it again, as often as before, on leaving."""
        depth, self._depth, self._owner = self._depth, 0, None
        for _ in range(depth):
            self._lock.release()
        try:
            yield
        finally:
            for _ in range(depth):
                self._lock.acquire()
            self._depth, self._owner = depth, get_ident()


def lock_of(hf: Any) -> ModelLock:
    """The one lock around every forward of a model object, however many `Model`s wrap it."""
    with _locks_lock:
        return _locks.setdefault(hf, ModelLock())


@contextmanager
def giving_way(waits: Waits) -> Iterator[None]:
    """Passes inside may stand aside. waits: returns once they may go on, and may raise; it is called outside the model's lock."""
    token = _waits.set(waits)
    try:
        yield
    finally:
        _waits.reset(token)


@contextmanager
def in_turn(hf: Any) -> Iterator[None]:
    """The model's lock for a pass, which may stand aside where nothing around it has the lock already."""
    waits, lock = _waits.get(), lock_of(hf)
    if waits is None or lock.mine or _turn.get() is not None:
        with lock:
            yield
        return
    waits()
    with lock.aside, lock:
        token = _turn.set((lock, waits))
        try:
            yield
        finally:
            _turn.reset(token)


def give_way() -> None:
    """Lend the model to who waits, where the pass under way may stand aside; else nothing."""
    turn = _turn.get()
    if turn is None or not turn[0].mine:
        return
    lock, waits = turn
    token = _turn.set(None)
    try:
        with lock.lent():
            waits()
    finally:
        _turn.reset(token)
