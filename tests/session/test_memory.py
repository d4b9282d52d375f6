"""A session that is started again goes on where it was; and a model that does not come leaves the one there is."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from residscope.errors import NotFound, ResidscopeError
from residscope.session import Session, memory
from residscope.session.state import State
from residscope.world.loaded import Loaded
from session import worlds

EDITS = [
    {"id": "e1", "kind": "ablate", "site": "z.1", "head": 2, "enabled": True},
    {"id": "e2", "kind": "scale", "site": "mlp_out.0", "factor": 0.5, "enabled": False},
]
OFFERS = tuple({"name": name, "about": "", "cached": True} for name in ("tiny", "other"))


def started(path: Path, loads: dict[str, Any] | None = None, model: str | None = None) -> Session:
    """A session on a memory, with its model there."""
    loads = {"tiny": worlds.model(), "other": worlds.model("gpt2")} if loads is None else loads

    def loading(name: str, **_: Any) -> Any:
        if name not in loads:
            raise NotFound("no such model", received=name)
        return loads[name]

    session = Session(load=loading, offers=lambda: OFFERS, memory=path)
    session.load(model or session.last_model or "tiny")
    assert session.wait(60)
    return session


def left(path: Path) -> None:
    """A session that was left with a prompt, answers and edits, one of them switched off."""
    session = started(path)
    session.intent("set_prompt", {"text": "left here", "bos": True})
    session.intent("set_companion", {"text": "right there"})
    session.intent("set_metric", {"positive": "a", "negative": "b"})
    session.intent("set_edits", {"edits": EDITS})
    assert session.wait(60)
    session.close()


def shown(session: Session) -> tuple[Any, ...]:
    state = session.snapshot()[1]
    answers = (state["metric"]["positive"]["text"], state["metric"]["negative"]["text"], state["metric"]["chosen"])
    edits = [(edit["kind"], edit["site"], edit["enabled"]) for edit in state["edits"]]
    return state["prompt"]["text"], state["prompt"]["bos"], answers, edits


BACK = ("left here", True, ("a", "b", True), [("ablate", "z.1", True), ("scale", "mlp_out.0", False)])


def test_it_goes_on_where_it_was_with_the_same_numbers(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "8765.json"
    before = started(path)
    before.intent("set_prompt", {"text": "left here", "bos": True})
    before.intent("set_metric", {"positive": "a", "negative": "b"})
    before.intent("set_edits", {"edits": EDITS})
    assert before.wait(60)
    numbers = load(before.reads.stream(before.state.b))["norm"]
    before.close()
    after = started(path)
    assert shown(after) == BACK
    assert torch.equal(load(after.reads.stream(after.state.b))["norm"], numbers)
    (told,) = after.snapshot()[1]["notices"]
    assert "started again" in told
    assert "2 edits (undo takes them off)" in told
    assert before.state.id != after.state.id
    after.intent("undo")
    assert after.snapshot()[1]["edits"] == []
    after.close()


def test_every_change_is_kept_before_it_is_answered_whatever_runs(tmp_path: Path) -> None:
    path, slow = tmp_path / "m.json", worlds.Slow(worlds.model())
    session = started(path, {"tiny": slow})
    slow.gate.clear()
    session.intent("set_prompt", {"text": "killed later"})
    assert json.loads(path.read_text())["prompt"]["text"] == "killed later"  # no close: as after kill -9
    session.intent("add_edit", {"edit": EDITS[0]})
    assert len(json.loads(path.read_text())["edits"]) == 1
    slow.gate.set()
    assert session.wait(60)
    session.close()


def test_a_model_asked_for_by_name_takes_nothing_of_another(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    left(path)
    other = started(path, model="other")
    assert other.snapshot()[1]["prompt"]["text"] != "left here"
    assert other.snapshot()[1]["edits"] == []
    other.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept | {"edits": [*kept["edits"], {"kind": "no such"}, 5]},
        lambda kept: kept | {"metric": [{"id": 10**9, "text": "a"}, {"id": 1, "text": "b"}]},
        lambda kept: kept | {"metric": "x"},
        lambda kept: kept | {"prompt": {"text": ""}},
        lambda kept: {key: value for key, value in kept.items() if key != "prompt"},
        lambda kept: kept | {"hash": "another"},
    ],
)
def test_what_cannot_be_had_is_named_and_the_rest_comes_back(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "m.json"
    left(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    session = started(path)
    state = session.snapshot()[1]
    assert state["status"]["phase"] == "idle"
    assert [edit["kind"] for edit in state["edits"]] == ["ablate", "scale"]
    (told,) = state["notices"]
    assert "Not back" in told or "others than before" in told
    session.close()


@pytest.mark.parametrize("part", ["prompt", "chat", "companion", "other", "metric", "edits", "dictionaries", "hash"])
@pytest.mark.parametrize("value", [True, 5, 0.5, "x", [], [5], {"x": 1}, {"text": {}}], ids=str)
def test_no_part_of_another_type_is_a_mistake(part: str, value: Any) -> None:
    model = worlds.model()
    prompt = {"text": "When Mary", "bos": None}
    kept = {"version": 1, "model": model.name, "hash": model.hash, "prompt": prompt, "edits": []}
    state = memory.recall(State(model=Loaded(model, {})), kept | {part: value})
    assert state.prompt is not None or "Not back: the prompt" in state.notices[-1]
    assert not state.edits
    assert len(state.notices) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 99}', '{"version": 1, "model": 5}'])
def test_a_damaged_memory_is_moved_aside_and_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    session = started(path)
    assert "could not be read" in session.snapshot()[1]["notices"][0]
    assert next(iter(tmp_path.glob("m.json.damaged-*"))).read_text() == text
    session.close()


def test_a_disk_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    session = started(tmp_path / "file" / "m.json")
    session.intent("set_prompt", {"text": "one"})
    session.wait(60)
    session.intent("set_prompt", {"text": "two"})
    session.wait(60)
    told = [text for text in session.snapshot()[1]["notices"] if "cannot be written" in text]
    assert len(told) == 1
    session.close()


def test_a_failed_load_names_the_model_and_the_old_one_can_be_kept(tmp_path: Path) -> None:
    session = started(tmp_path / "m.json")
    session.intent("load_model", {"name": "absent"})
    session.wait(60)
    status = session.snapshot()[1]["status"]
    assert (status["phase"], status["wanted"], status["error"]["type"]) == ("failed", "absent", "NotFound")
    session.intent("keep_model")
    status = session.snapshot()[1]["status"]
    assert (status["phase"], status["wanted"], status["error"]) == ("idle", None, None)
    session.close()


def test_the_model_that_is_loaded_is_not_loaded_again(tmp_path: Path) -> None:
    session = started(tmp_path / "m.json")
    loaded, seq = session.state.model, session.snapshot()[0]
    session.intent("load_model", {"name": "tiny"})
    session.wait(60)
    assert session.state.model is loaded
    assert session.snapshot()[0] == seq
    session.close()


@pytest.mark.parametrize("keep", [("keep_model", {}), ("load_model", {"name": "tiny"})])
def test_keeping_the_model_stops_the_one_on_its_way(tmp_path: Path, keep: tuple[str, dict[str, str]]) -> None:
    entered, go_on, stopped = threading.Event(), threading.Event(), []
    session = started(tmp_path / "m.json")

    def slowly(name: str, progress: Any, **_: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        try:
            progress("fetching", 1, 2)
        except ResidscopeError:
            stopped.append(name)
            raise
        return worlds.model("gpt2")

    session._load = slowly
    session.intent("load_model", {"name": "other"})
    assert entered.wait(30)
    session.intent(*keep)
    go_on.set()
    assert session.wait(60)
    state = session.snapshot()[1]
    assert stopped == ["other"]
    assert (state["model"]["family"], state["status"]["phase"]) == ("llama", "idle")
    session.close()


def test_components_that_were_fitted_anew_meanwhile_are_named(tmp_path: Path, smollm2: Any) -> None:
    path = tmp_path / "m.json"
    steer = {
        "kind": "steer", "site": "resid_post.9", "strength": 4, "unit": "sd",
        "direction": {"kind": "pca", "site": "resid_post.9", "weights": {"1": 1}},
    }  # fmt: skip
    session = started(path, {"tiny": smollm2})
    session.intent("set_edits", {"edits": [steer]})
    assert session.wait(60)
    session.close()
    kept = json.loads(path.read_text())
    assert kept["dictionaries"] == {"pca@resid_post.9": session.state.model.dictionaries["pca@resid_post.9"].hash}
    for then, told in ((kept["dictionaries"], False), ({"pca@resid_post.9": "0" * 64}, True), (None, True)):
        path.write_text(json.dumps({**kept, "dictionaries": then}))
        again = started(path, {"tiny": smollm2})
        assert ("pca@resid_post.9: not known to be what it was" in again.snapshot()[1]["notices"][-1]) is told
        again.close()
