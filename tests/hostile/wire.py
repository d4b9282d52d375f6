"""What is said over HTTP and a WebSocket by a grammar: valid, nearly valid, and no words of it at all.

Everything that may be asked is drawn from the shapes that the page's own types are made of, with values that fit, that nearly
do, and that are of any kind; bodies and frames are then changed in their bytes. A fault is an answer of 500 or more, an error
that is a mistake of ours, or a line in the log that says so.
"""

import http.client
import json
import logging
import math
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from hostile.doors import LATER, WORDS
from hostile.hunt import Tried
from hostile.mutations import deep, of_bytes
from hostile.schemed import NAME as SCHEMED
from hostile.schemed import over_schema
from residscope.server import Server
from residscope.server.routes import NAMES
from residscope.server.schema import schema
from residscope.store import open_library
from session import worlds

HTTP, SOCKET = "the page's HTTP", "the page's WebSocket"
MESSAGES, MOST_TURNS = 20, 10  # sent before answers are read, and how often on one WebSocket
SECONDS, MOST_SECONDS = 60.0, 20.0  # of the clock, that an answer is waited for, and that it may take
LAST = "the last"
LETTERS = (
    "ada",
    "the store",
    "resid_post.0",
    "z.1",
    "pca@resid_post.0",
    "all",
    "1",
    "",
    "é" * 30,
    "\0",
    "\ud800",
    "x" * 3000,
)
KNOWN = {
    "site": ("resid_post.0", "resid_pre.1", "z.1", "mlp_out.0"),
    "dictionary": ("pca@resid_post.0", "pca@resid_post.1"),
    "method": ("logit-lens", "ablation-sweep", "head-scores"),
    "text": ("the store", "a small prompt"),
    "name": ("ada", "one", "the store"),
    "run": ("base", "edited"),
    "ending": (".csv", ".json", ".png"),
    **dict.fromkeys(("positive", "negative", "label", "value", "tokens"), ("a", "b")),
}
HEADERS = (
    ("content-type", "application/octet-stream"), ("content-type", "text/plain; charset=utf-7"), ("accept", "text/html"),
    ("cookie", 'prefs={"a":1}; bare; residscope-1=x'), ("accept-encoding", "gzip, br, x"), ("range", "bytes=5-1"),
    ("if-none-match", '"x"'), ("sec-fetch-site", "cross-site"), ("origin", "null"), ("expect", "100-continue"),
    ("content-encoding", "gzip"), ("x-residscope-page", "\xff"), ("authorization", "Basic eDp4"),
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X")


@cache
def asked() -> tuple[dict[str, Any], list[tuple[str, str, Any]]]:
    """The parts that shapes refer to, and all that may be asked: its kind, name and shape."""
    told = schema()
    kinds = {"intents": "intent", "queries": "query"}
    shapes = [
        (kind, name, shape)
        for kinds_, kind in kinds.items()
        for name, shape in sorted(told["properties"][kinds_]["properties"].items())
        if name not in LATER
    ]
    return told["definitions"], shapes


class Grammar:
    """What a draw says."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def question(self) -> tuple[str, str, Any]:
        kind, name, shape = self.draw.choice(asked()[1])
        return kind, name, self.draw.choice(WORDS) if self.draw.random() < 0.02 else self.value(shape)

    def value(self, shape: Any, depth: int = 0, name: str = "") -> Any:
        """One that fits a shape, except here and there. name: of what it is."""
        draw = self.draw
        if depth and draw.random() < 0.03:
            return draw.choice(WORDS)
        if "$ref" in shape:
            shape = asked()[0][shape["$ref"].removeprefix("#/definitions/")]
        several = shape.get("anyOf") or shape.get("oneOf")
        if several and depth < 12:
            return self.value(draw.choice(several), depth + 1, name)
        if "const" in shape or "enum" in shape:
            return shape.get("const", draw.choice(shape.get("enum", [None])))
        match shape.get("type"):
            case "object" if depth < 12:
                return self._object(shape, depth)
            case "array" if depth < 12:
                items = shape.get("items", {})
                return [self.value(items, depth + 1, name) for _ in range(draw.choice((0, 1, 1, 2, 5)))]
            case "string":
                return draw.choice(KNOWN.get(name, LETTERS) if draw.random() < 0.8 else LETTERS)
            case "integer":
                return draw.choice((0, 1, 1, 2, 3) if draw.random() < 0.9 else (-1, 10**6, 2**53, 2**70))
            case "number":
                return draw.choice((0, 1, 0.5, -2.0) if draw.random() < 0.9 else (1e-300, 1e308, math.nan, math.inf))
            case "boolean":
                return draw.random() < 0.5
        return None if shape.get("type") == "null" else draw.choice(WORDS)

    def _object(self, shape: Any, depth: int) -> dict[str, Any]:
        draw, made = self.draw, dict[str, Any]()
        for name, part in shape.get("properties", {}).items():
            if draw.random() < (0.97 if name in shape.get("required", ()) else 0.4):
                made[name] = self.value(part, depth + 1, name)
        if draw.random() < 0.03:
            made[draw.choice(LETTERS)] = draw.choice(WORDS)
        return made

    def text(self, told: Any) -> bytes:
        """JSON, or nearly."""
        text = json.dumps(told)
        match self.draw.randrange(20):
            case 0:
                return of_bytes(self.draw, text.encode())
            case 1:
                return text.replace("1", self.draw.choice((deep(), "9" * 5000, "1e999", '"\\udfff"')), 1).encode()
        return text.encode()

    # ── HTTP ──

    def request(self) -> tuple[str, str, bytes, dict[str, str]]:
        """Method, address, body and headers."""
        draw = self.draw
        headers = dict(draw.sample(HEADERS, draw.choice((0, 0, 0, 1, 2))))
        if draw.random() < 0.75:
            kind, name, args = self.question()
            folder = "intents" if kind == "intent" else "queries"
            return "POST", f"/api/{folder}/{quote(name)}", self.text(args), headers
        method, path, _ = draw.choice(NAMES)
        words = {
            name: draw.choice(LETTERS).encode("utf-8", "surrogatepass")
            for name in ("id", "text", "after", "limit", "name")
        }
        id, name = (quote(words[key], safe="") for key in ("id", "name"))
        places = (
            "/",
            "/api/state",
            "/ws",
            "/assets/app.js",
            "/api/items/file",
            f"/api/items/{id}",
            f"/assets/{name}",
            f"//{id}",
        )
        address = draw.choice((f"/api/library/{path.replace('{id}', id)}",) * 4 + places)
        if draw.random() < 0.5:
            address += f"?{urlencode(dict(draw.sample(sorted(words.items()), 2)) | {'ending': '.csv'})}"
        body = (
            self.text(draw.choice((*WORDS, {"name": "ada"}, {"value": 1}, {"text": "x", "seen": 0})))
            if draw.random() < 0.7
            else b""
        )
        return draw.choice((method, method, *METHODS)), address, body, headers

    # ── frames of a WebSocket ──

    def message(self, id: int) -> str | bytes | list[str]:
        """A text or octets, whole or in pieces."""
        kind, name, args = self.question()
        told: Any = {"id": id, kind: name, "args": args}
        match self.draw.randrange(16):
            case 0:
                told = {**told, self.draw.choice(("intent", "query", "id", "args", "")): self.draw.choice(WORDS)}
            case 1:
                told = self.draw.choice(WORDS)
            case 2:
                head = self.text(told)
                size = self.draw.choice((len(head), len(head), len(head) + 5, 2**32 - 1, 0))
                frame = size.to_bytes(4, "little") + head + self.draw.randbytes(self.draw.choice((0, 9, 3000)))
                return frame if self.draw.random() < 0.8 else of_bytes(self.draw, frame)
            case 3:
                return self.draw.randbytes(self.draw.choice((0, 3, 4, 200)))
        text = self.text(told).decode("utf-8", "replace")
        return text if self.draw.random() < 0.9 else [text[:5], "", text[5:]]

    def raw(self) -> bytes:
        """Bytes that no client sends: reserved bits and codes, no mask, halves of characters, lengths that lie."""
        draw = self.draw
        first = draw.choice((0x81, 0x82, 0x80, 0x01, 0x83, 0xF1, 0x89, 0x8A, 0x88, 0x8F))
        size = draw.choice(
            (b"\x82", b"\xfe\xff\xff", b"\xff" + b"\xff" * 8, b"\x02", b"\x80", b"\xff\x00\x00\x00\x00\xff\xff\xff\xff")
        )
        return bytes([first]) + size + draw.choice((b"\0\0\0\0\xed\xa0", b"\0\0\0\0\x03\xe8", b"", draw.randbytes(40)))


class Listening(logging.Handler):
    """Lines of the log that tell of a mistake of ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        what = record.exc_info[1] if record.exc_info else None
        self.lines.append(f"{record.getMessage()}: {type(what).__name__}: {what}"[:300])


@contextmanager
def served() -> Iterator[tuple[Server, Listening]]:
    """A server with a tiny model and a library, whose log is listened to."""
    listening, root = Listening(), logging.getLogger()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder, worlds.session() as session:
        page = Path(folder) / "page"
        (page / "assets").mkdir(parents=True)
        (page / "index.html").write_text("<!doctype html>")
        (page / "assets" / "app.js").write_text("export {}")
        session.intent("set_prompt", {"text": "the store"})
        session.wait(60)
        root.addHandler(listening)
        try:
            with Server(session, port=0, page=page, library=open_library(folder=Path(folder) / "data")) as server:
                yield server, listening
        finally:
            root.removeHandler(listening)


def over_http(requests: int, seed: str) -> Tried:
    """So many requests of one connection, which is opened anew where the server closes it."""
    tried = Tried(HTTP, seed)
    with served() as (server, listening):
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        own = {"authorization": f"Bearer {server.token}"}
        for number in range(requests):
            method, address, body, headers = Grammar(random.Random(f"{seed} http {number}")).request()
            began = time.monotonic()
            status, said = _answer(link, method, address, body, own | headers)
            bad = [f"{status} {said[:200]!r}"] if status >= 500 or status == 0 else []
            how = "raw" if bad else "read" if status < 400 else "refused"
            note(tried, f"{seed} http {number} ({method} {address[:80]})", [how], bad, began, listening)
        assert _answer(link, "GET", "/api/state", b"", own)[0] == 200
        link.close()
    return tried


def _answer(
    link: http.client.HTTPConnection, method: str, address: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Status and body; 0 where the connection ends without an answer."""
    try:
        link.request(method, address, body, headers)
        answer = link.getresponse()
        return answer.status, answer.read()
    except (http.client.HTTPException, OSError) as error:
        link.close()
        return 0, repr(error).encode()


def over_socket(frames: int, seed: str) -> Tried:
    """So many messages of WebSockets, each of which ends in bytes that no client sends; every message is answered."""
    tried = Tried(SOCKET, seed)
    with served() as (server, listening):
        while tried.random < frames:
            with _connected(server) as link:
                for _ in range(MOST_TURNS):
                    first, few = tried.random, min(MESSAGES, frames - tried.random)
                    said = [Grammar(random.Random(f"{seed} frame {first + i}")).message(i) for i in range(few)]
                    began = time.monotonic()
                    answers = _exchange(link, said)
                    bad = [] if answers is None or len(answers) == few else [f"{len(answers)} answers to {few}"]
                    bad += [str(told["error"]) for told in answers or () if _ours(told)]
                    hows = ["refused" if "error" in told else "read" for told in answers or ()]
                    note(
                        tried,
                        f"{seed} frame {first} to {first + few}",
                        hows or ["refused"] * few,
                        bad,
                        began,
                        listening,
                    )
                    if answers is None or tried.random >= frames:
                        break
                with suppress(ConnectionClosed, OSError):
                    link.socket.sendall(Grammar(random.Random(f"{seed} raw {tried.random}")).raw())
        with _connected(server) as link:
            assert _exchange(link, []) == []
    return tried


def _connected(server: Server) -> ClientConnection:
    headers = {"Authorization": f"Bearer {server.token}"}
    return connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=headers, max_size=None, close_timeout=1)


def _exchange(link: ClientConnection, said: list[Any]) -> list[dict[str, Any]] | None:
    """The answers to messages, in order; None where the server ended the connection."""
    try:
        for message in said:
            link.send(message)
        link.send(json.dumps({"id": LAST, "query": "no such"}))
        answers: list[dict[str, Any]] = []
        while True:
            heard = link.recv(timeout=SECONDS)
            told = json.loads(heard[4 : 4 + int.from_bytes(heard[:4], "little")] if isinstance(heard, bytes) else heard)
            if told.get("id") == LAST:
                return answers
            if "ok" in told or "error" in told:
                answers.append(told)
    except ConnectionClosed:
        return None


def _ours(told: dict[str, Any]) -> bool:
    """Whether an answer is a mistake of ours."""
    return (told.get("error") or {}).get("type") == "ResidscopeError"


def note(tried: Tried, which: str, hows: list[str], bad: list[str], began: float, listening: Listening) -> None:
    seconds = (time.monotonic() - began) / len(hows)
    lines, listening.lines = listening.lines, []
    tried.random += len(hows)
    tried.slowest = max(tried.slowest, seconds)
    tried.ends.update(hows)
    if bad or lines or seconds > MOST_SECONDS:
        tried.faults.append(f"{which}: after {seconds:.1f} s: {'; '.join([*bad, *lines])}"[:600])


WIRES = {HTTP: over_http, SOCKET: over_socket, SCHEMED: over_schema}
