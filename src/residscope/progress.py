"""Progress and cancelling: what a long call tells on its way, and how it is stopped.

Every call that can take over a second takes both, and looks at both at the start of each of its stages, after each part of
it (a batch, a pass, a fit) and, for progress, at its end. A forward asks too, in front of each block, so that one that takes
seconds need not be waited for.
"""

import inspect
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from residscope.errors import BadArguments, Cancelled, Interrupted, ResidscopeWarning

Progress = Callable[[str, int, int], object] | Callable[[int, int], object] | bool | None
"""Called with (stage, done, total), or, where it takes two arguments, with (done, total). True: a bar; None: a bar in a
terminal or notebook, where it takes long; False: nothing."""

Cancel = Callable[[], object] | threading.Event | None
"""A function that says whether to stop, or an event that is set when to."""

Tell = Callable[..., None]
"""`tell(done)`: so much is done. `tell()`: only asks whether to stop. Either raises Cancelled where it was asked for."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_asked: ContextVar[Tell | None] = ContextVar("asked", default=None)
_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)
PATIENCE = 0.5  # seconds a stage takes before a bar that nobody asked for is drawn


@contextmanager
def stage(
    what: str,
    total: int,
    progress: Progress = None,
    cancel: Cancel = None,
    *,
    yields: bool = False,
    partial: Callable[[], Any] | None = None,
    cancelled: type[Cancelled] = Cancelled,
    interrupted: type[Interrupted] = Interrupted,
) -> Iterator[Tell]:
    """One stage of a call, of so many parts: a function to be told how many of them are done.

    It tells `progress` 0 at first, then what has grown, never over the total, and the total at the end. Forwards inside ask
    `cancel` as well; where the stage `yields`, as a generator's does, only those in `asking(tell, cancel)`, for what its caller
    runs between two items is the caller's. partial: what a call that is stopped has finished, made when it is, for the error to
    keep.

    Raises:
        Cancelled: `cancel` said so. Interrupted: Ctrl-C, which is a KeyboardInterrupt still. BadArguments: neither a progress
        nor a cancel.

    >>> with stage("Counting", 2, lambda *told: print(*told)) as tell:
    ...     tell(1)
    Counting 0 2
    Counting 1 2
    Counting 2 2
    """
    asked = _question(cancel)
    with _listener(progress, what, total) as hear:
        told = -1

        def tell(done: int | None = None) -> None:
            nonlocal told
            now = told if done is None else min(done, total)
            if now > told:
                told = now
                hear(now)
            if asked():
                raise cancelled(f"{what}: cancelled", **_after(told, total))

        try:
            tell(0)
            with asking(tell, None if yields else cancel):
                yield tell
            if told < total:
                hear(total)
        except Cancelled as stop:
            if stop.partial is None and partial is not None:
                stop.partial = partial()
            raise
        except KeyboardInterrupt as stop:
            finished = None if partial is None else partial()
            raise interrupted(f"{what}: stopped by Ctrl-C", partial=finished, **_after(told, total)) from stop


@contextmanager
def asking(tell: Tell, cancel: Cancel) -> Iterator[None]:
    """Forwards inside ask `tell` in front of each block whether to stop, and then whatever they ask already: each may stop them.

    `tell()` is asked in front of a block, `tell(0)` inside a long one.
    """
    if cancel is None:
        yield
        return
    outer = _asked.get()

    def ask(*done: int) -> None:
        tell(*done)
        if outer is not None:
            outer(*done)

    token = _asked.set(ask)
    try:
        yield
    finally:
        _asked.reset(token)


def asked() -> Tell | None:
    """What a forward is to ask; None where nobody can stop it."""
    return _asked.get()


def ask_within() -> None:
    """Ask, inside a block, whether to stop."""
    if (tell := _asked.get()) is not None:
        tell(0)


@contextmanager
def keeping(made: Callable[[Any], Any]) -> Iterator[None]:
    """What a call inside had finished when it was stopped, made into what this one would have returned."""
    try:
        yield
    except Cancelled as stop:
        if stop.partial is not None:
            stop.partial = made(stop.partial)
        raise


def _after(done: int, total: int) -> dict[str, str]:
    return {"received": f"after {max(done, 0)} of {total}", "fix": "`error.partial` has what was finished, if anything"}


def _question(cancel: Cancel) -> Callable[[], bool]:
    if cancel is None:
        return lambda: False
    is_set = getattr(cancel, "is_set", None)
    ask = is_set if callable(is_set) else cancel
    if not callable(ask):
        raise BadArguments(
            "that can cancel nothing", received=f"cancel={cancel!r}", allowed="a function, a threading.Event, or None"
        )
    return lambda: bool(ask())


def _listener(progress: Progress, what: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
    if callable(progress):
        hear: Any = progress
        if _arguments(progress) == 3:
            return nullcontext(lambda done: hear(what, done, total))
        return nullcontext(lambda done: hear(done, total))
    if progress not in (True, False, None):
        raise BadArguments(
            "progress is told to nothing", received=f"progress={progress!r}",
            allowed="a function of (stage, done, total) or (done, total), True, False or None",
        )  # fmt: skip
    if progress is False or (progress is None and not _watched()):
        return nullcontext(lambda done: None)
    return _bar(what, total, 0 if progress else PATIENCE)


def within(progress: Progress, part: str) -> Progress:
    """A progress that is told of each stage as of one of this part of the whole; one that hears no stages stays as it is.

    >>> within(lambda *told: print(*told), "First look")("Steering", 1, 2)
    First look: steering 1 2
    """
    if not callable(progress) or _arguments(progress) != 3:
        return progress
    hear: Any = progress
    return lambda what, done, total: hear(f"{part}: {what[:1].lower()}{what[1:]}", done, total)


@contextmanager
def _bar(what: str, total: int, delay: float) -> Iterator[Callable[[int], object]]:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, desc=what, leave=False, delay=delay) as bar:
        yield lambda done: bar.update(done - bar.n)


def _arguments(progress: Callable[..., object]) -> int:
    """How many arguments the function wants: two where it needs two and no more, else three where it can take them."""
    try:
        signature = inspect.signature(progress)
    except ValueError:  # a builtin that does not say
        return 3
    needed = [p for p in signature.parameters.values() if p.default is p.empty and p.kind in _POSITIONAL]
    for count in (2, 3) if len(needed) == 2 else (3, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    raise BadArguments(
        "progress takes other arguments",
        received=f"progress{signature}",
        allowed="(stage, done, total) or (done, total)",
    )


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """The words of each warning of Residscope's own that is given within, once each: in this context alone, not in others'."""
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def warn(message: str, kind: type[ResidscopeWarning], *, stacklevel: int = 2) -> None:
    """A Python warning, which `heard_warnings` hears whatever Python's filters say."""
    heard = _heard.get()
    if heard is not None and message not in heard:
        heard.append(message)
    warnings.warn(message, kind, stacklevel=stacklevel + 1)
