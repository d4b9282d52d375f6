"""A link that is opened over somebody's work: read before, opened in one step, and taken back whole."""

from typing import Any

import pytest

from residscope.errors import PromptTooLong
from residscope.session import Session
from residscope.session.settle import SHORT_EXAMPLE
from session import worlds

ABLATE = {"kind": "ablate", "site": "z.1", "head": 1}
SCALE = {"kind": "scale", "site": "mlp_out.0", "factor": 0.5}


def link(session: Session, **more: Any) -> dict[str, Any]:
    return {"hash": session.model.hash, "prompt": "of a link", "bos": False, **more}


def stands(session: Session) -> dict[str, Any]:
    """What a link replaces, in the words of the wire."""
    assert session.wait(60)
    shown = session.snapshot()[1]
    edits = [{"kind": edit["kind"], "site": edit["site"], "label": edit["label"]} for edit in shown["edits"]]
    parts = {part: shown[part] for part in ("prompt", "companion", "metric")}
    return {
        **parts,
        "edits": edits,
        "logits": session.state.run(shown["current"]["b"] or shown["current"]["a"]).last.sum(),
    }


@pytest.fixture
def at_work(one: Session) -> Session:
    one.intent("set_companion", {"text": "a great prompt"})
    one.intent("set_metric", {"positive": "a", "negative": "b"})
    one.intent("set_edits", {"edits": [ABLATE]})
    return one


def test_one_undo_takes_it_back_whole_and_redo_opens_it_again(at_work: Session) -> None:
    before = stands(at_work)
    answer = at_work.intent("open_link", link(at_work, edits=[SCALE], companion={"text": "of a line"}))
    assert answer == {"left_out": [], "lost": ["prompt", "companion", "answers", "edits"]}
    opened = stands(at_work)
    assert (opened["prompt"]["text"], opened["companion"]["text"]) == ("of a link", "of a line")
    assert [edit["kind"] for edit in opened["edits"]] == ["scale"]
    assert not opened["metric"]["chosen"], "a link of guessed answers brings none"
    assert at_work.snapshot()[1]["links"] == {"opened": 1, "undo": True}
    at_work.intent("add_edit", {"edit": ABLATE})
    assert at_work.snapshot()[1]["links"]["undo"] is False
    at_work.intent("undo")
    at_work.intent("undo")
    assert stands(at_work) == before
    at_work.intent("redo")
    assert stands(at_work) == opened
    at_work.intent("undo")
    assert stands(at_work) == before
    assert at_work.snapshot()[1]["links"] == {"opened": 1, "undo": False}


def test_it_is_read_before_and_nothing_changes(at_work: Session) -> None:
    seq = (at_work.wait(60), at_work.snapshot())
    asked = link(
        at_work,
        edits=[SCALE, {"kind": "nonsense"}, {**ABLATE, "site": "z.99"}],
        metric={"positive": "a", "negative": "too long"},
    )
    told = at_work.query("link", asked)
    assert (True, at_work.snapshot()) == seq
    assert told["edits"] == ["scale mlp_out.0, ×0.5"]
    assert [(one["part"], one["index"]) for one in told["left_out"]] == [("answers", 0), ("edits", 1), ("edits", 2)]
    assert told["lost"] == ["prompt", "companion", "answers", "edits"]
    assert at_work.intent("open_link", asked)["left_out"] == told["left_out"]
    assert stands(at_work)["edits"][0]["label"] == told["edits"][0]


@pytest.mark.parametrize(("text", "edits", "lost"), [
    (SHORT_EXAMPLE, [], []), ("of a link", [], []), ("mine", [], ["prompt"]), (SHORT_EXAMPLE, [ABLATE], ["edits"]),
    ("of a link", [SCALE], []), ("mine", [ABLATE], ["prompt", "edits"]),
])  # fmt: skip
def test_what_would_be_lost_is_what_somebody_set_and_the_link_has_not(
    one: Session, text: str, edits: list[Any], lost: list[str]
) -> None:
    one.intent("set_prompt", {"text": text, "bos": False})
    one.intent("set_edits", {"edits": edits})
    assert one.query("link", link(one, edits=[SCALE]))["lost"] == lost


def test_a_prompt_that_is_refused_refuses_the_link(at_work: Session) -> None:
    before = stands(at_work)
    for ask in (at_work.query, at_work.intent):
        with pytest.raises(PromptTooLong):
            ask("link" if ask == at_work.query else "open_link", link(at_work, prompt="x" * 10_000))
    assert stands(at_work) == before


def test_ids_and_roles_count_on_the_model_they_are_of_alone(one: Session) -> None:
    ids = [*one.model.encode("ab", bos=False)][::-1]
    one.intent("open_link", link(one, ids=ids))
    assert [*one.state.prompt.ids] == ids
    one.intent("open_link", link(one, ids=ids, hash="another"))
    assert one.state.prompt.text == "of a link"
    one.intent("open_link", link(one, chat={"messages": [{"role": "user", "content": "hi"}]}))
    assert one.state.prompt.text == "of a link", "this model has no template"


def test_undo_on_another_model_brings_the_words_back(at_work: Session) -> None:
    at_work.intent("open_link", link(at_work))
    at_work.load(worlds.tuned())
    assert at_work.wait(60)
    at_work.intent("undo")
    now = stands(at_work)
    assert (now["prompt"]["text"], now["companion"]["text"]) == ("a small prompt", "a great prompt")
    assert [edit["kind"] for edit in now["edits"]] == ["ablate"]
    assert (now["metric"]["positive"]["text"], now["metric"]["chosen"]) == ("a", True)


def test_a_link_of_what_stands_is_opened_and_leaves_nothing_to_undo(at_work: Session) -> None:
    asked = link(at_work, edits=[SCALE], companion={"text": "of a line"}, metric={"positive": "b", "negative": "a"})
    before = stands(at_work)
    at_work.intent("open_link", asked)
    opened = stands(at_work)
    assert at_work.intent("open_link", asked) == {"left_out": [], "lost": []}
    assert stands(at_work) == opened
    at_work.intent("undo")
    assert stands(at_work) == before
    at_work.intent("redo")
    at_work.intent("add_edit", {"edit": ABLATE})
    at_work.intent("undo")
    assert at_work.intent("open_link", asked)["lost"] == []
    at_work.intent("redo")
    assert len(stands(at_work)["edits"]) == 2
