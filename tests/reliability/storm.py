"""Two servers on one data folder, written to by many and killed again and again, and what each finds when it is started."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from reliability.journal import Journal, Key, Unanswered
from residscope.drafts import DRAFT
from residscope.results import Result
from residscope.store import Database, Library
from residscope.store.upkeep import check
from session import worlds
from store.test_killed import everything_of
from tiny_models import tiny_llama

WRITERS = 3  # of each server
MOST = 15  # things of a kind that a writer keeps
READY = 120.0  # seconds
KINDS = ("prompt", "stack", "item", "direction")
TWICE = re.compile(r" \(\d+\)$")  # how a name is told apart from another's


class Refused(Exception):
    """An answer that is not 200, where there should be one."""


class Server:
    """One of the servers: its process, and the way in while it runs."""

    def __init__(self, nursery: "subprocess.Popen[str]", logs: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.pid, self.started, self.started_at, self.http = 0, 0.0, 0.0, httpx.Client()
        self.open, self.prompts = threading.Event(), {"The"}  # the prompt that a session begins with
        self._nursery, self._log = nursery, logs / f"{self.port}.log"

    def start(self) -> None:
        assert self._nursery.stdin
        assert self._nursery.stdout
        self._log.unlink(missing_ok=True)
        self.started, self.started_at = time.monotonic(), time.time()
        self._nursery.stdin.write(f"{self.port}\n")
        self._nursery.stdin.flush()
        self.pid = int(self._nursery.stdout.readline())

    def wait(self) -> dict[str, Any]:
        """Until its model is there; its state then."""
        while not (link := re.search(r"http://\S+token=\S+", self._log.read_text() if self._log.exists() else "")):
            self._patience()
        url = httpx.URL(link[0])
        headers = {"authorization": f"Bearer {url.params['token']}"}
        self.http = httpx.Client(base_url=url.copy_with(query=None), headers=headers, timeout=60)
        while (state := self.http.get("api/state").json()["state"])["status"]["phase"] != "idle":
            self._patience()
        return dict(state)

    def _patience(self) -> None:
        assert time.monotonic() - self.started < READY, f"port {self.port}: {self._log.read_text()}"
        time.sleep(0.05)

    def kill(self) -> None:
        self.open.clear()
        with suppress(ProcessLookupError):  # until its port is free again
            os.kill(self.pid, signal.SIGKILL)
            while True:
                os.kill(self.pid, 0)
                time.sleep(0.005)

    def client(self) -> httpx.Client:
        """Another connection, as the same person."""
        return httpx.Client(base_url=self.http.base_url, headers=self.http.headers, timeout=60)


class Writer:
    """Makes, renames and deletes things on one server while it is there; `failed` is what was refused."""

    def __init__(self, server: Server, journal: Journal, number: int, seed: str, item: bytes) -> None:
        self.server, self.journal, self.name = server, journal, f"writer {number}"
        self.failed: list[str] = []
        self._draw, self._count, self._item = random.Random(f"{seed} {number}"), 0, item
        self._kinds = (*KINDS, "session") if number % WRITERS == 0 else KINDS
        self._kept: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}

    def go_on(self, until: threading.Event) -> None:
        while not until.is_set():
            if not self.server.open.wait(0.2):
                continue
            try:
                with self.server.client() as http:
                    ask(http, "POST", "api/library/me", json={"name": self.name})
                    while self.server.open.is_set() and not until.is_set():
                        self._one(http)
            except Unanswered:
                time.sleep(0.05)
            except Refused as error:
                self.failed.append(str(error))

    def _one(self, http: httpx.Client) -> None:
        self._count += 1
        kind = self._draw.choice(self._kinds)
        name = f"{self.name} {kind} {self._count}"
        if kind == "session":
            self.server.prompts.add(name)
            ask(http, "POST", "api/intents/set_prompt", json={"text": name})
            self.server.prompts = {name}
            self.journal.acknowledged[kind] += 1
            return
        with self.journal.asking(made=[(kind, name)]):
            id = self._made(http, kind, name)
        if kind == "item" and self._draw.random() < 0.5:
            with self.journal.asking(made=[(kind, f"{name} again")], gone=[(kind, name)]):
                ask(http, "POST", "api/intents/rename_item", json={"name": name, "to": (name := f"{name} again")})
        self._kept[kind].append((name, id))
        if len(self._kept[kind]) > MOST:
            name, id = self._kept[kind].pop(0)
            with self.journal.asking(gone=[(kind, name)]):
                self._delete(http, kind, name, id)

    def _made(self, http: httpx.Client, kind: str, name: str) -> str:
        if kind == "item":
            told = {"content": self._item, "headers": {"content-type": "application/octet-stream"}}
            ask(http, "POST", "api/intents/import_item", params={"name": name}, **told)
        elif kind == "direction":
            ref = {"kind": "token", "token": chr(33 + self._count % 90)}
            body = {"direction": ref, "name": name, "description": f"of {name}"}
            return str(ask(http, "POST", "api/library/directions", json=body)["id"])
        elif kind == "stack":
            edits = [{"kind": "ablate", "site": "z.0", "head": 0}]
            ask(http, "POST", "api/intents/save_stack", json={"name": name, "edits": edits})
        else:
            ask(http, "POST", "api/intents/save_prompt", json={"text": name})
        return ""

    def _delete(self, http: httpx.Client, kind: str, name: str, id: str) -> None:
        if kind == "direction":
            ask(http, "DELETE", f"api/library/directions/{id}")
        elif kind == "prompt":
            ask(http, "POST", "api/intents/forget_prompt", json={"text": name})
        else:
            ask(http, "POST", f"api/intents/delete_{kind}", json={"name": name})


@dataclass
class Storm:
    """What a storm has come to."""

    journal: Journal
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    """What is half-made, refused, or what the store's own check finds."""

    def start(self, servers: list[Server], folder: Path, writers: list[Writer], draw: random.Random) -> None:
        """Start servers, some of them killed once while they start, and look at what they show."""
        for server in servers:
            server.start()
            if self.kills and draw.random() < 0.2:
                time.sleep(draw.uniform(0.0, 1.5))
                server.kill()
                self.kills += 1
                server.start()
        for server in servers:
            self.look(server, server.wait(), folder, writers)
            server.open.set()

    def look(self, server: Server, state: dict[str, Any], folder: Path, writers: list[Writer]) -> None:
        """What a server that was just started shows, held against the journal."""
        before, when = self.journal.entries(), f"start after kill {self.kills}"
        found = Counter[Key](("prompt", entry["text"]) for entry in state["saved"])
        found.update(("stack", TWICE.sub("", stack["name"])) for stack in state["stacks"])
        found.update(("item", TWICE.sub("", item["name"])) for item in state["items"]["items"])
        for writer in writers:
            entries = everything_of(server.http, writer.name)
            found.update(("direction", e["name"]) for e in entries if e["description"] == f"of {e['name']}")
        self.journal.compare(found, before, started=server.started, when=when)
        if (shown := state["prompt"]["text"] if state["prompt"] else "") not in server.prompts:
            self.journal.lost.append(f"{when}: the session shows {shown!r}, not one of {server.prompts}")
        self.wrong += [f"{when}: {said}" for said in state["notices"] if "damaged" in said or "cannot" in said]
        self.wrong += [f"{when}: half-made {path}" for path in half_made(folder, server.started_at)]


def ask(http: httpx.Client, method: str, path: str, **told: Any) -> Any:
    """Raises Unanswered, Refused."""
    try:
        answer = http.request(method, path, **told)
    except httpx.TransportError as error:
        raise Unanswered from error
    if answer.status_code != 200:
        raise Refused(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
    return answer.json()


def half_made(folder: Path, before: float) -> list[str]:
    """Drafts that are older than a time and stay, and files that were moved aside."""

    def old() -> set[Path]:
        drafts = [path for path in folder.rglob(".residscope-*") if DRAFT.fullmatch(path.name)]
        return {path for path in drafts if path.exists() and path.stat().st_mtime < before}

    first = old()
    if first:
        time.sleep(2.0)  # another server may have been at it
    return sorted(map(str, {*(first & old()), *folder.rglob("*.damaged-*")}))


def storm(seconds: float, seed: str, store: str) -> Storm:
    """Kills of either server or both, in the middle of writes and of starting, for so long. store: "" is SQLite in the folder."""
    draw, told, until = random.Random(seed), Storm(Journal()), threading.Event()
    with tempfile.TemporaryDirectory() as made, nursery(Path(made), store) as (started, item):
        folder = Path(made)
        servers = [Server(started, folder) for _ in range(2)]
        writers = [
            Writer(servers[number // WRITERS], told.journal, number, seed, item) for number in range(2 * WRITERS)
        ]
        threads = [threading.Thread(target=writer.go_on, args=(until,)) for writer in writers]
        for thread in threads:
            thread.start()
        try:
            told.start(servers, folder, writers, draw)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(draw.uniform(0.2, 2.0))
                victims = draw.choice([servers, servers[:1], servers[1:]])
                for server in victims:
                    server.kill()
                told.kills += len(victims)
                told.start(victims, folder, writers, draw)
        finally:
            until.set()
            for thread in threads:
                thread.join(60)
            for server in servers:
                server.kill()
        library = Library(Database(store or None, folder=folder / "data"))
        told.wrong += check(library.database).problems
        library.close()
    told.wrong += [said for writer in writers for said in writer.failed if ": 429 " not in said]
    return told


@contextmanager
def nursery(folder: Path, store: str) -> Iterator[tuple["subprocess.Popen[str]", bytes]]:
    """The process that servers are forked from, and the file of an item to put on their shelves."""
    tiny_llama().float().save_pretrained(folder / "model")
    worlds.tokenizer().save_pretrained(folder / "model")
    Result(torch.arange(5_000.0), ("pos",)).save(folder / "item.safetensors")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env |= {"RESIDSCOPE_DATA": str(folder / "data"), "RESIDSCOPE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "reliability.nursery", str(folder / "model"), store, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        yield process, (folder / "item.safetensors").read_bytes()
        process.stdin.close()  # type: ignore[union-attr]
