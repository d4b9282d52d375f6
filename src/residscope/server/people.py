"""Who is who on this server: a name in a signed cookie, and how much one may do at once.

A name is all it takes: whoever comes through the door (the token) may take any name, as at a shared desk. What the signature
gives is that ownership and votes are decided here: a page cannot make itself somebody else without asking.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response

from residscope.drafts import drafts, sync
from residscope.errors import NoUser, StoreUnreachable, TooFast
from residscope.server.addresses import Addresses
from residscope.server.guard import cookie_in

KEY_FILE = "library.key"
YEAR = 365 * 86_400  # seconds
MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class Rate:
    """So many at once, and so many a second from then on."""

    burst: float
    per_second: float


LIMITS: Mapping[str, Rate] = {
    "change": Rate(burst=60, per_second=5),  # of one person
    "name": Rate(burst=100, per_second=2),  # taken on this server
}


class Buckets:
    """Tokens by key: each change takes one, time gives them back."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._held: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str, *, now: float | None = None) -> None:
        """Raises TooFast."""
        now = time.monotonic() if now is None else now
        with self._lock:
            tokens, at = self._held.get(key, (self._rate.burst, now))
            tokens = min(self._rate.burst, tokens + (now - at) * self._rate.per_second)
            if tokens < 1:
                wait = (1 - tokens) / self._rate.per_second
                raise TooFast(
                    "that is too much at once",
                    allowed=f"{self._rate.burst:g} at once, then {self._rate.per_second:g} a second",
                    fix=f"wait {wait:.1f} s",
                    seconds=wait,
                )
            if len(self._held) >= MOST_REMEMBERED:
                self._held.pop(next(iter(self._held)))
            self._held.pop(key, None)
            self._held[key] = (tokens - 1, now)


@dataclass
class Person:
    """Who asks, over one connection or in one request. `changed`: they have signed in or out since."""

    name: str | None = None
    changed: bool = False

    def become(self, name: str | None) -> None:
        self.name, self.changed = name, True


class People:
    """Signed names. The key lies in the data folder, for its owner alone, so that names last as long as it."""

    def __init__(self, folder: Path, *, limits: Mapping[str, Rate] = LIMITS) -> None:
        self._key = _key(folder)
        self.buckets = {name: Buckets(rate) for name, rate in limits.items()}

    def sign(self, name: str) -> str:
        """The cookie's value for a name."""
        told = base64.urlsafe_b64encode(name.encode()).decode()
        return f"{told}.{self._signature(told)}"

    def name_in(self, value: str) -> str | None:
        """Whose value it is; None where this server did not sign it."""
        told, _, signature = value.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(told).encode()):
            return None
        try:
            return base64.urlsafe_b64decode(told).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None

    def key_of(self, door: str) -> str:
        """What opens a door of this folder's: the same each time the server is started."""
        return self._signature(f"door {door}")

    def changes(self, person: Person | None) -> str:
        """The name of somebody who may make one more change. Raises NoUser, TooFast."""
        if person is None or person.name is None:
            raise NoUser("nobody is signed in", allowed="changes by somebody with a name", fix="choose a name first")
        self.buckets["change"].take(person.name)
        return person.name

    def _signature(self, told: str) -> str:
        return hmac.new(self._key, told.encode(), hashlib.sha256).hexdigest()


class Present:
    """Who has the page open now: a name, or none, for each window. tell: is told whenever it changes."""

    def __init__(self, tell: Callable[[tuple[str | None, ...]], object]) -> None:
        self._tell, self._here, self._lock = tell, list[Person](), threading.Lock()

    def enter(self, who: Person) -> None:
        with self._lock:
            self._here.append(who)
        self.tell()

    def leave(self, who: Person) -> None:
        with self._lock:
            self._here = [other for other in self._here if other is not who]
        self.tell()

    def tell(self) -> None:
        with self._lock:
            names = tuple(who.name for who in self._here)
        self._tell(names)


class Door:
    """Who comes over HTTP or a WebSocket: the name in a signed cookie, unreadable to scripts. Without people nobody has one."""

    def __init__(self, people: People | None, *, cookie: str, addresses: Addresses) -> None:
        self._people, self._cookie, self._addresses = people, cookie, addresses

    def person(self, headers: Headers) -> Person:
        return Person(None if self._people is None else self._people.name_in(cookie_in(headers, self._cookie)))

    def remember(self, answer: Response, who: Person, headers: Headers) -> None:
        """Keep who they have become in their cookie, which no other page behind their forwarder is sent."""
        if not who.changed or self._people is None:
            return
        kept = self._addresses.cookie(headers)
        if who.name is None:
            answer.delete_cookie(self._cookie, httponly=True, samesite="strict", **kept)
        else:
            value = self._people.sign(who.name)
            answer.set_cookie(self._cookie, value, max_age=YEAR, httponly=True, samesite="strict", **kept)


def _key(folder: Path) -> bytes:
    """The server's key: read, or made once."""
    path = folder / KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with drafts(folder) as made, suppress(FileExistsError):
                draft = made / KEY_FILE
                draft.touch(0o600)
                draft.write_bytes(secrets.token_bytes(32))
                sync(draft)
                os.link(draft, path)  # of two servers that start at once the first wins
                sync(folder)
        key = path.read_bytes()
    except OSError as error:
        raise StoreUnreachable(
            f"the server's key cannot be kept: {error.strerror}", received=str(path), fix="set RESIDSCOPE_DATA"
        ) from error
    if len(key) != 32:
        raise StoreUnreachable(
            "the server's key is damaged", received=str(path), fix="delete it: names are asked again"
        )
    return key
