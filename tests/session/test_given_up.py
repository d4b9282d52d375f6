"""A run that nobody waits for stops at the next block, whoever started it, and leaves nothing behind."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import residscope as rs
from residscope.errors import Cancelled
from residscope.session import Session
from session import worlds
from tiny_models import hook_count

OWN = ["a page of prompts", "and another one"]


class Blocks:
    """Counts the blocks that a model runs, and holds it in the first while it is shut."""

    def __init__(self, hf: Any) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()
        self.run: list[int] = []
        layers = hf.model.layers
        self.handles = [
            layer.register_forward_hook(lambda *_, i=i: self._passed(i))  # type: ignore[misc]
            for i, layer in enumerate(layers)
        ]

    def _passed(self, layer: int) -> None:
        self.run.append(layer)
        if not self.open.is_set():
            self.entered.set()
            assert self.open.wait(30)

    def shut(self) -> None:
        self.run.clear()
        self.entered.clear()
        self.open.clear()


@pytest.fixture
def blocks(one: Session) -> Iterator[Blocks]:
    found = Blocks(one.model.hf)
    one.intent("set_prompt", {"text": "another's hooks are looked at once"})
    assert one.wait(60)
    yield found
    found.open.set()
    for handle in found.handles:
        handle.remove()


def beside(call: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failed


def stopped(one: Session, blocks: Blocks, thread: threading.Thread, failed: list[BaseException]) -> None:
    blocks.open.set()
    thread.join(30)
    assert [type(error) for error in failed] == [Cancelled]
    assert blocks.run == [0], "no block ran after the one it was in"
    assert hook_count(one.model.hf) == len(blocks.handles)


QUERIES = {
    "a page of prompts": ("prompts", {"own": OWN}),
    "a map": ("map", {"run": "r1", "positive": 5, "negative": 7}),
    "a layer": ("map_layer", {"run": "r1", "layer": 1, "positive": 5, "negative": 7}),
}


@pytest.mark.parametrize("asked", QUERIES)
def test_a_query_stops_once_whoever_asked_has_left(one: Session, blocks: Blocks, asked: str) -> None:
    name, args = QUERIES[asked]
    if "run" in args:
        args = args | {"run": one.snapshot()[1]["runs"][-1]["id"]}
    left = threading.Event()
    blocks.shut()
    thread, failed = beside(lambda: one.query(name, args, gone=left.is_set))
    assert blocks.entered.wait(30)
    left.set()
    stopped(one, blocks, thread, failed)
    assert one.query(name, args), "it can be asked again"


LIVE, TEXT = {"kind": "live"}, {"kind": "typed", "name": "text", "text": "a text to fit on\n\n" * 60}
JOBS = {
    "ablation-sweep": {"prompts": LIVE, "metric": LIVE},
    "continuations": {"prompt": LIVE, "max_new_tokens": 5},
    "edge-attribution": {"clean": LIVE, "corrupted": "b small prompt", "metric": LIVE},
    "logit-lens": {"prompt": LIVE},
    "pca": {"corpus": TEXT, "site": "resid_post.1", "n": 2, "tokens": 300},
    "saliency": {"prompt": LIVE, "metric": LIVE},
}


@pytest.mark.parametrize("method", JOBS)
def test_a_job_that_is_cancelled_stops_at_the_next_block(one: Session, blocks: Blocks, method: str) -> None:
    one.intent("set_prompt", {"text": "a small prompt"})
    assert one.wait(60)
    blocks.shut()
    job = one.intent("start", {"method": method, "args": JOBS[method]})["job"]
    assert blocks.entered.wait(30)
    one.intent("cancel", {"job": job})
    blocks.open.set()
    assert one.wait(60)
    assert [found.phase for found in one.state.jobs if found.id == job] == ["cancelled"]
    assert blocks.run == [0], "no block ran after the one it was in"
    assert hook_count(one.model.hf) == len(blocks.handles)


def test_gradients_that_are_cancelled_stop_on_their_way_back(one: Session) -> None:
    model, passed = one.model, list[int]()
    handles = [
        layer.register_full_backward_pre_hook(lambda *_, i=i: passed.append(i))  # type: ignore[misc]
        for i, layer in enumerate(model.hf.model.layers)
    ]
    try:
        with pytest.raises(Cancelled):
            rs.saliency(model, [[2, 3, 4, 5]], rs.logit_diff(5, 7), progress=False, cancel=lambda: 2 in passed)
    finally:
        for handle in handles:
            handle.remove()
    assert passed == [3, 2], "the blocks below were not gone through"


def test_nothing_runs_for_whoever_left_before_their_turn(one: Session, blocks: Blocks) -> None:
    blocks.shut()
    with pytest.raises(Cancelled):
        one.query("prompts", {"own": OWN}, gone=lambda: True)
    assert blocks.run == []


def test_a_query_under_way_lets_a_live_run_go_first(one: Session, blocks: Blocks) -> None:
    blocks.shut()
    thread, failed = beside(lambda: one.query("prompts", {"own": OWN}))
    assert blocks.entered.wait(30)
    one.intent("set_prompt", {"text": "typed meanwhile"})
    blocks.open.set()
    thread.join(30)
    assert one.wait(60)
    n = one.model.n_layers
    assert failed == []
    page, live = [*range(n)], [*range(n)]
    assert blocks.run == [page[0], *live, *page[1:], *page], (
        "behind its first block the page's first prompt stands aside"
    )


def test_what_follows_a_run_stops_for_a_newer_one(one: Session, blocks: Blocks) -> None:
    blocks.shut()
    one.intent("save_prompt", {"text": "a saved prompt, read after the run"})
    assert blocks.entered.wait(30)
    one.intent("set_prompt", {"text": "typed meanwhile"})
    blocks.open.set()
    assert one.wait(60)
    n = one.model.n_layers
    assert blocks.run == [0, *range(n), *range(n)]
    assert one.state.saved[0].tried, "it is read once the run is done"
    assert one.state.saved[0].tokens > 0


def test_a_session_that_is_closed_stops_its_run() -> None:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "a small prompt"})
        assert session.wait(60)
        blocks = Blocks(session.model.hf)
        try:
            session.intent("set_prompt", {"text": "another's hooks are looked at once"})
            assert session.wait(60)
            blocks.shut()
            session.intent("set_prompt", {"text": "too long to wait for"})
            assert blocks.entered.wait(30)
            closing = threading.Thread(target=session.close)
            closing.start()
            while not session._closed.is_set():
                pass
            blocks.open.set()
            closing.join(30)
            assert blocks.run == [0]
        finally:
            for handle in blocks.handles:
                handle.remove()
