"""Stacks of edits under names: saved, put back as one step of the history, and there again after a restart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from residscope import edits
from residscope.errors import BadEdit, BadText, NameTaken, NotFound
from residscope.session import Session
from residscope.shelf.stacks import NamedStack, SavedStacks
from session import worlds

PC = {"kind": "mix", "terms": [{"dictionary": "pca@resid_post.1", "index": 1, "weight": 1.0}]}
STACK: list[dict[str, Any]] = [
    {"kind": "ablate", "site": "z.1", "head": 1},
    {"kind": "steer", "site": "resid_post.0", "direction": PC, "strength": 2.0, "enabled": False},
    {"kind": "patch", "site": "mlp_out.0", "source": {"kind": "companion"}},
]


def shown(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def bare(session: Session) -> list[dict[str, Any]]:
    return [{key: value for key, value in edit.items() if key != "id"} for edit in session.query("stack")["edits"]]


@pytest.fixture
def stacked(live: Session) -> Session:
    live.intent("set_prompt", {"text": "abcd"})
    live.intent("set_companion", {"text": "abdd"})
    live.intent("set_edits", {"edits": STACK})
    return live


def test_it_comes_back_whole_as_one_step(stacked: Session) -> None:
    before = bare(stacked)
    stacked.intent("save_stack", {"name": " first "})
    (saved,) = shown(stacked)["stacks"]
    assert (saved["name"], saved["here"], len(saved["labels"])) == ("first", True, 3)
    assert saved["labels"] == [edit["label"] for edit in shown(stacked)["edits"]]
    stacked.intent("set_edits", {"edits": []})
    answer = stacked.intent(
        "set_edits", {"edits": stacked.query("stack", {"name": "first"})["edits"], "skip_refused": True}
    )
    assert answer == {"refused": []}
    assert bare(stacked) == before
    stacked.intent("undo")
    assert bare(stacked) == []


def test_names_are_given_once_unless_one_is_to_make_way(stacked: Session) -> None:
    stacked.intent("save_stack", {"name": "a"})
    with pytest.raises(NameTaken, match="saved already"):
        stacked.intent("save_stack", {"name": "a"})
    stacked.intent("set_edits", {"edits": STACK[:1]})
    stacked.intent("save_stack", {"name": "a", "replace": True})
    assert [len(stack["labels"]) for stack in shown(stacked)["stacks"]] == [1]
    stacked.intent("save_stack", {"name": "b", "edits": STACK})
    with pytest.raises(NameTaken):
        stacked.intent("rename_stack", {"name": "a", "to": "b"})
    stacked.intent("rename_stack", {"name": "a", "to": "c"})
    stacked.intent("delete_stack", {"name": "b"})
    assert [stack["name"] for stack in shown(stacked)["stacks"]] == ["c"]
    for intent, args in (("delete_stack", {"name": "b"}), ("rename_stack", {"name": "b", "to": "d"})):
        with pytest.raises(NotFound, match="Allowed: c"):
            stacked.intent(intent, args)
    with pytest.raises(BadText):
        stacked.intent("save_stack", {"name": " "})
    stacked.intent("set_edits", {"edits": []})
    with pytest.raises(BadEdit, match="no edits to save"):
        stacked.intent("save_stack", {"name": "empty"})


def test_its_file_is_what_python_writes_and_reads(stacked: Session) -> None:
    text = stacked.query("stack_json")["json"]
    made = edits.from_json(text)
    assert [edit.kind for edit in made] == ["ablate", "patch"], "of those that are switched on"
    assert stacked.wait(60)
    run = stacked.state.run(stacked.state.edited)
    assert run is not None
    again = stacked.model.run("abcd", edits=made).logits[0, -1]
    torch.testing.assert_close(again.float(), run.last)
    stacked.intent("set_edits", {"edits": []})
    stacked.intent("import_stack", {"text": text})
    assert stacked.wait(60)
    assert [edit["label"] for edit in shown(stacked)["edits"]] == ["ablate z.1 head 1", "patch mlp_out.0"]
    back = stacked.state.run(stacked.state.edited)
    assert back is not None
    torch.testing.assert_close(back.last, run.last)
    stacked.intent("undo")
    assert shown(stacked)["edits"] == []
    with pytest.raises(BadEdit, match="not JSON"):
        stacked.intent("import_stack", {"text": "nonsense"})


def test_it_is_there_after_a_restart_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    with worlds.session(folder=tmp_path) as session:
        session.intent("set_edits", {"edits": STACK[:2]})
        session.intent("save_stack", {"name": "kept"})
        wanted = session.query("stack", {"name": "kept"})
    with worlds.session(folder=tmp_path) as session:
        assert [stack["name"] for stack in shown(session)["stacks"]] == ["kept"]
        assert session.query("stack", {"name": "kept"}) == wanted
    (tmp_path / "stacks.json").write_text(json.dumps({"version": 1, "stacks": [{"name": 3}]}))
    with worlds.session(folder=tmp_path) as session:
        assert shown(session)["stacks"] == []
        assert any("stacks" in notice and "moved to" in notice for notice in shown(session)["notices"])
        session.intent("set_edits", {"edits": STACK[:1]})
        session.intent("save_stack", {"name": "new"})
    assert [stack.name for stack in SavedStacks(tmp_path).load()[0]] == ["new"]


def test_a_stack_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with worlds.session(folder=tmp_path / "file") as session:
        session.intent("set_edits", {"edits": STACK[:1]})
        before = session.snapshot()
        with pytest.raises(Exception, match="could not be saved"):
            session.intent("save_stack", {"name": "lost"})
        assert session.snapshot() == before


def test_what_another_made_of_a_stack_is_not_deleted_unseen(tmp_path: Path) -> None:
    one = NamedStack("x", "m", "h", ({"kind": "ablate", "site": "z.0"},), ("a",))
    other = replace(one, edits=({"kind": "ablate", "site": "z.1"},))
    first = SavedStacks(tmp_path)
    first.save((one,))
    second = SavedStacks(tmp_path)
    assert second.load()[0] == (one,)
    first.save((other,))
    assert second.save(()) == ((other,), None)
    assert second.save(()) == ((), None)  # seen by now, and wanted gone
