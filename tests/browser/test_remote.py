"""The page from elsewhere, in a real browser: through nginx with https at a path, and through JupyterLab's own proxy."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from browser.lab import jupyter_lab
from browser.steps import LOAD_MS, SERVED, settled, type_prompt
from residscope.server import Server
from server.nginx import Proxy, free_port, nginx

PROMPT = "The capital of France is"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server that knows a proxy of nginx's, and one of JupyterLab's; the latter's address."""
    from residscope.engine.loading import load
    from residscope.session import Session
    from residscope.store import open_library

    port, at = free_port(), free_port()
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as lab:
        through = f"{lab}/proxy/{at}/"
        session = Session(load=load)
        session.load("smollm2-135m")
        library = open_library(folder=tmp_path_factory.mktemp("library"))
        behind = [Proxy(port).stripped, Proxy(port).whole, through]
        with Server(session, port=at, library=library, behind=behind) as server, nginx(port, at):
            for url in behind:
                SERVED[url.split("://", 1)[1]] = session
            yield server, through
            for url in behind:
                del SERVED[url.split("://", 1)[1]]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["https, path stripped", "https, path kept", "jupyter-server-proxy"])
def test_the_page_is_whole_behind_a_proxy(browser: Browser, remote: Any, which: int) -> None:
    server, _ = remote
    link = server.urls[which]
    base = link.split("?")[0]
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 720})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(link)
    expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
    assert page.url.split("#")[0] == base
    type_prompt(page, PROMPT)
    assert server.session.state.prompt.text == PROMPT
    assert said == []
    strangers = [url for url in asked if not url.replace("ws", "http", 1).startswith((base, "data:", "blob:"))]
    assert strangers == []
    name = f"ada{which}"
    told = page.evaluate(
        """async name => (await fetch('api/intents/library_sign_in', { method: 'POST', body: JSON.stringify({ name }),
           headers: { 'content-type': 'application/json', 'x-residscope-page': localStorage[Object.keys(localStorage)
             .find(key => key.startsWith('residscope-page:') && location.pathname.startsWith(key.slice(16)))] } })).status""",
        name,
    )
    assert told == 200
    kept = {cookie["name"]: cookie for cookie in context.cookies() if cookie["name"].startswith("residscope")}
    assert len(kept) == 2
    path = base[base.index("/", 8) :]
    assert {(cookie["path"], cookie["secure"]) for cookie in kept.values()} == {(path, base.startswith("https"))}
    page.reload()
    settled(page)
    context.close()


def test_an_address_that_nobody_named_says_what_to_start_with(browser: Browser, remote: Any) -> None:
    server, _ = remote
    port = free_port()
    with nginx(port, server.port):
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(f"https://hub.localhost:{port}/whole/?token={server.token}")
        expect(page.get_by_text(f"--behind https://hub.localhost:{port}/")).to_be_visible()
        context.close()
