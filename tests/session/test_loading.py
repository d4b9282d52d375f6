"""A load that takes long, or hangs, holds up nothing: the model that is here goes on, and what is on its way can be let go of."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules import module

import residscope as rs
from residscope.errors import Cancelled, ModelNotFound
from residscope.progress import ask_within, asking
from residscope.session import Session
from session import worlds
from tiny_models import tiny_llama


class Loads:
    """Loads a model by name: `hangs` until it is let go of."""

    def __init__(self) -> None:
        self.begun, self.ended, self.open = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, name: str, **_: Any) -> Any:
        if name != "hangs":
            return worlds.tuned() if name == "tuned" else worlds.model()
        self.begun.set()
        try:
            while not self.open.wait(0.01):
                ask_within()  # as each module asks that is built
        finally:
            self.ended.set()
        return worlds.tuned()


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def session(loads: Loads) -> Iterator[Session]:
    with worlds.session(load=loads) as one:
        one.intent("load_model", {"name": "hangs"})
        assert loads.begun.wait(30)
        yield one
        loads.open.set()


def phase(session: Session) -> tuple[str, str | None]:
    status = session.snapshot()[1]["status"]
    return status["phase"], status["wanted"]


def test_what_is_asked_meanwhile_is_run_on_the_model_that_is_here(session: Session, loads: Loads) -> None:
    assert phase(session) == ("loading", "hangs")
    session.intent("set_prompt", {"text": "typed meanwhile"})
    assert session._worker.wait(30)
    assert session.snapshot()[1]["runs"][-1]["prompt"] == "typed meanwhile"
    assert phase(session) == ("loading", "hangs"), "it is on its way still"
    loads.open.set()
    assert session.wait(30)
    assert session.model is worlds.tuned()
    assert session.snapshot()[1]["prompt"]["text"] == "typed meanwhile"
    assert phase(session) == ("idle", None)


def test_it_is_let_go_of(session: Session, loads: Loads) -> None:
    session.intent("keep_model")
    assert loads.ended.wait(30), "what builds it has stopped"
    assert session.wait(30)
    assert (session.model, phase(session)) == (worlds.model(), ("idle", None))


def test_another_takes_its_place(session: Session, loads: Loads) -> None:
    session.intent("load_model", {"name": "tuned"})
    assert session.wait(30)
    assert loads.ended.wait(30)
    assert (session.model, phase(session)) == (worlds.tuned(), ("idle", None))


def test_a_session_that_is_closed_loads_no_more(session: Session, loads: Loads) -> None:
    session.close()
    assert loads.ended.wait(30)
    assert session.model is worlds.model()


def test_without_a_model_a_prompt_is_refused_in_words(loads: Loads) -> None:
    session = Session(load=loads)
    try:
        session.load("hangs")
        assert loads.begun.wait(30)
        with pytest.raises(ModelNotFound):
            session.intent("set_prompt", {"text": "too early"})
    finally:
        session.close()


def test_a_model_that_is_built_asks_at_each_of_its_parts(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    asks = 0

    def tell(done: int | None = None) -> None:
        nonlocal asks
        asks += 1
        if asks > 10:
            raise Cancelled("not wanted any more")

    with pytest.raises(Cancelled), asking(tell, tell):
        rs.load(str(tmp_path))
    assert asks == 11
    assert not module._global_module_registration_hooks
    assert not module._global_parameter_registration_hooks
    rs.load(str(tmp_path))
