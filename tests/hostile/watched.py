"""One reading under watch: how it ended, how long it took, and whether it asked for more memory than its input accounts for."""

import contextlib
import faulthandler
import gc
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residscope.errors import ResidscopeError

SECONDS = 5.0
BUDGET = 768 << 20  # bytes of address space beyond the input's own size: threads' stacks and arenas among them
GROWN = 64  # times an input's size that reading it may take: objects of Python for each value of a table
SHORT = ("allocate memory", "MemoryError", "Cannot allocate", "bad_alloc")


class TookTooLong(BaseException):
    """No Exception: a reader that catches everything does not catch this."""


@dataclass(frozen=True)
class Outcome:
    """How it ended: "read", "refused", "raw", "slow" or "large"."""

    how: str
    seconds: float
    said: str

    @property
    def good(self) -> bool:
        return self.how in ("read", "refused")


def watched(read: Callable[[], Any], size: int, *, seconds: float = SECONDS) -> Outcome:
    """seconds: of the processor's time; of the clock's, which other programs take too, four times as many."""
    began = time.process_time()

    def ended(how: str, error: BaseException | None = None) -> Outcome:
        return Outcome(
            how, time.process_time() - began, "" if error is None else f"{type(error).__name__}: {error}"[:300]
        )

    try:
        with _limits(size, seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except TookTooLong as error:
        return ended("slow", error)
    except ResidscopeError as error:
        return ended("large" if _short_of_memory(error) else "refused", error)
    except MemoryError as error:
        return ended("large", error)
    except BaseException as error:  # a panic of a Rust library is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return ended("large" if _short_of_memory(error) else "raw", error)
    return ended("read")


def _short_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in SHORT):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _limits(size: int, seconds: float) -> Iterator[None]:
    gc.collect(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def too_long(*_: Any) -> None:
        raise TookTooLong(f"over {seconds} s")

    was = [signal.signal(number, too_long) for number in (signal.SIGALRM, signal.SIGPROF)]
    resource.setrlimit(resource.RLIMIT_AS, (now + BUDGET + GROWN * size, hard))
    signal.setitimer(signal.ITIMER_REAL, 4 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(12 * SECONDS, exit=True)  # what waits in C hears no signal
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, was[0])
        signal.signal(signal.SIGPROF, was[1])
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
