"""A server that is closed holds nothing: a notebook that opens one workbench after another keeps one model, not all."""

import gc
import weakref
from pathlib import Path

import httpx
from websockets.sync.client import connect

from residscope.server import Server
from residscope.store import open_library
from session import worlds


def test_a_closed_server_lets_go_of_its_session_and_its_model(tmp_path: Path) -> None:
    page = tmp_path / "ui"
    page.mkdir()
    (page / "index.html").write_text("<!doctype html>")
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "When Mary"})
        held = [weakref.ref(session), weakref.ref(session.state.model)]
        with Server(session, port=0, page=page, library=open_library(folder=tmp_path / "library")) as server:
            token = {"authorization": f"Bearer {server.token}"}
            with httpx.Client(base_url=server.base, headers=token) as http:
                assert http.get("/").status_code == 200
                assert http.get("/api/state").status_code == 200
                assert http.get("/api/library/me").status_code == 200
                assert http.post("/api/intents/set_edits", json={"edits": []}).status_code == 200
                assert http.get("/api/items/file", params={"name": "x", "ending": "csv"}).status_code == 404
            with connect(server.base.replace("http", "ws") + "ws", additional_headers=token) as ws:
                assert ws.recv()
    del session, server
    gc.collect()
    assert [ref() for ref in held] == [None, None]
