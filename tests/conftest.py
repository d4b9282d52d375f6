"""Models the tests share: tiny random ones of each family in float64, and the real default model."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import residscope as rs
import shape_checker  # noqa: F401 - before anything that it watches
from residscope.engine.model import Model
from tiny_models import VARIANTS, VOCAB, hook_count, tiny_gpt2, tiny_llama

os.environ.setdefault(
    "RESIDSCOPE_SEED", secrets.token_hex(4)
)  # of the random cases in tests/attack; workers inherit it


LONGEST = (  # files of few tests and many seconds: they begin first, so that no worker is left with one at the end
    "reproduce/test_lrqp.py",
    "test_docs.py",
    "engine/test_screening.py",
    "reproduce/test_viewer.py",
    "reproduce/test_ioi.py",
    "test_memory.py",
    "store/test_killed.py",
    "test_plugins.py",
    "attack/test_property.py",
    "session/test_copied.py",
    "session/test_shelf.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_report_header() -> str:
    return f"RESIDSCOPE_SEED={os.environ['RESIDSCOPE_SEED']}"


@pytest.fixture(params=VARIANTS, scope="session")
def tiny(request: pytest.FixtureRequest) -> Model:
    return Model(VARIANTS[request.param](), name=request.param)


@pytest.fixture(scope="session")
def llama() -> Model:
    return Model(tiny_llama(), name="llama")


@pytest.fixture(scope="session")
def gpt2() -> Model:
    return Model(tiny_gpt2(), name="gpt2")


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    return torch.randint(2, VOCAB, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _hooks_are_taken_off(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nobody leaves a hook on the model that all tests share."""
    yield
    if "smollm2" in request.fixturenames:
        assert hook_count(request.getfixturevalue("smollm2").hf) == 0, "a hook is left on smollm2"


@pytest.fixture(scope="session")
def smollm2() -> Model:
    return rs.load("smollm2-135m")
