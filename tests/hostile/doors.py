"""What a page or a notebook says, at random: every intent and query, by the names of its arguments, with values of any kind."""

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hostile.mutations import VALUES, deep
from residscope.notebook.door import Door
from residscope.server.library import LibraryHandlers
from residscope.server.parse import parse_json
from residscope.server.people import People, Person, Present
from residscope.session import Session
from residscope.session.intents import INTENTS
from residscope.session.queries import QUERIES
from residscope.store import open_library
from session import worlds

LATER = {
    "load_model",
    "load",
    "load_other",
    "start",
    "export",
    "stop",
}  # what goes on after it was answered, or ends the session
WORDS: tuple[Any, ...] = (
    *VALUES,
    "resid_post.0",
    "pattern.1",
    {"kind": "ablate", "site": "z.0"},
    {"kind": "pca", "site": "resid_post.0", "index": 0},
    "bob",
    {"kind": "steer", "site": "resid_pre.1", "strength": 2.0},
    ["resid_post.0"],
    [0, 1, 2],
    "ada",
    "newest",
    {"kind": "live"},
    3,
)


@cache
def world() -> tuple[Session, Person, Door, list[Any]]:
    """A session with a tiny model and a library, and a notebook's door to it; held as long as the process."""
    session = worlds.session().__enter__()
    library = open_library(folder=tempfile.mkdtemp(prefix="hostile-"))
    present = Present(session.tell_present)
    handlers = LibraryHandlers(session, library, People(library.database.folder), present)
    session.bring(queries=handlers.queries, intents=handlers.intents)
    session.intent("set_prompt", {"text": "a small prompt"})
    session.wait(60)
    heard: list[Any] = []
    who = Person()
    return session, who, Door(session, lambda message, octets: heard.append(message), who=who), heard


def _names(kind: str) -> list[tuple[str, list[str]]]:
    session = world()[0]
    own, brought = (INTENTS, session._intents) if kind == "intent" else (QUERIES, session._queries)
    return [(name, _fields(made)) for name, made in sorted({**own, **brought}.items()) if name not in LATER]


def _fields(made: Any) -> list[str]:
    args = getattr(made, "args", None)
    return list(getattr(args, "model_fields", None) or ("id", "name", "text", "event", "value", "direction"))


def said(kind: str, draw: random.Random) -> bytes:
    name, fields = draw.choice(_names(kind))
    args = {field: draw.choice(WORDS) for field in fields if draw.random() < 0.8}
    if draw.random() < 0.1:
        args[str(draw.choice(VALUES))[:50]] = draw.choice(WORDS)
    text = json.dumps({"kind": kind, "name": name, "args": draw.choice(WORDS) if draw.random() < 0.05 else args})
    return (text.replace("1", deep(), 1) if draw.random() < 0.03 else text).encode()


def ask(folder: Path) -> Any:
    """As a server's route does: the body parsed, then asked."""
    message = parse_json((folder / "it.json").read_bytes())
    session, who, _, _ = world()
    if isinstance(message, dict) and isinstance(message.get("name"), str):
        asked = session.intent if message.get("kind") == "intent" else session.query
        return asked(message["name"], message.get("args"), who)
    return None


def hear(folder: Path) -> Any:
    """As a front end's channel does, whose JSON is the front end's own; its answer is of the one shape."""
    _, _, door, heard = world()
    message = parse_json((folder / "it.json").read_bytes())
    if isinstance(message, dict) and "kind" in message:
        message = {"page": "p", "id": 1, message["kind"]: message.get("name"), "args": message.get("args")}
    heard.clear()
    door.hear(message)
    if isinstance(message, dict) and isinstance(message.get("page"), str):
        door._answer("p", message, [])
    for answer in list(heard):
        assert (answer.get("error") or {}).get("type") != "ResidscopeError", answer
    return None
