"""What a session says to the pages that listen: written once for all, and told together where they are many."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from residscope.errors import Busy
from residscope.server.boxes import Outbox, Told, frame
from residscope.server.changes import Change
from residscope.server.threads import Threads
from residscope.session import Session

FEW = 8  # pages that are told each change by itself
EACH = 0.001  # seconds between two messages, for each page beyond these
KEPT = 4  # runs whose pictures are held
News = tuple[int, Change]
_log = logging.getLogger(__name__)


class Spoken:
    """Who listens, and what they are told; `runs`: those on screen, as told last. Used in the loop's thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[Outbox, int] = {}  # the number of the state that each was told
        self._news: deque[tuple[int, dict[str, Any]]] = deque()
        self._now: dict[str, Any] = {}  # the state as it was told last
        self._due, self._next = False, 0.0
        self._stop: Callable[[], None] = lambda: None
        self.runs: tuple[str, ...] = ()

    def join(self, box: Outbox) -> None:
        """Tell a client the state as it is, and from then on what changes."""
        if not self._known:
            self._loop = asyncio.get_running_loop()
            _, begun, self._stop = self._session.subscribe(self._hear)
            self._now = {**begun}
        seq, state = self._session.snapshot()
        self._known[box] = seq
        told = Told.of({"seq": seq, "state": state})
        self.runs = told.runs
        box.put(told)

    def leave(self, box: Outbox) -> None:
        del self._known[box]
        if not self._known:
            self._stop()
            self._news.clear()

    def _hear(self, seq: int, patch: dict[str, Any]) -> None:
        """In any thread, in order."""
        self._news.append((seq, patch))
        if not self._due:
            self._due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        now = self._loop.time()
        if now < self._next:
            self._loop.call_later(self._next - now, self._tell)
            return
        self._due = False
        news = list[News]()
        while self._news:
            seq, patch = self._news.popleft()
            news.append((seq, Change.since(self._now, patch)))
            self._now |= patch
        beyond = max(0, len(self._known) - FEW)
        self._next = now + EACH * beyond
        try:
            told = [(part[-1][0], together(part)) for part in ([news] if beyond else [[one] for one in news]) if part]
        except Exception:  # nobody may miss one message and hear the next
            _log.exception("a message could not be written")
            for box in self._known:
                box.overflowed.set()
            return
        for seq, message in told:
            self.runs = message.runs or self.runs
            for box, known in self._known.items():
                if known < seq:
                    box.put(message)


def together(news: Sequence[News]) -> Told:
    """Changes one after the other as one: `after` is the number before the first, where there are several."""
    (first, _), (last, _) = news[0], news[-1]
    whole = reduce(Change.then, (change for _, change in news))
    told: dict[str, Any] = {"seq": last} | ({"after": first - 1} if first < last else {}) | {"patch": whole.whole}
    return Told.of(told | ({"parts": whole.parts} if whole.parts else {}))


class Pictures:
    """The tensors of a run that go before the news of it, read and written once for all pages."""

    def __init__(self, session: Session, threads: Threads) -> None:
        self._session, self._threads = session, threads
        self._of: Any = None  # the model, with its dictionaries, that they were read with
        self._frames: dict[tuple[str, Any], asyncio.Task[dict[str, bytes]]] = {}

    async def of(self, run: str) -> dict[str, bytes]:
        """Frames by what each answers; none where the model has too much to do: a page asks for what it was not sent."""
        state = self._session.state
        if self._of is not state.model:
            self._of, self._frames = state.model, {}
        key = run, state.metric
        if key not in self._frames:
            self._frames[key] = asyncio.create_task(self._read(run))
            for old in [*self._frames][:-KEPT]:
                del self._frames[old]
        return await asyncio.shield(self._frames[key])

    async def _read(self, run: str) -> dict[str, bytes]:
        def read() -> list[tuple[str, dict[str, Any], bytes]]:
            with self._session.beside():
                return self._session.reads.pictures([run], set())

        try:
            found = await self._threads.tell(read)
        except Busy:
            return {}
        return {f"{query} {args}": frame({"query": query, "args": args}, data) for query, args, data in found}
