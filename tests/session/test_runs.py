"""A run that takes long says how far it is, and can be let go of; the history keeps each run's own metric and words."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from residscope.session import Session, session

ABLATE = {"kind": "ablate", "site": "z.1", "head": 2}


def wire(one: Session) -> Any:
    return one.snapshot()[1]


@pytest.fixture
def slow(one: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator["Gate"]:
    """The session's model stops in its last block while the gate is shut."""
    monkeypatch.setattr(session, "PATIENCE", -1.0)
    monkeypatch.setattr(session, "PROGRESS_EVERY", -1.0)
    gate = Gate()
    block = one.state.model.model.hf.model.layers[0]
    handle = block.register_forward_hook(lambda *_: gate.passed())
    one.state.model.model.run("a")  # another's hook is looked at once
    yield gate
    gate.open.set()
    handle.remove()


class Gate:
    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def passed(self) -> None:
        self.entered.set()
        assert self.open.wait(30)

    def shut(self) -> None:
        self.entered.clear()
        self.open.clear()


def test_a_long_run_tells_how_far_it_is(one: Session, slow: Gate) -> None:
    told: list[float] = []
    *_, stop = one.subscribe(lambda _, patch: told.append(patch.get("status", {}).get("progress")))
    one.intent("set_prompt", {"text": "another small prompt"})
    assert one.wait(60)
    stop()
    shares = [share for share in told if share is not None]
    assert shares == sorted(shares)
    assert 0 < max(shares) < 1
    assert wire(one)["status"]["progress"] is None


def test_a_run_under_way_is_let_go_of_and_what_was_on_screen_is_back(one: Session, slow: Gate) -> None:
    before = wire(one)
    slow.shut()
    one.intent("set_prompt", {"text": "too long to wait for"})
    assert slow.entered.wait(30)
    one.intent("cancel_run")
    slow.open.set()
    assert one.wait(60)
    after = wire(one)
    assert after["prompt"] == before["prompt"]
    assert after["current"] == before["current"]
    assert [run["prompt"] for run in after["runs"]] == ["The", "a small prompt"], "the one let go of is no run"
    assert after["status"]["phase"] == "idle"
    assert {run["id"]: run["version"] for run in after["runs"]}[after["current"]["a"]] == after["version"]


def test_a_newer_run_takes_the_place_of_one_under_way_in_the_middle_of_it(one: Session, slow: Gate) -> None:
    passed: list[int] = []
    handle = one.state.model.model.hf.model.layers[-1].register_forward_hook(lambda *_: passed.append(1))
    one.intent("set_prompt", {"text": "the first with a hook of another's, which is looked at"})
    assert one.wait(60)
    passed.clear()
    slow.shut()
    one.intent("set_prompt", {"text": "an older one"})
    assert slow.entered.wait(30)
    one.intent("set_prompt", {"text": "a newer one"})
    slow.open.set()
    assert one.wait(60)
    handle.remove()
    assert wire(one)["runs"][-1]["prompt"] == "a newer one"
    assert len(passed) == 1, "the older run did not reach the last block"


def test_nothing_under_way_nothing_to_let_go_of(one: Session) -> None:
    seq = one.snapshot()[0]
    one.intent("cancel_run")
    assert one.snapshot()[0] == seq


def test_each_run_of_the_history_keeps_its_own_metric(one: Session) -> None:
    one.intent("set_metric", {"positive": "a", "negative": "b"})
    one.intent("set_prompt", {"text": "first"})
    assert one.wait(60)
    first = wire(one)["runs"][-1]
    one.intent("set_prompt", {"text": "second"})
    one.intent("set_metric", {"positive": "x", "negative": "y"})
    assert one.wait(60)
    runs = {run["prompt"]: run for run in wire(one)["runs"]}
    own = runs["first"]["own"]
    assert (own["positive"]["text"], own["negative"]["text"]) == ("a", "b")
    assert own["value"] == first["metric"]
    assert runs["first"]["metric"] != first["metric"], "the state's, for whoever compares"
    assert runs["second"]["own"]["positive"]["text"] == "x"
    assert runs["second"]["own"]["value"] == runs["second"]["metric"]


def test_a_run_names_its_newest_edit(one: Session) -> None:
    steer = {
        "kind": "steer", "site": "resid_post.1", "strength": -2.5, "unit": "sd",
        "direction": {"kind": "pca", "site": "resid_post.1", "weights": {"2": 1}},
    }  # fmt: skip
    one.intent("set_edits", {"edits": [ABLATE, steer]})
    assert one.wait(60)
    run = wire(one)["runs"][-1]
    assert run["newest"] == "steer PC 2 of resid_post.1, −2.5σ"
    assert run["label"] == f"ablate z.1 head 2 + {run['newest']}"
    elsewhere = {**steer, "site": "resid_post.0", "strength": 4}
    one.intent("set_edits", {"edits": [elsewhere, {"kind": "scale", "site": "mlp_out.0", "factor": 0.5}]})
    assert one.wait(60)
    labels = [edit["label"] for edit in wire(one)["edits"]]
    assert labels == ["steer PC 2 of resid_post.1 at resid_post.0, +4σ", "scale mlp_out.0, ×0.5"]


def test_an_edit_of_several_directions_names_them_all(one: Session) -> None:
    pcs = [{"kind": "pca", "site": "resid_post.1", "weights": {str(i): 1}} for i in (0, 2)]
    one.intent("add_edit", {"edit": {"kind": "project_out", "site": "resid_post.1", "direction": pcs}})
    assert wire(one)["edits"][0]["label"] == "project_out PC 0 of resid_post.1, PC 2 of resid_post.1"
