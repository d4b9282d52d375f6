"""One thread that does the session's work: the most urgent first, and of one kind only the newest."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from residscope.engine.turns import give_way, giving_way
from residscope.errors import Cancelled
from residscope.progress import asking

Job = Callable[[], None]
RUN, FILL = 1, 2  # what goes first
IDLE = 1 << 30  # the priority of nothing
MOST_AHEAD = (
    2  # urgent jobs that `quiet` lets go ahead: a slider that is dragged for minutes does not starve who waits there
)
LOOK = 0.2  # seconds between two looks whether who waits has gone
_log = logging.getLogger(__name__)


class Worker:
    """Jobs by name. A job submitted under a waiting name replaces it: latest wins.

    >>> worker = Worker("doctest")
    >>> worker.submit("run", lambda: print("ran"), priority=0); worker.wait(5)
    ran
    True
    >>> worker.close()
    """

    def __init__(self, name: str) -> None:
        self._wake = threading.Condition()
        self._jobs: dict[str, tuple[int, Job]] = {}
        self._busy = False
        self._running = IDLE
        self._done = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, name: str, job: Job, *, priority: int) -> None:
        """Queue a job; a lower priority number goes first."""
        with self._wake:
            self._jobs.pop(name, None)
            self._jobs[name] = (priority, job)
            self._wake.notify_all()

    def wait(self, timeout: int | float | None = None) -> bool:
        """Until nothing is left to do; False when the time ran out first."""
        with self._wake:
            return self._wake.wait_for(lambda: self._closed or not (self._jobs or self._busy), timeout)

    def urgent(self, priority: int) -> bool:
        """Whether a job at least as urgent as this waits or runs; False in the worker's own thread."""
        if threading.current_thread() is self._thread:
            return False
        with self._wake:
            return self._running <= priority or self.waiting(priority)

    def waiting(self, priority: int) -> bool:
        """Whether a job at least as urgent as this waits."""
        with self._wake:
            return any(urgent <= priority for urgent, _ in self._jobs.values())

    def quiet(self, priority: int, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Until no job as urgent as this waits or runs, or a few have run since; at once in the worker's own thread.

        unless: gives up waiting; it is asked again every now and then, and at `look_again`.
        """
        with self._wake:
            most = self._done + MOST_AHEAD
            while not self._wake.wait_for(
                lambda: self._closed or unless() or self._done >= most or not self.urgent(priority), LOOK
            ):
                pass

    def look_again(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def close(self, *, timeout: int | float | None = 5.0) -> None:
        """Drop what waits; let what runs finish."""
        with self._wake:
            self._closed = True
            self._jobs.clear()
            self._wake.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException:  # the thread is the session's only one
                _log.exception("a job of the session failed")
            finally:
                with self._wake:
                    self._done += self._running < FILL
                    self._busy, self._running = False, IDLE
                    self._wake.notify_all()

    def _next(self) -> Job | None:
        with self._wake:
            self._wake.wait_for(lambda: self._closed or bool(self._jobs))
            if self._closed:
                return None
            name = min(self._jobs, key=lambda name: self._jobs[name][0])
            self._busy = True
            self._running, job = self._jobs.pop(name)
            return job


@contextmanager
def beside(worker: Worker, gone: Callable[[], bool]) -> Iterator[None]:
    """Forwards inside let live runs go first, in the middle of one too, and stop once nobody waits for them. Raises Cancelled."""

    def tell(done: int | None = None) -> None:
        if gone():
            raise Cancelled("nobody waits for the answer any more", fix="ask again")
        if worker.urgent(RUN):
            give_way()

    def waits() -> None:
        worker.quiet(RUN, unless=gone)
        tell()

    with giving_way(waits), asking(tell, tell):
        yield
