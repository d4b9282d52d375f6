from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import residscope as rs
from residscope.notebook import sessions
from session import worlds

Open = Callable[..., rs.Workbench]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's is read or written, and no session outlives its test."""
    monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "a.ipynb"))
    yield
    sessions.close_all()


@pytest.fixture
def tiny() -> Any:
    """A little model, an object of its own for each test."""
    from tiny_models import tiny_llama

    return rs.load((tiny_llama(), worlds.tokenizer()))


@pytest.fixture
def wb(tiny: Any) -> rs.Workbench:
    bench = rs.workbench(tiny, prompt="a small prompt")
    assert bench.wait(60)
    return bench
