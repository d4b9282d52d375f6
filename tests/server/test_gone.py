"""Whoever leaves is worked for no longer, over HTTP and over a WebSocket; a store that does not answer holds nobody else up."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from residscope.server import Server
from residscope.server.threads import STORE
from residscope.session import Session
from residscope.store import Library
from server.asking import ask
from session.test_given_up import Blocks
from tiny_models import hook_count

OWN = ["a page of prompts", "and another one"]


@pytest.fixture
def blocks(server: Server) -> Iterator[Blocks]:
    session = server.session
    found = Blocks(session.model.hf)
    session.intent("set_prompt", {"text": f"looked at once, {time.monotonic():.3f}"})
    assert session.wait(60)
    yield found
    found.open.set()
    for handle in found.handles:
        handle.remove()


@pytest.fixture
def ended(server: Server, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a query has ended, however it did."""
    event, query = threading.Event(), server.session.query

    def told(*args: Any, **more: Any) -> Any:
        try:
            return query(*args, **more)
        finally:
            event.set()

    monkeypatch.setattr(server.session, "query", told)
    return event


def over_http(server: Server) -> Callable[[], object]:
    body = json.dumps({"own": OWN}).encode()
    head = [
        "POST /api/queries/prompts HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        f"Authorization: Bearer {server.token}",
        f"Content-Length: {len(body)}",
    ]
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return client.close


def over_websocket(server: Server) -> Callable[[], object]:
    headers = {"authorization": f"Bearer {server.token}"}
    stack = ExitStack()
    client = stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=headers))
    client.send(json.dumps({"id": 1, "query": "prompts", "args": {"own": OWN}}))
    return stack.close


@pytest.mark.parametrize("ask_and_leave", [over_http, over_websocket])
def test_no_block_runs_after_the_client_has_left(
    server: Server, blocks: Blocks, ended: threading.Event, ask_and_leave: Callable[[Server], Callable[[], object]]
) -> None:
    blocks.shut()
    leave = ask_and_leave(server)
    assert blocks.entered.wait(30)
    leave()
    time.sleep(0.3)  # the server hears of it
    blocks.open.set()
    assert ended.wait(30)
    assert blocks.run == [0]
    assert hook_count(server.session.model.hf) == len(blocks.handles)


def test_a_frozen_store_holds_up_neither_the_door_nor_the_model(
    with_library: Server, library: Library, person: Callable[..., httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, waits = threading.Event(), threading.Semaphore(0)

    def wait(*_: Any, **__: Any) -> Any:
        waits.release()
        assert frozen.wait(60)
        raise AssertionError("nobody is to see this")

    http = person("Frieda")
    monkeypatch.setattr(Library, "get", wait)
    monkeypatch.setattr(Library, "send", wait)
    session: Session = with_library.session
    run = session.snapshot()[1]["current"]["a"]
    with ThreadPoolExecutor(2 * STORE) as pool:
        try:
            held = [pool.submit(http.get, "api/library/directions/x/file") for _ in range(2 * STORE)]
            for _ in range(STORE):
                assert waits.acquire(timeout=30)
            answer = ask(http, "stream", run=run)
            assert answer.status_code == 200
            assert http.post("api/intents/set_prompt", json={"text": "typed meanwhile"}).status_code == 200
            assert not any(one.done() for one in held)
        finally:
            frozen.set()
