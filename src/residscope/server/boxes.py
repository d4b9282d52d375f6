"""What waits between a client and the session, either way: bounded, whatever the other end does."""

import asyncio
import json
from collections import deque
from dataclasses import dataclass
from typing import Any, Self

from residscope.server.guard import JSON_BYTES, TENSOR_BYTES

MESSAGE_BYTES = TENSOR_BYTES + JSON_BYTES
QUEUE, WAITING_BYTES = 256, 8 << 20  # of one client's, before it is let go; it comes back and asks for what it missed


@dataclass(frozen=True)
class Told:
    """A message as it is sent, the same for all who hear it; `runs` whose pictures go before it."""

    text: str
    runs: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: dict[str, Any]) -> Self:
        current = (message.get("patch") or message.get("state") or {}).get("current") or {}
        runs = tuple(run for run in dict.fromkeys(current.values()) if run is not None)
        return cls(json.dumps(message, ensure_ascii=False, allow_nan=False), runs)


def frame(head: dict[str, Any], tensors: bytes) -> bytes:
    """4 bytes (little-endian) with the length of a head in JSON, the head, the tensors: `parse_frame` the other way."""
    words = json.dumps(head).encode()
    return len(words).to_bytes(4, "little") + words + tensors


class Outbox:
    """What one client still has to be sent, of so many messages and bytes. Putting never waits; a full box is given up."""

    def __init__(self, size: int = QUEUE, most: int = WAITING_BYTES) -> None:
        self._queue: asyncio.Queue[Told | bytes] = asyncio.Queue(size)
        self._waiting, self._most = 0, most
        self.overflowed = asyncio.Event()

    def put(self, message: Told | bytes) -> None:
        """A message alone may be of any size: what waits behind it may not."""
        if self._queue.full() or self._waiting > self._most:
            self.overflowed.set()
            return
        self._waiting += _size(message)
        self._queue.put_nowait(message)

    async def get(self) -> Told | bytes:
        return await self._queue.get()

    def sent(self, message: Told | bytes) -> None:
        """A message that was taken out has left."""
        self._waiting -= _size(message)


def _size(message: Told | bytes) -> int:
    return len(message) if isinstance(message, bytes) else len(message.text)


class Inbox:
    """What a client has asked and still waits for; who asks for more than fits is not listened to until there is room."""

    def __init__(self, most: int = MESSAGE_BYTES) -> None:
        self._asked: deque[str | bytes] = deque()
        self._most, self._size = most, 0
        self._changed = asyncio.Condition()

    async def put(self, message: str | bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._asked or self._size + len(message) <= self._most)
            self._asked.append(message)
            self._size += len(message)
            self._changed.notify_all()

    async def get(self) -> str | bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._asked))
            message = self._asked.popleft()
            self._size -= len(message)
            self._changed.notify_all()
            return message
