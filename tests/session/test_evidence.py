"""Evidence gathered beside the live run: stage by stage, as the library gathers it; cancelled, refused, kept and let go."""

import time
from typing import Any

import pytest

from methods.readers import TEXTS
from residscope.errors import BadArguments, DirectionError, NotFound
from residscope.methods.evidence.evidence import evidence
from residscope.session import Session
from session import worlds

TEXT = {"kind": "typed", "name": "mine.txt", "text": "\n\n".join(TEXTS)}
PC = {"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}}
ASKED: dict[str, Any] = {"direction": PC, "corpus": TEXT, "tokens": 1000}


def wire(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def start(session: Session, args: Any = ASKED) -> str:
    return session.intent("start", {"method": "evidence", "args": args})["job"]


def finish(session: Session, id: str) -> dict[str, Any]:
    """The job once it is over."""
    assert session.wait(60)
    return next(job for job in wire(session)["jobs"] if job["id"] == id)


def test_it_is_the_library_s_evidence_and_comes_stage_by_stage(one: Session) -> None:
    seen: list[tuple[int, int]] = []

    def listen(_: int, patch: dict[str, Any]) -> None:
        for now in patch.get("jobs", ()):
            parts = one.reads.evidence(job=now["id"]) if now["revision"] else {}
            seen.append(
                (
                    now["revision"],
                    sum(parts.get(p) is not None for p in ("tokens", "examples", "null", "dose", "removal")),
                )
            )

    one.subscribe(listen)
    now = finish(one, start(one))
    assert now["error"] is None
    assert now["args"]["direction"] == PC
    assert sorted(seen) == seen, "nothing is taken back"
    counts = [count for _, count in seen]
    assert {1, 2, 3, 4, 5} <= {*counts}
    told = one.reads.evidence(item=now["items"][0])
    assert told["label"] == "PC 1 of resid_post.1"
    direction, model = one.reads.resolve(ASKED["direction"])
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


def test_live_runs_go_first_and_a_cancel_stops_it() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        id = start(session)
        assert slow.entered.wait(10)
        session.intent("set_prompt", {"text": "goes first"})
        slow.gate.set()
        assert session._worker.wait(60)
        assert wire(session)["status"]["phase"] == "idle"
        assert wire(session)["jobs"][0]["phase"] != "done"
        session.intent("cancel", {"job": id})
        assert session.wait(60)
        runs = slow.runs
        time.sleep(0.5)
        assert slow.runs == runs
        assert wire(session)["jobs"][0]["phase"] == "cancelled"


def test_refusals(one: Session) -> None:
    with pytest.raises(NotFound):
        one.reads.evidence(item="nothing")
    with pytest.raises(NotFound):
        one.reads.evidence(job="j99")
    for wrong in ({}, {**ASKED, "tokens": 5}, {**ASKED, "corpus": {"kind": "file", "name": "/etc/passwd"}}):
        with pytest.raises(BadArguments):
            start(one, wrong)
    with pytest.raises((NotFound, DirectionError)):
        start(one, {**ASKED, "direction": {"kind": "saved", "name": "unknown"}})
    now = finish(one, start(one, {**ASKED, "corpus": {"kind": "typed", "name": "short", "text": "abc"}}))
    assert (now["phase"], now["error"]["type"]) == ("failed", "EmptyCorpus")
    assert now["error"]["fix"]


def test_another_model_lets_it_go(one: Session) -> None:
    now = finish(one, start(one))
    one.load(worlds.model("gpt2"))
    assert one.wait(60)
    assert wire(one)["jobs"] == []
    with pytest.raises(NotFound):
        one.reads.evidence(item=now["items"][0])
