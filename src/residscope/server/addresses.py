"""Where the page is reached: this machine's own addresses, and those of forwarders and proxies that somebody named."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from residscope.errors import BadAddress, ForeignHost

LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
DEFAULT_PORTS = {"http": 80, "https": 443}
EXAMPLE = "https://hub.example.org/user/ada/proxy/8765/"


@dataclass(frozen=True)
class Forwarder:
    """An address that leads here: of a port forwarder, or of a reverse proxy at a path.

    origin: as a browser says it, `https://hub.example.org`; host: as a Host header does; path: from `/` to `/`.
    """

    origin: str
    host: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "Forwarder":
        """
        >>> Forwarder.parse("https://Hub.example.org:443/user/ada/proxy/8765")
        Forwarder(origin='https://hub.example.org', host='hub.example.org', path='/user/ada/proxy/8765/')

        Raises:
            BadAddress: no http or https, no host, or more than a path.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        name = parts.hostname or ""
        plain = re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:]+", name) and re.fullmatch(r"[\w/.~%-]*", parts.path)
        if parts.scheme not in DEFAULT_PORTS or not plain or parts.username or parts.query or parts.fragment:
            raise BadAddress("that is no address of a forwarder", received=text, allowed=f"such as {EXAMPLE}")
        name = f"[{name}]" if ":" in name else name
        host = name if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{name}:{port}"
        return cls(f"{parts.scheme}://{host}", host, f"{parts.path.rstrip('/')}/")

    @property
    def url(self) -> str:
        return f"{self.origin}{self.path}"

    @property
    def encrypted(self) -> bool:
        return self.origin.startswith("https:")


class CookieBounds(TypedDict):
    path: str
    secure: bool


class Addresses:
    """Which Host and Origin headers are this server's.

    Any loopback name at any port, since a forwarded port is another one. Listening to a network: this machine's names too, and
    addresses in numbers, which no name of a stranger's can be bound to again. Of forwarders what was said, and nothing more.
    """

    def __init__(self, *, network: bool = False, behind: Sequence[Forwarder] = ()) -> None:
        self.behind = tuple(behind)
        self._names = {name.lower() for name in (socket.gethostname(), socket.getfqdn())} if network else set()
        self._network = network

    def check(self, host: str, origin: str | None, *, writes: bool) -> None:
        """Refuse a request under another name than this server's, or out of another page.

        Raises:
            ForeignHost.
        """
        if not self._knows(host):
            raise ForeignHost(
                "this is not that server",
                received=host or "no Host",
                allowed=", ".join(["127.0.0.1, localhost, [::1]", *self._names, *(one.host for one in self.behind)]),
                fix=f"start it with --behind https://{host}/ if that address leads here" if host else None,
            )
        if origin is None or (origin == "null" and not writes):
            return
        own = {f"http://{host.lower()}"} if self._direct(host) else set()
        allowed = own | {one.origin for one in self.behind}
        if origin.lower() not in allowed:
            raise ForeignHost(
                "the request comes from another page",
                received=origin,
                allowed=", ".join(sorted(allowed)),
                fix=f"start it with --behind {origin}/ if that is the forwarder in front of it",
            )

    def cookie(self, headers: Headers, number: str | None = None) -> "CookieBounds":
        """Where a cookie of a request's answer goes back to: behind a proxy at a path, nothing else of that host is sent it."""
        by = self.forwarder(headers, number)
        return {"path": "/", "secure": False} if by is None else {"path": by.path, "secure": by.encrypted}

    def forwarder(self, headers: Headers, number: str | None = None) -> Forwarder | None:
        """The one that a request came by: of the link that says its number, else by its Origin or Host; None: directly."""
        if number is not None and number.isdigit() and int(number) < len(self.behind):
            return self.behind[int(number)]
        origin, host = headers.get("origin", "").lower(), headers.get("host", "").lower()
        return next((one for one in self.behind if one.origin == origin or one.host == host), None)

    def sockets(self, host: str) -> str:
        """What the page may open sockets to, where `'self'` is not enough for a browser: for its policy."""
        direct = [f"ws://{host}"] if self._direct(host) else [] if self.behind else ["ws://127.0.0.1"]
        forwarded = [one.origin.replace("http", "ws", 1) for one in self.behind]
        return " ".join(dict.fromkeys([*direct, *forwarded]))

    def stripped(self, path: str) -> str:
        """A path without that of a proxy which passes it on whole."""
        found = (one.path for one in self.behind if one.path != "/" and path.startswith(one.path))
        return path[len(next(found, "/")) - 1 :]

    def _knows(self, host: str) -> bool:
        return self._direct(host) or any(host.lower() == one.host for one in self.behind)

    def _direct(self, host: str) -> bool:
        if LOOPBACK.fullmatch(host):
            return True
        if not self._network or not (
            parts := re.fullmatch(r"(\[[0-9a-f:]+\]|[\w.-]+)(?::\d{1,5})?", host, re.I | re.A)
        ):
            return False
        return parts[1].lower() in self._names or is_number(parts[1].strip("[]"))


def is_number(name: str) -> bool:
    """Whether a host is an address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
