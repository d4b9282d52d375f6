"""What is let in to wait: nobody joins a line that takes too long, or stays in one, but is told when to come back."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from residscope.errors import Busy

T = TypeVar("T")
CROWD = 64  # calls that may wait however long it takes: a class at once
WAIT = 5.0  # seconds that whoever joins beyond these waits for a thread, about
LONGEST = 4  # times as long is the most that anybody waits
SHARE = 0.5  # of a line that one person may have where others wait too; those without a name are one
LATELY = 0.1  # how much the latest counts in how fast a line goes


class Line:
    """Calls of one kind, so many at a time. Used in the loop's thread."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._free, self._limiter = asyncio.Semaphore(threads), CapacityLimiter(threads)
        self._pending: Counter[str] = Counter()  # by whose they are
        self._each = 0.0  # seconds from one answer to the next, while somebody waits for one
        self._since = 0.0  # the last one

    async def run(self, call: Callable[[], T], who: str | None = None) -> T:
        """What a call answers, in a thread. Raises Busy, and what the call does."""
        name, came = who or "", time.monotonic()
        self._admit(name)
        if not self._pending:
            self._since = came
        self._pending[name] += 1
        try:
            async with self._free:
                if time.monotonic() - came > LONGEST * WAIT:
                    raise self._busy(self._pending.total() * self._each)
                try:
                    return await to_thread.run_sync(call, limiter=self._limiter)
                finally:
                    now = time.monotonic()
                    self._each += LATELY * (now - self._since - self._each)
                    self._since = now
        finally:
            self._pending -= Counter({name: 1})

    def _admit(self, name: str) -> None:
        waiting = self._pending.total() - self._threads
        if waiting < CROWD:
            return
        each = max(self._each, time.monotonic() - self._since)
        if (wait := (waiting + 1) * each) > WAIT:
            raise self._busy(wait)
        others = self._pending.total() > self._pending[name]
        if others and (own := self._pending[name] * each) > SHARE * WAIT:
            raise self._busy(own, "that is much at once for one person")

    def _busy(self, seconds: float, said: str = "Residscope is answering as much as it can") -> Busy:
        whole = max(1, math.ceil(min(seconds, LONGEST * WAIT)))  # by then nobody is left of who waits now
        return Busy(f"{said}; nothing was done", fix=f"come back in {whole} s", seconds=whole)
