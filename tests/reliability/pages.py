"""Pages as the server sees them: each holds a WebSocket and reads all that it is told, asks, changes, and has a name or none."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from reliability.serving import Serving

NEWS = re.compile(r'\{"seq": (\d+), (?:"after": (\d+), )?')
PATIENCE = 60.0  # seconds that an answer may take before it counts as none


@dataclass
class Told:
    """What became of the requests of one kind: seconds until each answer; how many came back another time; what went wrong."""

    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def answered(self, since: float, status: int, retry: str | None, text: Callable[[], str]) -> None:
        if status == 200:
            self.seconds.append(time.perf_counter() - since)
        elif status == 429 and retry is not None and retry.isdigit() and int(retry) > 0:
            self.refused.append(float(retry))
        else:
            self.wrong.append(f"{status} {retry} {text()[:200]}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Counts what is raised inside."""
        try:
            yield
        except Exception as error:  # whatever it is, it is counted and shown
            self.wrong.append(f"{type(error).__name__}: {error}"[:200])


class Page:
    """One page: `seq` is the number of the last news, `lost` why it heard no more."""

    def __init__(self, serving: Serving, http: httpx.AsyncClient, cookie: str) -> None:
        self._serving, self._http = serving, http
        self._headers = {"cookie": f"{serving.cookie}; {cookie}".strip("; "), "x-residscope-page": serving.secret}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._socket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._number = 0
        self.seq, self.messages, self.octets = -1, 0, 0
        self.lost = ""

    async def open(self) -> None:
        address = f"{self._serving.base.replace('http', 'ws')}ws?page={self._serving.secret}"
        headers = {"cookie": self._headers["cookie"]}
        self._socket = await connect(address, additional_headers=headers, max_size=None, open_timeout=PATIENCE)
        self._reading = asyncio.create_task(self._read(self._socket))

    async def close(self) -> None:
        if self._socket is not None and self._reading is not None:
            self._reading.cancel()
            await self._socket.close()

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for message in socket:
                self.messages += 1
                self.octets += len(message)
                if isinstance(message, str):
                    self._hear(message)
        except ConnectionClosed as error:
            self.lost = self.lost or str(error)

    def _hear(self, message: str) -> None:
        if (found := NEWS.match(message)) is None:
            answer = json.loads(message)
            self._answers.pop(answer["id"]).set_result(answer)
            return
        seq, after = int(found[1]), int(found[2] or int(found[1]) - 1)
        if message.startswith('"state"', found.end()):
            self.seq = seq
            return
        if after > self.seq:
            self.lost = self.lost or f"news {self.seq + 1} to {after} went missing"
        self.seq = max(self.seq, seq)

    async def do(self, told: Told, intent: str, **args: Any) -> None:
        """An intent over the socket."""
        with told.told():
            assert self._socket is not None
            self._number += 1
            answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
            since = time.perf_counter()
            await self._socket.send(json.dumps({"id": self._number, "intent": intent, "args": args}))
            found = await asyncio.wait_for(answer, PATIENCE)
            busy = found.get("error", {}).get("type") == "Busy"
            told.answered(since, 200 if found.get("ok") else 429 if busy else 422, "1", lambda: str(found))

    async def post(self, told: Told, path: str, **args: Any) -> Any:
        """A query, or an intent of the library's, over HTTP; the answer, where there is one."""
        with told.told():
            since = time.perf_counter()
            answer = await self._http.post(f"{self._serving.base}api/{path}", json=args, headers=self._headers)
            told.answered(since, answer.status_code, answer.headers.get("retry-after"), lambda: answer.text)
            if answer.status_code == 200:
                return answer.json() if "json" in answer.headers["content-type"] else answer.content
        return None

    async def sign_in(self, name: str) -> str:
        """The cookie of a name."""
        path = f"{self._serving.base}api/intents/library_sign_in"
        answer = await self._http.post(path, json={"name": name}, headers=self._headers)
        answer.raise_for_status()
        self._http.cookies.clear()
        return answer.headers["set-cookie"].partition(";")[0]


async def at_rate(rate: float, seconds: float, request: Callable[[], Awaitable[object]]) -> None:
    """Begin so many requests a second, whether or not those before are answered; until all are."""
    began, asked = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while (now := time.perf_counter() - began) < seconds:
            while asked < min(now, seconds) * rate:
                asked += 1
                group.create_task(_of(request))
            await asyncio.sleep(min(1 / rate, 0.02))


async def _of(request: Callable[[], Awaitable[object]]) -> None:
    await request()
