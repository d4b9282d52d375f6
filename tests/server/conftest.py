from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from residscope.server import Server
from residscope.store import Library, open_library
from residscope.world import loaded
from server.entering import enter
from session import worlds
from wire_shapes import hearing


@pytest.fixture(autouse=True)
def _said_as_told() -> Iterator[None]:
    """Whatever a session says in these tests is what the page is told that it says."""
    with hearing() as heard:
        yield
    assert heard.misfits == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    page = tmp_path_factory.mktemp("ui")
    (page / "assets").mkdir()
    (page / "index.html").write_text("<!doctype html><title>Residscope</title>")
    (page / "assets" / "app.js").write_text("export {}")
    (page / "assets" / "large.js").write_text("export {};\n" * 1000)
    (page / "assets" / "large.js.br").write_bytes(b"packed before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "shipped", worlds.components)
        with worlds.session() as session, Server(session, port=0, page=Path(page)) as running:
            yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client with the token, as a script has it."""
    with httpx.Client(base_url=server.base, headers={"authorization": f"Bearer {server.token}"}, timeout=60) as client:
        yield client


@pytest.fixture
def stranger(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return open_library(folder=tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def with_library(tmp_path_factory: pytest.TempPathFactory, library: Library) -> Iterator[Server]:
    page = tmp_path_factory.mktemp("ui")
    (page / "index.html").write_text("<!doctype html>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "shipped", worlds.components)
        with worlds.session() as session, Server(session, port=0, page=page, library=library) as running:
            yield running


@pytest.fixture
def person(with_library: Server) -> Iterator[Callable[..., httpx.Client]]:
    """A browser of somebody's: the link's cookie, and a name if they give one."""
    with ExitStack() as open_clients:

        def come(name: str | None = None) -> httpx.Client:
            http = open_clients.enter_context(httpx.Client(base_url=with_library.base, timeout=60, verify=False))
            enter(http, f"/?token={with_library.token}")
            if name:
                assert http.post("api/library/me", json={"name": name}).json() == {"name": name}
            return http

        yield come
