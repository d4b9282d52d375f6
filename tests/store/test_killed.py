"""`residscope open`, killed while many save, describe and vote over HTTP: what was answered is there, and nothing twice."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from residscope.store import Database, Library
from residscope.store.upkeep import check
from session import worlds
from store.postgres import Postgres, postgres
from tiny_models import tiny_llama

PEOPLE = 12
ENOUGH = 150  # answered changes, before the kill
LOADS = 120  # seconds


@pytest.fixture(scope="module")
def durable() -> Iterator[Postgres]:
    with postgres(fsync=True) as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama().float().save_pretrained(folder)
    worlds.tokenizer().save_pretrained(folder)
    return folder


@contextmanager
def opened(model: Path, data: Path, store: str | None) -> Iterator[tuple["subprocess.Popen[str]", httpx.URL, str]]:
    """The command, in a process of its own: the process, its address and its token."""
    env = os.environ | {
        "RESIDSCOPE_DATA": str(data), "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    where = [] if store is None else ["--store", store]
    command = [sys.executable, "-m", "residscope", "open", str(model), "--no-browser", "--port", "0", *where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        line = next(line.strip() for line in process.stdout if "token=" in line)
        url = httpx.URL(line)
        yield process, url.copy_with(query=None), url.params["token"]
    finally:
        process.kill()
        process.wait()


@contextmanager
def client(base: httpx.URL, token: str, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {token}"}, timeout=60) as http:
        assert http.post("api/library/me", json={"name": name}).status_code == 200
        yield http


def until_loaded(http: httpx.Client) -> None:
    end = time.monotonic() + LOADS
    while http.get("api/state").json()["state"]["status"]["phase"] != "idle":
        assert time.monotonic() < end
        time.sleep(0.2)


class Person:
    """Saves, describes and votes until the server is gone, and remembers what it was answered."""

    def __init__(self, number: int, shared: str) -> None:
        self.name, self.number, self.shared = f"person {number}", number, shared
        self.saved: dict[str, str] = {}
        self.said: dict[str, str] = {}
        self.vote: int | None = None
        self.voting: int | None = None
        self.saving: dict[str, Any] | None = None

    def go_on(self, base: httpx.URL, token: str, count: Callable[[], None]) -> None:
        try:
            with client(base, token, self.name) as http:
                for turn in range(10_000):
                    self._turn(http, turn, count)
        except (httpx.TransportError, httpx.RemoteProtocolError):
            return

    def _turn(self, http: httpx.Client, turn: int, count: Callable[[], None]) -> None:
        name = f"{self.name}, direction {turn}"
        ref = {"kind": "token", "token": chr(33 + (7 * self.number + turn) % 90)}
        self.saving = {"direction": ref, "name": name, "description": f"what {name} means"}
        answer = http.post("api/library/directions", json=self.saving)
        if answer.status_code == 200:
            self.saved[name] = answer.json()["id"]
            count()
        self.voting = 1 if (turn + self.number) % 3 else -1
        answer = http.put(f"api/library/descriptions/{self.shared}/vote", json={"value": self.voting})
        if answer.status_code == 200:
            self.vote = self.voting
            count()
        elif answer.status_code == 429:  # faster than a person may be
            time.sleep(0.3)
        for id in [*self.saved.values()][-1:]:
            text = f"{self.name} adds {turn}"
            answer = http.post(f"api/library/directions/{id}/descriptions", json={"text": text})
            if answer.status_code == 200:
                self.said[text] = answer.json()["id"]
                count()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_workbench_has_kept_what_it_answered(
    kind: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = None if kind == "sqlite" else request.getfixturevalue("durable").fresh()
    answered, enough = [0], threading.Event()

    def count() -> None:
        answered[0] += 1
        if answered[0] >= ENOUGH:
            enough.set()

    with opened(model, tmp_path, store) as (process, base, token):
        with client(base, token, "host") as host:
            until_loaded(host)
            first = {"direction": {"kind": "token", "token": "!"}, "name": "shared", "description": "vote on me"}
            entry = host.post("api/library/directions", json=first).json()
            shared = host.get(f"api/library/directions/{entry['id']}").json()["descriptions"][0]["id"]
        crowd = [Person(number, shared) for number in range(PEOPLE)]
        threads = [threading.Thread(target=person.go_on, args=(base, token, count)) for person in crowd]
        for thread in threads:
            thread.start()
        assert enough.wait(90)
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(60)
    assert answered[0] >= ENOUGH

    with opened(model, tmp_path, store) as (_, base, token):
        votes = []
        for person in crowd:
            with client(base, token, person.name) as http:
                until_loaded(http)
                again = http.post("api/library/directions", json=person.saving)  # who was not answered asks again
                assert again.status_code == 200
                person.saved[again.json()["name"]] = again.json()["id"]
                found = everything_of(http, person.name)
                names = [entry["name"] for entry in found]
                assert len(names) == len(set(names)), "a save that was asked for twice is one"
                assert {entry["name"]: entry["id"] for entry in found}.items() >= person.saved.items()
                assert len(found) - len(person.saved) <= 1  # at most the one that was under way
                for text, id in person.said.items():
                    name = f"{person.name}, direction {text.rpartition(' ')[2]}"
                    whole = http.get(f"api/library/directions/{person.saved[name]}").json()
                    assert [d["id"] for d in whole["descriptions"] if d["text"] == text] == [id]
                mine = http.get(f"api/library/directions/{entry_of(http)}").json()["descriptions"][0]["mine"]
                assert mine in {person.vote or 0, person.voting or 0}
                votes.append(mine)
                counted = http.get(f"api/library/directions/{entry_of(http)}").json()["descriptions"][0]
        assert (counted["up"], counted["down"]) == (votes.count(1), votes.count(-1))
    library = Library(Database(store, folder=tmp_path))
    assert check(library.database).problems == ()
    library.close()


def everything_of(http: httpx.Client, name: str) -> list[dict[str, Any]]:
    found, after = [], None
    while True:
        asked = {"user": name, "limit": 100} | ({} if after is None else {"after": after})
        page = http.get("api/library/directions", params=asked).json()
        found, after = [*found, *page["entries"]], page["after"]
        if after is None:
            return found


def entry_of(http: httpx.Client) -> str:
    return http.get("api/library/directions", params={"user": "host"}).json()["entries"][0]["id"]
