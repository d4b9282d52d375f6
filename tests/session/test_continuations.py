"""Generating beside the live run: both sides stream, give way, stop where they are, and a token is looked into by its ids."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope import edits
from residscope.errors import NotFound, ResidscopeError
from residscope.fields.prompts import TypedPrompts
from residscope.session import Session
from session import worlds
from session.asked import WAIT, jobs, start
from tiny_models import IOI

CUT = {"kind": "ablate", "site": "z.23", "head": [3, 1], "to": "zero"}
PYTHON_CUT = [edits.ablate("z.23", head=[3, 1])]
NEW = 8


@pytest.fixture(scope="module")
def real(smollm2: Any) -> Iterator[Session]:
    with worlds.session(smollm2) as session:
        yield session


@pytest.fixture
def live(real: Session) -> Session:
    real.intent("set_prompt", {"text": IOI})
    real.intent("set_edits", {"edits": [CUT]})
    assert real.wait(WAIT)
    return real


def generate(session: Session, **args: Any) -> str:
    return start(
        session, "continuations", **{"prompt": {"kind": "live"}, "edits": "live", "max_new_tokens": NEW, **args}
    )


def until(session: Session, job: str, revision: int) -> dict[str, Any]:
    end = time.monotonic() + WAIT
    while jobs(session)[job]["revision"] < revision:
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)
    return dict(session.query("continuations", {"job": job}))


def test_both_sides_are_pythons_and_the_item_says_the_same(live: Session, smollm2: Any) -> None:
    how = {"temperature": 0.8, "top_p": 0.9, "seed": 4, "n": 2}
    job = generate(live, **how)
    first = until(live, job, 1)
    assert len(first["draws"]) == 1, "one draw after the other"
    assert 1 <= len(first["draws"][0]["baseline"]["tokens"]) <= NEW
    assert live.wait(WAIT)
    found = live.query("continuations", {"job": job})
    python = rs.continuations(smollm2, IOI, edits=PYTHON_CUT, max_new_tokens=NEW, **how)
    assert found["done"]
    assert found["edits"] == "live"
    assert found["prompt"] == [*python.prompt]
    for shown, own in zip(found["draws"], python.draws, strict=True):
        assert (shown["seed"], shown["same"], shown["said"]) == (own.seed, own.same, own.said)
        for name, run in (("baseline", own.baseline), ("edited", own.edited)):
            assert run is not None
            assert [token["id"] for token in shown[name]["tokens"]] == [*run.ids]
            assert [token["log_prob"] for token in shown[name]["tokens"]] == [*run.log_probs]
            assert [token["other"] for token in shown[name]["tokens"]] == [*run.other]
            assert shown[name]["text"] == run.text
    (item,) = jobs(live)[job]["items"]
    kept = live.query("continuations", {"item": item})
    assert kept["draws"] == found["draws"]
    code = live.query("item", {"name": item})["code"]
    scope: dict[str, Any] = {}
    exec(code.replace("rs.load(", "(lambda *_, **__: model)("), {"model": smollm2}, scope)
    assert scope["result"] == python


def test_what_is_left_with_its_job_goes_on_the_shelf_when_somebody_says_so(live: Session, smollm2: Any) -> None:
    before = {*live.items}
    args = {"prompt": {"kind": "live"}, "edits": [CUT], "max_new_tokens": 3}
    job = live.intent("start", {"method": "continuations", "args": args, "keep": False})["job"]
    with pytest.raises(NotFound, match="wait until"):
        live.intent("keep_made", {"job": job})
    assert live.wait(WAIT)
    assert {*live.items} == before
    assert jobs(live)[job]["items"] == []
    assert jobs(live)[job]["note"] == ""
    found = live.query("continuations", {"job": job})
    assert [edit["kind"] for edit in found["edits"]] == ["ablate"]
    scope: dict[str, Any] = {}
    exec(found["code"].replace("rs.load(", "(lambda *_, **__: model)("), {"model": smollm2}, scope)
    (name,) = live.intent("keep_made", {"job": job, "name": "My story"})["names"]
    assert name == "My story"
    assert live.items[name] == scope["result"]
    assert jobs(live)[job]["items"] == [name]
    kept = live.query("continuations", {"item": name})
    assert (kept["draws"], kept["edits"], kept["code"]) == (found["draws"], found["edits"], found["code"])
    with pytest.raises(NotFound):
        live.intent("keep_made", {"job": job})
    live.intent("delete_item", {"name": name})


def test_a_live_run_goes_first_and_the_generation_goes_on(live: Session) -> None:
    job = generate(live, max_new_tokens=40)
    before = until(live, job, 3)
    live.intent("set_prompt", {"text": "The Eiffel Tower is in the city of"})
    version, end = live.state.version, time.monotonic() + WAIT
    while live.state.run(live.state.edited) is None or live.state.run(live.state.edited).version < version:  # type: ignore[union-attr]
        assert time.monotonic() < end
        time.sleep(0.005)
    after = live.query("continuations", {"job": job})
    assert not after["done"], "the run did not wait for it"
    assert len(after["draws"][0]["baseline"]["tokens"]) - len(before["draws"][0]["baseline"]["tokens"]) < 25
    assert after["prompt"] == before["prompt"], "it goes on with the prompt that it was asked for"
    live.intent("cancel", {"job": job})
    assert live.wait(WAIT)


def test_a_live_run_does_not_wait_for_the_reading_of_a_long_prompt(live: Session, smollm2: Any) -> None:
    began = time.monotonic()
    with torch.no_grad():
        smollm2.hf(smollm2.tokens("word " * 1500))
    long = time.monotonic() - began
    job = start(live, "continuations", prompt={"kind": "typed", "texts": ["word " * 1500]}, max_new_tokens=4)
    end = time.monotonic() + WAIT
    while jobs(live)[job]["phase"] == "waiting":
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.1 * long)  # it is in the middle of it
    began = time.monotonic()
    live.intent("set_prompt", {"text": "a short prompt"})
    version = live.state.version
    while live.state.run(live.state.edited) is None or live.state.run(live.state.edited).version < version:  # type: ignore[union-attr]
        assert time.monotonic() < end
        time.sleep(0.005)
    assert time.monotonic() - began < 0.6 * long
    assert jobs(live)[job]["phase"] == "running"
    assert live.query("job", {"job": job})["revision"] == 0
    live.intent("cancel", {"job": job})
    assert live.wait(WAIT)


def test_stopped_it_keeps_what_had_come(live: Session, smollm2: Any) -> None:
    job = generate(live, max_new_tokens=60)
    until(live, job, 4)
    live.intent("cancel", {"job": job})
    assert live.wait(WAIT)
    assert jobs(live)[job]["phase"] == "cancelled"
    found = live.query("continuations", {"job": job})
    came = [token["id"] for token in found["draws"][0]["edited"]["tokens"]]
    assert 3 < len(came) < 60
    assert tuple(came) == smollm2.generate(IOI, PYTHON_CUT, len(came)).ids
    (item,) = jobs(live)[job]["items"]
    assert "cut short" in item
    assert live.query("continuations", {"item": item})["draws"] == found["draws"]


def test_a_generated_token_is_looked_into_by_its_ids_with_the_logits_of_the_generation(
    live: Session, smollm2: Any
) -> None:
    ids = [*smollm2.tokens(IOI)[0].tolist(), *smollm2.generate(IOI, PYTHON_CUT, 3).ids]
    live.intent("set_tokens", {"ids": ids})
    assert live.wait(WAIT)
    state = live.snapshot()[1]
    assert [token["id"] for token in state["prompt"]["tokens"]] == ids
    assert state["selection"]["pos"] == len(ids) - 1
    assert not state["prompt"]["by_ids"], "its text is read as the same tokens, so it is as if it had been typed"
    assert len(state["edits"]) == 1
    run = live.state.run(live.state.edited)
    assert run is not None
    torch.testing.assert_close(run.last, smollm2.run([ids], edits=PYTHON_CUT).logits[0, -1], atol=2e-4, rtol=1e-4)


SPLIT = [" he", "llo"]  # the tokenizer reads " hello" as one


def test_ids_that_no_text_gives_are_kept_as_they_are_and_say_so(live: Session, smollm2: Any, tmp_path: Path) -> None:
    ids = [smollm2.token_id("I"), smollm2.token_id(" say"), *(smollm2.token_id(part) for part in SPLIT)]
    assert smollm2.encode("I say hello") != ids
    live.intent("set_tokens", {"ids": ids})
    assert live.wait(WAIT)
    prompt = live.snapshot()[1]["prompt"]
    assert prompt["by_ids"]
    assert prompt["text"] == "I say hello"
    assert [token["text"] for token in prompt["tokens"]] == ["I", " say", *SPLIT]
    run = live.state.run(live.state.baseline)
    assert run is not None
    torch.testing.assert_close(run.last, smollm2.run([ids]).logits[0, -1], atol=2e-4, rtol=1e-4)
    assert repr(ids) in live.intent("python", {})["code"]
    args = {"prompt": {"kind": "live"}, "max_new_tokens": 2}
    assert repr(ids) in live.query("python", {"method": "continuations", "args": args})["code"]
    typed = {"kind": "typed", "texts": ["I say hello"], "ids": [ids]}
    assert live.state.world().prompts(TypedPrompts.model_validate(typed)) == [ids]
    assert repr([ids]) in live.query("python", {"method": "continuations", "args": {"prompt": typed}})["code"]
    live.intent("set_prompt", {"text": "I say hi now"})
    patch = {"kind": "patch", "site": "resid_pre.3", "source": {"kind": "run", "run": run.id}}
    live.intent("set_edits", {"edits": [patch]})
    assert live.wait(WAIT)
    patched = live.state.run(live.state.edited)
    assert patched is not None
    same = edits.patch("resid_pre.3", source=[ids])
    torch.testing.assert_close(
        patched.last, smollm2.run("I say hi now", edits=[same]).logits[0, -1], atol=2e-4, rtol=1e-4
    )
    assert repr(ids) in live.intent("python", {})["code"]


def test_a_session_that_is_started_again_has_the_same_ids(tmp_path: Path, smollm2: Any) -> None:
    ids = [smollm2.token_id("I"), smollm2.token_id(" say"), *(smollm2.token_id(part) for part in SPLIT)]

    def begun() -> Session:
        session = Session(load=lambda name, **_: smollm2, offers=tuple, memory=tmp_path / "8765.json")
        session.load("smollm2-135m")
        assert session.wait(WAIT)
        return session

    first = begun()
    first.intent("set_tokens", {"ids": ids})
    assert first.wait(WAIT)
    first.close()
    assert json.loads((tmp_path / "8765.json").read_text())["prompt"]["ids"] == ids
    second = begun()
    assert second.state.prompt is not None
    assert second.state.prompt.ids == tuple(ids)
    assert second.state.prompt.by_ids
    second.close()


@pytest.mark.parametrize("ids", [[10**9], [-1]])
def test_ids_that_the_model_has_not_are_refused_and_nothing_is_changed(live: Session, ids: list[int]) -> None:
    before = live.state.prompt
    with pytest.raises(ResidscopeError, match="token"):
        live.intent("set_tokens", {"ids": ids})
    assert live.state.prompt is before


def test_what_is_no_continuation_is_refused(live: Session) -> None:
    with pytest.raises(NotFound):
        live.query("continuations", {"job": "j999"})
    with pytest.raises(NotFound):
        live.query("continuations", {"item": "nothing of that name"})


def test_its_file_is_read_again(live: Session, tmp_path: Path) -> None:
    job = generate(live, max_new_tokens=2)
    assert live.wait(WAIT)
    (item,) = jobs(live)[job]["items"]
    _, data = live.reads.item_file(item, ".safetensors")
    assert load(data) is not None
    (tmp_path / "it.safetensors").write_bytes(data)
    assert rs.load_item(tmp_path / "it.safetensors") == live.items[item]
    rows = live.reads.item_file(item, ".csv")[1].decode().splitlines()
    assert rows[0] == "seed,run,token,id,text,log_prob,other,difference"
    assert len(rows) == 5
