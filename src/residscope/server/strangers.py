"""Connections that have not said who they are: few, and not for long, so that whoever belongs here always comes in."""

import asyncio
import logging
import time
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MOST = 512  # at a time; the oldest makes way for the next: more than pages that come at once while the server is busy
SECONDS = 10.0  # until a connection has sent a whole request that was let in
BYTES = 1 << 20  # that it may send until then
EVERY = 60.0  # seconds between two lines of log that say the same
_log = logging.getLogger(__name__)


class Strangers:
    """The connections of one server that no request has been let in on."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], tuple[asyncio.Transport, asyncio.TimerHandle]] = {}
        self._dropped, self._said = 0, -EVERY

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, client: object) -> bool:
        return client in self._open

    def came(self, client: tuple[str, int], transport: asyncio.Transport) -> None:
        if len(self._open) >= MOST:
            self.drop(next(iter(self._open)))
        timer = asyncio.get_running_loop().call_later(SECONDS, self.drop, client)
        self._open[client] = (transport, timer)

    def known(self, client: tuple[str, int] | None) -> None:
        """A request on this connection was let in, or the connection has ended."""
        if client is not None and (found := self._open.pop(client, None)) is not None:
            found[1].cancel()

    def drop(self, client: tuple[str, int]) -> None:
        if (found := self._open.pop(client, None)) is None:
            return
        transport, timer = found
        timer.cancel()
        if transport.is_closing():
            return
        transport.abort()
        self._dropped += 1
        if time.monotonic() - self._said >= EVERY:
            _log.warning("%s connections that did not say who they are were closed", self._dropped)
            self._dropped, self._said = 0, time.monotonic()


def watched(strangers: Strangers) -> type[asyncio.Protocol]:
    """uvicorn's protocol, whose connections are strangers at first."""

    class Watched(AutoHTTPProtocol):  # type: ignore[misc]
        _got = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if self.client is not None:
                strangers.came(self.client, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            strangers.known(self.client)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.client in strangers:
                self._got += len(data)
                if self._got > BYTES:
                    strangers.drop(self.client)
                    return
            super().data_received(data)

    return Watched


class Once(logging.Filter):
    """Lets a line that says the same as one before through once a minute: there may be thousands in a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, before = time.monotonic(), self._said.get(str(record.msg))
        if before is not None and now - before < EVERY:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[str(record.msg)] = now
        return True
