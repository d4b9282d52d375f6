"""What one server's routes answer from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import HTTPConnection

from residscope.server.people import Door, Person, Present
from residscope.server.spoken import Pictures, Spoken
from residscope.server.threads import Gone, Threads, waiting
from residscope.session import Session
from residscope.store import Library

TENSORS = "application/octet-stream"


@dataclass(frozen=True)
class Served:
    """The session that is served, who is at the door, and the library's intents by name."""

    session: Session
    door: Door
    present: Present
    page: Path
    threads: Threads
    spoken: Spoken
    pictures: Pictures
    library: Library | None = None
    intents: frozenset[str] = frozenset()

    async def ask(
        self, request: Request, name: str, answer: Callable[[Person, Gone], Any], *, query: bool = False
    ) -> Response:
        """The answer to whoever sent the request, who may be another afterwards."""
        who = self.door.person(request.headers)
        with waiting(request) as gone:
            value = await self.threads.ask(name, lambda: answer(who, gone), query=query, who=who.name)
        told = Response(value, media_type=TENSORS) if isinstance(value, bytes) else JSONResponse(value)
        self.door.remember(told, who, request.headers)
        return told

    async def asked(self, request: Request, name: str, args: Any) -> Response:
        """The answer of the intent or query of a name."""
        of = self.session.intent if name in self.intents else self.session.query
        return await self.ask(request, name, lambda who, gone: of(name, args, who), query=True)


def served(connection: HTTPConnection) -> Served:
    found: Served = connection.app.state.served
    return found
