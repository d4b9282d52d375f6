"""A real server on the real default model, and Debian's Chromium."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests last: synchronous Playwright leaves a running event loop behind."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is missing: `make test` installs it (apt-get install chromium)", pytrace=False)
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return {"executable_path": str(CHROMIUM), "args": FLAGS + sandbox}


@pytest.fixture(scope="session")
def browser_context_args() -> dict[str, Any]:
    return {"viewport": {"width": 1280, "height": 720}, "color_scheme": "light"}


@pytest.fixture(scope="session")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from residscope.engine.loading import load
    from residscope.server import Server
    from residscope.server.listen import offers
    from residscope.session import Session

    session = Session(load=load, offers=offers, folder=tmp_path_factory.mktemp("data"))
    session.load("smollm2-135m")
    with Server(session, port=0) as server:
        yield server
