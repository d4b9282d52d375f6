from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from residscope.store import Library, open_library
from store.postgres import Postgres, postgres


@pytest.fixture(scope="session")
def server_of_postgres() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases: an empty one of each."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/library.db"
    return request.getfixturevalue("server_of_postgres").fresh()


@pytest.fixture
def another(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """One more empty database, of a kind."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/another/library.db"
        return request.getfixturevalue("server_of_postgres").fresh()

    return make


@pytest.fixture
def library(url: str, tmp_path: Path) -> Iterator[Library]:
    opened = open_library(url, folder=tmp_path)
    yield opened
    opened.close()
