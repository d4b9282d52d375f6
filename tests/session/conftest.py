import pytest

from corpus.conftest import hub as hub
from residscope.session import Session
from residscope.world import loaded
from session import worlds


@pytest.fixture(autouse=True)
def _components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "shipped", lambda model: worlds.components(getattr(model, "_of", model)))


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
