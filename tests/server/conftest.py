from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from residscope.server import Server
from residscope.session import loaded
from session import worlds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    page = tmp_path_factory.mktemp("ui")
    (page / "assets").mkdir()
    (page / "index.html").write_text("<!doctype html><title>Residscope</title>")
    (page / "assets" / "app.js").write_text("export {}")
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
