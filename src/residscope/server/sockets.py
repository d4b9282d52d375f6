"""One WebSocket: intents and queries in, answers and numbered patches out; a client too slow to follow is let go, alone."""

import asyncio
import contextlib
import json
import logging
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from residscope.declare import shorten
from residscope.errors import MalformedJSON, ResidscopeError
from residscope.server.guard import JSON_BYTES, TENSOR_BYTES
from residscope.server.parse import parse_frame, parse_json
from residscope.server.people import Person, Present
from residscope.server.refusals import body_of, internal
from residscope.session import Session

MESSAGE_BYTES = TENSOR_BYTES + JSON_BYTES
QUEUE = 256
TOO_BIG, TRY_AGAIN = 1009, 1013
_log = logging.getLogger(__name__)


class Outbox:
    """What one client still has to be sent. Putting never waits; a full box is given up."""

    def __init__(self, size: int = QUEUE) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any] | bytes] = asyncio.Queue(size)
        self.overflowed = asyncio.Event()

    def put(self, message: dict[str, Any] | bytes) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.overflowed.set()

    def put_threadsafe(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self.put, message)

    async def send_to(self, websocket: WebSocket, session: Session) -> None:
        """Messages in order; the tensors of a new run go before the news of it, so that a page need not ask for them."""
        sent: set[tuple[str, str]] = set()
        while True:
            message = await self._queue.get()
            if isinstance(message, bytes):
                await websocket.send_bytes(message)
                continue
            current = (message.get("patch") or message.get("state") or {}).get("current") or {}
            runs = [run for run in dict.fromkeys(current.values()) if run is not None]
            if runs:
                for query, args, data in await run_in_threadpool(session.reads.pictures, runs, sent):
                    await websocket.send_bytes(_frame({"query": query, "args": args}, data))
            await websocket.send_text(json.dumps(message, ensure_ascii=False, allow_nan=False))


async def talk(websocket: WebSocket, session: Session, who: Person, present: Present) -> None:
    """Everything of one client's; `who` it is at first, until it signs in or out here."""
    await websocket.accept()
    outbox = Outbox()
    present.enter(who)
    seq, state, stop = session.subscribe(lambda seq, patch: outbox.put_threadsafe({"seq": seq, "patch": patch}))
    outbox.put({"seq": seq, "state": state})
    tasks = [
        asyncio.create_task(outbox.send_to(websocket, session)),
        asyncio.create_task(_listen(websocket, session, outbox, who)),
        asyncio.create_task(outbox.overflowed.wait()),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) and not isinstance(error, WebSocketDisconnect | RuntimeError):
                _log.error("a WebSocket failed", exc_info=error)
    finally:
        stop()
        present.leave(who)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
        async with asyncio.timeout(2):
            await websocket.close(TRY_AGAIN)


async def _listen(websocket: WebSocket, session: Session, outbox: Outbox, who: Person) -> None:
    """What a client asks, one after the other, in its order."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        asked: str | bytes = message.get("text") or message.get("bytes") or ""
        if isinstance(asked, str) and len(asked.encode()) > JSON_BYTES:  # only a file may be longer
            await websocket.close(TOO_BIG)
            return
        outbox.put(await _answer(asked, session, who))


async def _answer(asked: str | bytes, session: Session, who: Person) -> dict[str, Any] | bytes:
    """The answer to a message: JSON, or a frame where it is tensors."""
    id = None
    try:
        message = parse_json(asked) if isinstance(asked, str) else parse_frame(asked)
        kinds = {"intent", "query"} & message.keys() if isinstance(message, dict) else set()
        if len(kinds) != 1 or not isinstance(message[kind := kinds.pop()], str):
            allowed = "{id, intent, args} or {id, query, args}"
            raise MalformedJSON("the message does not parse", received=shorten(message), allowed=allowed)
        id = message.get("id")
        ask = session.intent if kind == "intent" else session.query
        value = await run_in_threadpool(ask, message[kind], message.get("args"), who)
    except ResidscopeError as error:
        return {"id": id, **body_of(error)}
    except Exception as error:
        _log.exception("an intent or a query failed")
        return {"id": id, **body_of(internal(error))}
    return _frame({"id": id, "ok": True}, value) if isinstance(value, bytes) else {"id": id, "ok": True, "value": value}


def _frame(head: dict[str, Any], tensors: bytes) -> bytes:
    """4 bytes (little-endian) with the length of a head in JSON, the head, the tensors: `parse_frame` the other way."""
    words = json.dumps(head).encode()
    return len(words).to_bytes(4, "little") + words + tensors
