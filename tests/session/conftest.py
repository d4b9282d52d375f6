from collections.abc import Iterator

import pytest

from corpus.conftest import hub as hub
from residscope.session import Session
from residscope.world import loaded
from session import worlds
from wire_shapes import hearing


@pytest.fixture(autouse=True)
def _components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "shipped", lambda model: worlds.components(getattr(model, "_of", model)))


@pytest.fixture(autouse=True)
def _said_as_told() -> Iterator[None]:
    """Whatever a session says in these tests is what the page is told that it says."""
    with hearing() as heard:
        yield
    assert heard.misfits == []


@pytest.fixture(params=["llama", "gpt2"])
def live(request: pytest.FixtureRequest) -> Session:
    with worlds.session(worlds.model(request.param)) as session:
        yield session


@pytest.fixture
def one() -> Session:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "a small prompt"})
        assert session.wait(60)
        yield session
