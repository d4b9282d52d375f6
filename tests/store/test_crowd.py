"""Fifty people at once, and a server that is killed: no vote counted twice, nothing that was answered lost."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from residscope.errors import NameTaken
from residscope.server import Server
from residscope.session import Session
from residscope.store import Database, Library, Search, exchange
from residscope.store.exchange import Sent
from residscope.store.upkeep import check
from store.things import MODEL, direction

PEOPLE = 50
TOKEN = {"authorization": "Bearer token"}


def file_of(seed: int, name: str) -> bytes:
    return exchange.to_file(Sent(direction(seed, name=name), MODEL, f"what {name} means"))


@pytest.fixture
def server(library: Library, tmp_path: Path) -> Iterator[Server]:
    with Server(Session(load=lambda name, **_: None), port=0, library=library, page=tmp_path) as running:
        yield running


def test_fifty_people_at_once(server: Server, library: Library) -> None:
    shared = library.save(direction(1000), model=MODEL, user="host", name="shared", description="vote on me")
    description = library.get(shared.id).descriptions[0].id
    start = threading.Barrier(PEOPLE)

    def person(number: int) -> tuple[int, str]:
        headers = {"authorization": f"Bearer {server.token}"}
        with httpx.Client(base_url=f"{server.base}api/library/", headers=headers, timeout=120, verify=False) as http:

            def did(answer: httpx.Response) -> dict:
                assert answer.status_code == 200, answer.text
                return answer.json()

            did(http.post("me", json={"name": f"person {number}"}))
            start.wait(60)
            did(http.put(f"descriptions/{description}/vote", json={"value": 1}))
            saved = did(http.post("import", content=file_of(number, f"direction {number}")))["entry"]
            did(http.put(f"descriptions/{description}/vote", json={"value": -1 if number % 5 == 0 else 1}))
            did(http.post(f"directions/{shared.id}/comments", json={"text": f"comment {number}"}))
            same = http.post("import", content=file_of(2000 + number, "one name for all"))
            assert same.status_code == 200
            return number, saved["id"]

    with ThreadPoolExecutor(PEOPLE) as crowd:
        ids = dict(crowd.map(person, range(PEOPLE)))
    counted = library.get(shared.id).descriptions[0]
    assert (counted.up, counted.down) == (PEOPLE - PEOPLE // 5, PEOPLE // 5)
    assert len(library.get(shared.id).comments) == PEOPLE
    for number, id in ids.items():
        assert library.get(id).entry.owner == f"person {number}"
        assert torch.equal(library.direction(id).read, direction(number).read)
    assert len(library.search(Search(text="one name for all", limit=100)).entries) == PEOPLE
    assert check(library.database).problems == ()


def test_one_person_in_twenty_windows_has_one_vote_and_one_name(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="host", description="d")
    description = library.get(entry.id).descriptions[0].id
    start = threading.Barrier(20)

    def window(number: int) -> str:
        start.wait(60)
        library.vote(description, 1 if number % 2 else -1, user="Ada" if number % 3 else "ADA")
        try:
            return library.save(direction(number % 2), model=MODEL, user="ada", name="same").id
        except NameTaken:
            return "taken"

    with ThreadPoolExecutor(20) as windows:
        told = list(windows.map(window, range(20)))
    counted = library.get(entry.id).descriptions[0]
    assert counted.up + counted.down == 1
    assert told.count("taken") == 10
    assert len({id for id in told if id != "taken"}) == 1
    assert len(library.search(Search(user="ada")).entries) == 1


def test_no_rename_is_lost_where_each_says_what_it_saw(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", name="0")
    done = []

    def add_one(_: int) -> None:
        from residscope.errors import EditedSince

        while True:
            held = library.get(entry.id).entry
            try:
                library.rename(entry.id, str(int(held.name) + 1), user="ada", seen=held.version)
            except EditedSince:
                continue
            done.append(1)
            return

    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(add_one, range(16)))
    assert library.get(entry.id).entry.name == str(len(done)) == "16"


@contextmanager
def serving(url: str, folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    program = Path(__file__).with_name("serving.py")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, program, url, folder], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("url", "after"), [("sqlite", 3), ("sqlite", 11), ("postgresql", 3)], indirect=["url"])
def test_a_killed_server_has_lost_nothing_that_it_answered(url: str, tmp_path: Path, after: int) -> None:
    answered: list[tuple[int, str]] = []
    enough = threading.Event()

    def person(number: int, base: str) -> None:
        with httpx.Client(
            base_url=f"{base}api/library/", headers={"authorization": "Bearer token"}, timeout=60
        ) as http:
            try:
                http.post("me", json={"name": f"person {number}"})
                for turn in range(100):
                    seed = 1000 * number + turn
                    answer = http.post("import", content=file_of(seed, f"direction {seed}"))
                    if answer.status_code == 200:
                        answered.append((seed, answer.json()["entry"]["id"]))
                    if len(answered) >= after:
                        enough.set()
            except httpx.TransportError:
                return

    with serving(url, tmp_path) as (process, base):
        crowd = [threading.Thread(target=person, args=(number, base)) for number in range(4)]
        for someone in crowd:
            someone.start()
        ours = Library(Database(url, folder=tmp_path))  # a second process at the same database
        kept = [ours.save(direction(-1 - seed), model=MODEL, user="us", name=f"ours {seed}").id for seed in range(5)]
        ours.close()
        assert enough.wait(60)
        process.kill()
        for someone in crowd:
            someone.join()
    library = Library(Database(url, folder=tmp_path))
    assert len(answered) >= after
    for seed, id in answered:
        assert torch.equal(library.direction(id).read, direction(seed).read)
        assert library.get(id).entry.description == f"what direction {seed} means"
    assert [library.get(id).entry.owner for id in kept] == ["us"] * 5
    assert check(library.database).problems == ()
    library.save(direction(), model=MODEL, user="ada")  # and it goes on
    library.close()
