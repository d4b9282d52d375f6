"""Evidence gathered beside the live run: stage by stage, as the library gathers it; cancelled, refused, kept and let go."""

import time
from typing import Any

import pytest

from methods.readers import TEXTS
from residscope.errors import DirectionError, MalformedJSON, NotFound
from residscope.methods.evidence import evidence
from residscope.session import Session
from session import worlds

TEXT = {"kind": "typed", "name": "mine.txt", "text": "\n\n".join(TEXTS)}
PC = {"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}}
ASKED: dict[str, Any] = {"direction": PC, "text": TEXT, "tokens": 1000}


def wire(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def finish(session: Session) -> dict[str, Any]:
    """The gathering once it is over."""
    for _ in range(6000):
        now = wire(session)["evidence"]
        if now is not None and (now["done"] or now["error"]):
            return now
        time.sleep(0.01)
    raise AssertionError("the gathering did not end")


def test_it_is_the_library_s_evidence_and_comes_stage_by_stage(one: Session) -> None:
    seen: list[tuple[int, int]] = []

    def listen(_: int, patch: dict[str, Any]) -> None:
        if now := patch.get("evidence"):
            parts = one.evidence(now["key"]) if now["revision"] else {}
            seen.append(
                (
                    now["revision"],
                    sum(parts.get(p) is not None for p in ("tokens", "examples", "null", "dose", "removal")),
                )
            )

    one.subscribe(listen)
    key = one.intent("gather_evidence", ASKED)["key"]
    now = finish(one)
    assert now["error"] is None
    assert (now["key"], now["label"]) == (key, "PC 1 of resid_post.1")
    assert sorted(seen) == seen, "nothing is taken back"
    counts = [count for _, count in seen]
    assert {1, 2, 3, 4, 5} <= {*counts}
    told = one.evidence(key)
    direction, model = one.resolve(ASKED["direction"])
    held = evidence(model, direction, TEXTS, tokens=1000)
    assert told["badges"]["correlates"]["sentence"] == held.correlates.sentence
    assert told["badges"]["used"]["sentence"] == held.used.sentence
    assert [e["value"] for e in told["examples"]["top"]] == pytest.approx(
        [e.value for e in held.examples.top], rel=1e-5
    )
    for shown, view in zip(told["dose"], held.dose.curves(), strict=True):
        for line, other in zip(shown["lines"], view.to_dict()["lines"], strict=True):
            assert line["y"] == pytest.approx(other["y"], rel=1e-4, abs=1e-6)  # smaller passes round otherwise
    assert told["removal"][0]["references"][0]["at"] == pytest.approx(float(held.removal.cost.values[0]), rel=1e-4)
    assert [v["kind"] for v in told["null"]] == ["histogram", "histogram"]
    assert told["done"]
    assert told["held_out"] == held.provenance["held out"].replace("texts", "mine.txt"), "the typed text's own name"


def test_what_is_held_costs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        key = session.intent("gather_evidence", ASKED)["key"]
        first = finish(session)
        before = slow.runs
        session.intent("cancel_evidence")
        assert wire(session)["evidence"] is None
        assert session.intent("gather_evidence", ASKED)["key"] == key
        assert finish(session)["revision"] == first["revision"]
        assert slow.runs == before
        other = session.intent("gather_evidence", {**ASKED, "direction": {**PC, "weights": {"0": 1.0}}})["key"]
        assert other != key


def test_live_runs_go_first_and_a_cancel_stops_it() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        key = session.intent("gather_evidence", ASKED)["key"]
        assert slow.entered.wait(10)
        session.intent("set_prompt", {"text": "goes first"})
        slow.gate.set()
        assert session.wait(60)
        assert wire(session)["status"]["phase"] == "idle"
        now = wire(session)["evidence"]
        assert now is not None
        assert not now["done"]
        session.intent("cancel_evidence")
        time.sleep(0.5)
        runs = slow.runs
        time.sleep(0.5)
        assert slow.runs == runs
        assert wire(session)["evidence"] is None
        assert not session.evidence(key)["done"], "what was there stays"


def test_refusals(one: Session) -> None:
    with pytest.raises(NotFound):
        one.evidence("nothing")
    for wrong in ({}, {**ASKED, "tokens": 5}, {**ASKED, "text": {"kind": "file", "name": "/etc/passwd"}}):
        with pytest.raises(MalformedJSON):
            one.intent("gather_evidence", wrong)
    with pytest.raises((NotFound, DirectionError)):
        one.intent("gather_evidence", {**ASKED, "direction": {"kind": "saved", "name": "unknown"}})
    one.intent("gather_evidence", {**ASKED, "text": {"kind": "typed", "name": "short", "text": "abc"}})
    assert finish(one)["error"]["type"] == "EmptyCorpus"
    assert wire(one)["evidence"]["error"]["fix"]


def test_another_model_lets_it_go(one: Session) -> None:
    key = one.intent("gather_evidence", ASKED)["key"]
    finish(one)
    one.load(worlds.model("gpt2"))
    assert one.wait(60)
    assert wire(one)["evidence"] is None
    with pytest.raises(NotFound):
        one.evidence(key)
