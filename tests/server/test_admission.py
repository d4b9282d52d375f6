"""Nobody waits in a line that takes too long, nor fills one alone: 429, and a time to come back."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from residscope.errors import Busy
from residscope.server import Server, admission, threads
from residscope.server.admission import Line
from session import worlds


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT", 0.1)
    monkeypatch.setattr(admission, "CROWD", 0)


def blocking(line: Line, count: int, until: threading.Event, who: str | None = None) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(line.run(lambda: until.wait(10), who)) for _ in range(count)]


def with_line(use: Callable[[Line, threading.Event], object], size: int = 2) -> None:
    async def used() -> None:
        until = threading.Event()
        try:
            await use(Line(size), until)  # type: ignore[misc]
        finally:
            until.set()

    asyncio.run(used())


def test_a_line_that_stands_still_is_not_joined_and_goes_on_afterwards() -> None:
    async def use(line: Line, until: threading.Event) -> None:
        before = blocking(line, 3, until)
        await asyncio.sleep(0.15)
        with pytest.raises(Busy, match=r"as much as it can; nothing was done.*come back in 1 s") as refused:
            await line.run(lambda: None)
        assert refused.value.seconds == 1
        until.set()
        assert all(await asyncio.gather(*before))
        assert await line.run(lambda: 3) == 3

    with_line(use)


def test_a_free_thread_is_had_however_slow_the_others_are() -> None:
    async def use(line: Line, until: threading.Event) -> None:
        blocking(line, 1, until)
        await asyncio.sleep(0.15)
        assert await line.run(lambda: 3) == 3

    with_line(use)


@pytest.mark.parametrize(("wait", "most"), [(2.0, 8), (0.5, 2)])
def test_the_time_to_come_back_is_what_the_line_takes_and_no_longer_than_anybody_waits(
    wait: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WAIT", wait)

    async def use(line: Line, until: threading.Event) -> None:
        began = time.monotonic()
        blocking(line, 12, until)
        await asyncio.sleep(0.3)
        with pytest.raises(Busy) as refused:
            await line.run(lambda: None)
        took = math.ceil(11 * (time.monotonic() - began))  # none in 0.3 s, eleven to go
        assert min(4, most) <= refused.value.seconds <= min(took, most)

    with_line(use)


def test_whoever_was_let_in_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT", 0.2)

    async def use(line: Line, until: threading.Event) -> None:
        before = blocking(line, 2, until)
        await asyncio.sleep(0)
        joined = asyncio.create_task(line.run(lambda: 3))  # nothing says yet that it will take long
        await asyncio.sleep(0.9)
        until.set()
        with pytest.raises(Busy, match="come back in"):
            await joined
        assert all(await asyncio.gather(*before))
        assert await line.run(lambda: 3) == 3

    with_line(use)


def test_a_crowd_is_let_in_however_slow_a_line_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CROWD", 50)
    monkeypatch.setattr(admission, "WAIT", 10.0)

    async def use(line: Line, until: threading.Event) -> None:
        line._each = 5.0  # seconds, as calls went lately
        before = blocking(line, 52, until)
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await line.run(lambda: None)
        until.set()
        assert all(await asyncio.gather(*before))

    with_line(use)


def test_one_person_does_not_fill_a_line_that_others_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT", 10.0)

    async def use(line: Line, until: threading.Event) -> None:
        line._each = 1.2  # seconds, as calls went lately
        blocking(line, 6, until, "ada")
        await asyncio.sleep(0)
        alone = blocking(line, 1, until, "ada")  # nobody else waits
        await asyncio.sleep(0)
        assert not alone[0].done()
        blocking(line, 1, until, "eve")
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="for one person"):
            await line.run(lambda: None, "ada")
        joined = asyncio.create_task(line.run(lambda: 3, "bob"))
        await asyncio.sleep(0)
        until.set()
        assert await joined == 3

    with_line(use)


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with one thread for questions, which one is in."""
    monkeypatch.setattr(threads, "MODEL", 1)
    (tmp_path / "index.html").write_text("<!doctype html>")
    begun, until = threading.Event(), threading.Event()
    with worlds.session() as session, Server(session, port=0, page=tmp_path) as server:
        query = session.query

        def slow(name, *args, **more):  # type: ignore[no-untyped-def]
            if name == "gram":
                begun.set()
                until.wait(10)
            return query(name, *args, **more)

        monkeypatch.setattr(session, "query", slow)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(
                httpx.post, f"{server.base}api/queries/gram", json={"of": []}, headers=known(server), timeout=20
            )
            assert begun.wait(10)
            threading.Event().wait(0.15)
            yield server
            until.set()


def known(server: Server) -> dict[str, str]:
    return {"authorization": f"Bearer {server.token}"}


def test_over_http_it_is_429_with_a_time_and_all_else_goes_on(full: Server) -> None:
    with httpx.Client(base_url=full.base, headers=known(full)) as http:
        refused = http.post("api/queries/manifest", json={})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) == 1
        assert refused.json()["error"]["type"] == "Busy"
        assert "come back in 1 s" in refused.json()["error"]["message"]
        assert http.get("api/state").status_code == 200
        assert http.post("api/intents/set_prompt", json={"text": "still here"}).status_code == 200


def test_a_page_is_told_so_and_stays_connected(full: Server) -> None:
    with connect(full.base.replace("http", "ws") + "ws", additional_headers=known(full), max_size=None) as page:
        page.send(json.dumps({"id": 1, "query": "manifest", "args": {}}))
        page.send(json.dumps({"id": 2, "intent": "set_prompt", "args": {"text": "and here"}}))
        heard: dict[int, dict[str, Any]] = {}
        while len(heard) < 2:
            told = page.recv(timeout=10)
            answer = json.loads(told) if isinstance(told, str) else {}
            heard |= {answer["id"]: answer} if "id" in answer else {}
    assert heard[1]["error"]["type"] == "Busy"
    assert heard[2]["ok"]
