"""Threads for what the server does: store, model and door each have their own, and work stops once nobody waits for it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from starlette.requests import Request

from residscope.server.admission import Line

T = TypeVar("T")
Gone = Callable[[], bool]
"""Whether whoever asked has left."""

DOOR, MODEL, STORE, TOLD = 16, 16, 4, 2
"""Threads for intents, for queries, for whatever waits for the database, and for what goes before the news to all pages."""


class Threads:
    """store: the names of the intents and queries that go to the database, which may be slow, or frozen."""

    def __init__(self, store: Collection[str] = ()) -> None:
        self._of_store = frozenset(store)
        self._door, self._model, self._store, self._told = Line(DOOR), Line(MODEL), Line(STORE), Line(TOLD)

    async def ask(self, name: str, call: Callable[[], T], *, query: bool, who: str | None) -> T:
        """What an intent or a query answers, which somebody of a name asks, or nobody. Raises Busy."""
        line = self._store if name in self._of_store else self._model if query else self._door
        return await line.run(call, who)

    async def read(self, call: Callable[[], T]) -> T:
        """What a call of the store answers. Raises Busy."""
        return await self._store.run(call)

    async def tell(self, call: Callable[[], T]) -> T:
        """What a call gives that pages wait for behind which their answers stand: no query goes before it. Raises Busy."""
        return await self._told.run(call)


@contextlib.contextmanager
def waiting(request: Request) -> Iterator[Gone]:
    """Whether who sent a request, whose body has come, has left since."""
    left = threading.Event()
    watch = asyncio.create_task(_watch(request, left))
    try:
        yield left.is_set
    finally:
        watch.cancel()


async def _watch(request: Request, left: threading.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    left.set()
