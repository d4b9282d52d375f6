"""Connections that do not say who they are, pages that do not read: the owner comes in, and nothing grows."""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from residscope.server import Server, strangers
from residscope.server.boxes import WAITING_BYTES
from residscope.server.strangers import Once
from session import worlds

HALF = b"POST /api/intents/set_prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that lets eight strangers wait for a second and a half."""
    monkeypatch.setattr(strangers, "MOST", 8)
    monkeypatch.setattr(strangers, "SECONDS", 1.5)
    (tmp_path / "index.html").write_text("<!doctype html>")
    with worlds.session() as session, Server(session, port=0, page=tmp_path) as server:
        yield server


@contextlib.contextmanager
def half_sent(server: Server, count: int, data: bytes = HALF) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            with contextlib.suppress(OSError):
                one.sendall(data)
            opened.append(one)
        yield opened


def ended(one: socket.socket, within: float) -> bool:
    one.settimeout(within)
    try:
        while one.recv(4096):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def owner(server: Server) -> httpx.Client:
    headers = {"authorization": f"Bearer {server.token}"}
    return httpx.Client(base_url=server.base, headers=headers, timeout=5)


def test_half_sent_requests_do_not_shut_the_owner_out(held: Server, caplog: pytest.LogCaptureFixture) -> None:
    with owner(held) as before, caplog.at_level(logging.INFO):
        assert before.get("/api/state").status_code == 200
        with half_sent(held, 60) as waiting:
            with owner(held) as after:
                assert after.get("/api/state").status_code == 200
            assert before.get("/api/state").status_code == 200
            assert len(held._strangers) <= 8
            assert all(ended(one, 3) for one in waiting)  # the oldest at once, the last when their time is up
        assert before.get("/api/state").status_code == 200
    said = [line for line in caplog.messages if "did not say who they are" in line]
    assert len(said) == 1


def test_who_sends_without_end_is_cut_off(held: Server) -> None:
    endless = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-A: " + b"a" * (3 << 20)
    with half_sent(held, 1, endless) as [one]:
        assert ended(one, 3)


def test_a_page_that_was_let_in_may_be_silent(held: Server) -> None:
    headers = {"authorization": f"Bearer {held.token}"}
    with connect(held.base.replace("http", "ws") + "ws", additional_headers=headers) as page:
        page.recv()
        time.sleep(2)
        with half_sent(held, 20):
            held.session.intent("set_edits", {"edits": []})
            held.session.notify("still here")
            while "still here" not in str(page.recv(timeout=3)):
                pass


def test_a_page_that_never_reads_is_let_go_and_comes_back(held: Server) -> None:
    headers = {"authorization": f"Bearer {held.token}"}
    address = held.base.replace("http", "ws") + "ws"
    with connect(address, additional_headers=headers, max_queue=1, close_timeout=1, max_size=None) as deaf:
        for number in range(WAITING_BYTES // 500_000):  # each is told with all before it
            held.session.notify(f"{number} " + "x" * 500_000)
        deadline = time.monotonic() + 10
        while deaf.protocol.close_code is None and time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                deaf.recv(timeout=0.2)
        assert deaf.protocol.close_code == 1013
    with connect(address, additional_headers=headers, max_size=None) as again:
        while isinstance(first := again.recv(timeout=10), bytes):
            pass
        assert first.startswith('{"seq"')


def test_the_log_says_the_same_once() -> None:
    once = Once()
    record = logging.LogRecord("asyncio", logging.ERROR, "", 0, "socket.accept() out of system resource", (), None)
    assert [once.filter(record) for _ in range(1000)].count(True) == 1
    other = logging.LogRecord("asyncio", logging.ERROR, "", 0, "something else", (), None)
    assert once.filter(other)
