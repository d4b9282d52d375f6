"""One WebSocket: intents and queries in, answers and numbered patches out; a client too slow to follow is let go, alone."""

import asyncio
import contextlib
import logging
import threading
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from residscope.declare import shorten
from residscope.errors import MalformedJSON, ResidscopeError
from residscope.server.boxes import Inbox, Outbox, Told, frame
from residscope.server.guard import JSON_BYTES
from residscope.server.parse import parse_frame, parse_json
from residscope.server.people import Person
from residscope.server.refusals import body_of, internal
from residscope.server.served import Served
from residscope.server.threads import Gone, Threads
from residscope.session import Session

TOO_BIG, TRY_AGAIN = 1009, 1013
_log = logging.getLogger(__name__)


async def talk(websocket: WebSocket, here: Served, who: Person) -> None:
    """Everything of one client's; `who` it is at first, until it signs in or out here."""
    await websocket.accept()
    outbox, inbox, left = Outbox(), Inbox(), threading.Event()
    here.present.enter(who)
    here.spoken.join(outbox)
    tasks = [
        asyncio.create_task(_send_all(websocket, outbox, here)),
        asyncio.create_task(_listen(websocket, inbox)),
        asyncio.create_task(_answer_all(inbox, outbox, here, who, left.is_set)),
        asyncio.create_task(outbox.overflowed.wait()),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) and not isinstance(error, WebSocketDisconnect | RuntimeError):
                _log.error("a WebSocket failed", exc_info=error)
    finally:
        left.set()
        here.spoken.leave(outbox)
        here.present.leave(who)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
        async with asyncio.timeout(10):  # until it reads
            await websocket.close(TRY_AGAIN)


async def _listen(websocket: WebSocket, inbox: Inbox) -> None:
    """What a client asks, until it leaves."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        asked: str | bytes = message.get("text") or message.get("bytes") or ""
        if isinstance(asked, str) and len(asked.encode()) > JSON_BYTES:  # only a file may be longer
            await websocket.close(TOO_BIG)
            return
        await inbox.put(asked)


async def _answer_all(inbox: Inbox, outbox: Outbox, here: Served, who: Person, gone: Gone) -> None:
    """What a client asks, one after the other, in its order."""
    while True:
        answer = await _answer(await inbox.get(), here.session, who, here.threads, gone)
        outbox.put(answer if isinstance(answer, bytes) else Told.of(answer))


async def _send_all(websocket: WebSocket, outbox: Outbox, here: Served) -> None:
    """Messages in order; the tensors of a new run go before the news of it, so that a page need not ask for them.

    A page that is so far behind that other runs are on screen by now is spared those of runs before.
    """
    sent: set[str] = set()
    while True:
        message = await outbox.get()
        if isinstance(message, bytes):
            await websocket.send_bytes(message)
        else:
            for run in message.runs if message.runs == here.spoken.runs else ():
                for answer, data in (await here.pictures.of(run)).items():
                    if answer not in sent:
                        sent.add(answer)
                        await websocket.send_bytes(data)
            await websocket.send_text(message.text)
        outbox.sent(message)


async def _answer(
    asked: str | bytes, session: Session, who: Person, threads: Threads, gone: Gone
) -> dict[str, Any] | bytes:
    """The answer to a message: JSON, or a frame where it is tensors."""
    id = None
    try:
        message = parse_json(asked) if isinstance(asked, str) else parse_frame(asked)
        kinds = {"intent", "query"} & message.keys() if isinstance(message, dict) else set()
        if len(kinds) != 1 or not isinstance(message[kind := kinds.pop()], str):
            allowed = "{id, intent, args} or {id, query, args}"
            raise MalformedJSON("the message does not parse", received=shorten(message), allowed=allowed)
        id = message.get("id")
        name, args, query = message[kind], message.get("args"), kind == "query"
        value = await threads.ask(
            name,
            lambda: session.query(name, args, who, gone=gone) if query else session.intent(name, args, who),
            query=query,
            who=who.name,
        )
    except ResidscopeError as error:
        return {"id": id, **body_of(error)}
    except Exception as error:
        _log.exception("an intent or a query failed")
        return {"id": id, **body_of(internal(error))}
    return frame({"id": id, "ok": True}, value) if isinstance(value, bytes) else {"id": id, "ok": True, "value": value}
