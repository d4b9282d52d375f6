"""What the page is told of the state and of every answer is what a session says."""

import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
from jaxtyping import Float32
from safetensors.torch import save as pack
from torch import Tensor, ones

from residscope.server import Server, library
from residscope.server.said import Said, schema
from residscope.session import Session
from residscope.session.compute import TensorFile
from residscope.session.intents import INTENTS
from residscope.session.queries import QUERIES
from server.asking import PC, ask, do, send
from server.test_blind import as_guesses, begin, guess, truth
from session import worlds
from session.asked import Gate, declared, result, start
from session.test_queries import asked as asked
from wire_shapes import SAID, WEB, Heard, hearing, misfits, misfits_of_answer, misfits_of_file

TEXT = {"kind": "builtin", "name": "python-docs"}
STEER = {"kind": "steer", "site": "resid_post.1", "direction": PC, "strength": 2.0}


def test_the_committed_schema_is_fresh() -> None:
    committed = (WEB / "said.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == schema(), "run `make view-types`"


def test_every_intent_and_query_has_a_type_of_answer() -> None:
    told = {kind: part["properties"] for kind, part in schema()["properties"].items() if kind != "state"}
    assert {*told["intents"]} == {*INTENTS, *library.INTENTS}
    assert {*told["queries"]} == {*QUERIES, *library.QUERIES}
    untold = [name for part in told.values() for name, shape in part.items() if not shape]
    assert untold == [], "an answer of Any is one that nobody has said"


@pytest.mark.parametrize("name", INTENTS)
def test_an_intent_s_answer_is_what_its_function_gives(name: str) -> None:
    """Where that is the session's to give, its function gives none of its own."""
    intent = INTENTS[name]
    _, value = typing.get_args(typing.get_type_hints(intent.apply)["return"])
    assert value in (intent.answer_type, type(None))


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_s_answer_fits(asked: tuple[Session, dict[str, Any]], name: str) -> None:
    session, args = asked
    assert misfits_of_answer(session.query(name, args[name]), "queries", name) == []


def test_the_state_of_a_session_that_has_one_of_everything_fits(asked: tuple[Session, dict[str, Any]]) -> None:
    state = json.loads(json.dumps(asked[0].snapshot()[1]))
    assert [*misfits(state, SAID["properties"]["state"])] == []
    assert all(state[part] for part in ("model", "prompt", "metric", "runs", "probes", "jobs"))
    assert state["items"]["items"]


def everything_done(session: Session) -> None:
    """Every intent of the session's own, with a stack of edits of which one is refused, and jobs that end in every way."""
    model, gate = session.model, Gate()
    session.intent("load_model", {"name": "another"})
    assert session.wait(60)
    session.intent("keep_model")
    session.intent("cancel_run")
    session.intent("set_prompt", {"text": "abcd"})
    session.intent("set_companion", {"text": "abd"})
    session.intent("swap_companion")
    session.intent("swap_companion")
    session.intent("set_tokens", {"ids": [*session.state.prompt.ids]})
    session.intent("compare_companion")
    template, session.model.tokenizer.chat_template = session.model.tokenizer.chat_template, "{{ messages[0].content }}"
    session.intent("set_chat", {"messages": [{"role": "user", "content": "abcd"}]})
    session.model.tokenizer.chat_template = template
    session.intent("set_other", {"model": "another"})
    assert session.wait(60)
    session.intent("set_metric", {"positive": "a", "negative": "b"})
    session.intent("add_edit", {"edit": STEER})
    answer = session.intent("set_edits", {"edits": [STEER, {"kind": "nonsense"}], "skip_refused": True})
    assert [one["index"] for one in answer["refused"]] == [1]
    session.intent("set_edits", {"edits": [STEER]})
    session.intent("open_link", {"hash": "another", "prompt": "abcd", "edits": [{"kind": "nonsense"}, STEER]})
    session.intent("undo")
    session.intent("redo")
    session.intent("save_stack", {"name": "first"})
    session.intent("rename_stack", {"name": "first", "to": "other"})
    session.intent("import_stack", {"text": session.query("stack_json", {"name": "other"})["json"]})
    session.intent("delete_stack", {"name": "other"})
    session.intent("save_stack", {"name": "kept"})
    session.intent("select", {"layer": 1, "pos": 1})
    session.intent("save_prompt", {"text": "saved"})
    assert session.wait(60)
    session.intent("compare_run", {"run": session.snapshot()[1]["runs"][0]["id"]})
    session.intent("restore_run", {"run": session.snapshot()[1]["runs"][0]["id"]})
    session.intent("forget_prompt", {"text": "saved"})
    session.intent("python", {"direction": PC})
    vectors = {"read": ones(model.d_model)}
    session.intent("import_direction", {"data": pack(vectors, metadata={"name": "mine"})})
    session.intent("draw_prompts", {"text": {**TEXT}, "n": 1, "length": 8})
    with declared(good=lambda model: result(), bad=lambda model: 1 / 0, slow=gate.stand):
        start(session, "good", name="kept")
        left = session.intent("start", {"method": "good", "keep": False})["job"]
        start(session, "bad")
        assert session.wait(60)
        session.intent("keep_made", {"job": left, "name": "kept later"})
        running = start(session, "slow")
        assert gate.entered.wait(60)
        session.query("job", {"job": running})  # which has given nothing yet
        session.intent("cancel", {"job": running})
        gate.leave.set()
        assert session.wait(60)
    session.intent("rename_item", {"name": "kept", "to": "mine"})
    kept = session.reads.item_file("mine", ".safetensors")[1]
    session.intent("import_item", {"data": kept, "name": "back"})
    start(session, "pca", corpus={**TEXT}, site="resid_post.0", n=2, tokens=1000)
    assert session.wait(60)
    fitted = next(one for one in session.snapshot()[1]["model"]["dictionaries"] if not one["shipped"])
    term = {"dictionary": fitted["id"], "index": 1, "weight": 1.0}
    session.intent("add_edit", {"edit": {**STEER, "direction": {"kind": "mix", "terms": [term]}}})
    start(session, "atlas", name="atlas", corpus={**TEXT}, dictionary=fitted["id"], tokens=1000, k=2)
    assert session.wait(60)
    session.intent("export_features", {"atlas": "atlas"})
    assert session.wait(60)
    session.intent("forget_dictionary", {"id": fitted["id"]})
    assert session.snapshot()[1]["edits"][-1]["error"], "what it was made of is gone"
    draw = {"prompt": {"kind": "live"}, "dictionaries": ["pca@resid_post.0", "pca@resid_post.1"], "tokens": 0}
    start(session, "causal-graph", name="graph", **draw)
    assert session.wait(60)
    graph: dict[str, Any] = {"item": "graph"}
    nodes = [node.id for node in session.items["graph"].nodes[:2]]
    session.intent("name_node", {**graph, "node": nodes[0], "name": "mine"})
    session.intent("group_nodes", {**graph, "nodes": nodes, "name": "pair"})
    session.intent("rename_group", {**graph, "name": "pair", "to": "two"})
    session.intent("ungroup_nodes", {**graph, "name": "two"})
    session.intent("undo_graph", graph)
    session.intent("delete_item", {"name": "back"})
    session.intent("restore_item")


def test_every_intent_s_answer_fits_and_all_that_the_state_was_on_the_way(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("residscope.world.loaded.shipped", worlds.components)
        with hearing() as heard, worlds.session(folder=tmp_path) as session:
            everything_done(session)
    assert heard.misfits == []
    assert {name for kind, name in heard.answered if kind == "intents"} == {*INTENTS}
    assert heard.told | {"session", "models", "probes", "notices", "present", "library"} == {
        *SAID["definitions"]["State"]["properties"]
    }


def test_every_answer_of_the_library_fits(person: Callable[..., httpx.Client], with_library: Server) -> None:
    with hearing() as heard:
        ada, bob = person(), person("bob")
        do(ada, "library_sign_in", name="ada")
        ask(ada, "library_me")
        ask(ada, "library_features", dictionary="0" * 64)
        entry = do(ada, "library_save", direction=PC, name="as told", description="high on capital letters").json()[
            "value"
        ]
        ask(bob, "library_search", text="as told", limit=1)
        described = ask(bob, "library_read", id=entry["id"]).json()["descriptions"][0]
        do(bob, "library_vote", id=described["id"], value=1)
        test = begin(bob, described)
        assert guess(bob, test, as_guesses(truth(with_library, test))).status_code == 200
        assert ask(bob, "library_read", id=entry["id"]).json()["descriptions"][0]["blind"]["people"] == 1
        comment = do(bob, "library_comment", id=entry["id"], text="hm").json()["value"]
        do(bob, "library_describe", id=entry["id"], text="another")
        do(ada, "library_edit_description", id=described["id"], text="edited")
        do(ada, "library_rename", id=entry["id"], name="renamed as told")
        do(ada, "library_open", id=entry["id"])
        send(bob, "library_import", ada.get(f"api/library/directions/{entry['id']}/file").content)
        do(bob, "library_delete_comment", id=comment["id"])
        do(ada, "library_delete_description", id=described["id"])
        do(ada, "library_undo", event=do(ada, "library_delete", id=entry["id"]).json()["value"]["event"])
        assert ask(bob, "library_alike", direction=PC).status_code == 200
        assert ask(bob, "library_somebody", name="bob").status_code == 200
        do(ada, "library_sign_out")
    assert heard.misfits == []
    assert {name for kind, name in heard.answered if kind == "intents"} == {*library.INTENTS}
    assert {name for kind, name in heard.answered if kind == "queries"} == {*library.QUERIES}


# ── the control: what does not fit is found ─────────────────────────────────────────────────────────────────────

GRAM = {"of": [["pca@resid_post.1", 0]], "gram": [[1.0]]}


@pytest.mark.parametrize(
    "wrong",
    [
        {**GRAM, "more": 1},
        {"of": GRAM["of"]},
        {**GRAM, "of": [["pca@resid_post.1"]]},
        {**GRAM, "of": [["pca@resid_post.1", "0"]]},
        {**GRAM, "gram": [[None]]},
        {**GRAM, "gram": [[True]]},
    ],
)
def test_an_answer_that_is_another_than_told_is_found(wrong: dict[str, Any]) -> None:
    assert misfits_of_answer(GRAM, "queries", "gram") == []
    assert len(misfits_of_answer(wrong, "queries", "gram")) == 1


def test_a_patch_that_is_another_than_told_is_found() -> None:
    heard = Heard()
    heard.patch({"selection": {"layer": 1, "pos": 0}, "can_undo": True})
    assert heard.misfits == []
    for _ in range(2):  # what did not fit is not taken for known
        heard.patch({"selection": {"layer": 1}, "nonsense": 1})
    assert len(heard.misfits) == 4


def test_a_picture_is_held_to_what_is_told_of_views() -> None:
    detail = {"job": "j1", "revision": 0, "done": True, "table": None}
    assert misfits_of_answer({**detail, "views": []}, "queries", "job") == []
    assert misfits_of_answer({**detail, "views": [{"kind": "heat map"}]}, "queries", "job")


class Two(TypedDict):
    norm: Float32[Tensor, "row pos"]
    sigma: typing.NotRequired[Float32[Tensor, "d"]]


class File(TensorFile[Two, typing.Literal["rows"]]): ...


@pytest.mark.parametrize(
    ("tensors", "metadata", "faults"),
    [
        ({"norm": ones(2, 3)}, {"rows": "[]"}, 0),
        ({"norm": ones(2, 3), "sigma": ones(3)}, {"rows": "[]"}, 0),
        ({"sigma": ones(3)}, {"rows": "[]"}, 1),
        ({"norm": ones(2, 3)}, {}, 1),
        ({"norm": ones(2, 3)}, {"rows": "[]", "cols": "[]"}, 1),
        ({"norm": ones(3)}, {"rows": "[]"}, 1),
        ({"norm": ones(2, 3).double()}, {"rows": "[]"}, 1),
        ({"norm": ones(2, 3), "more": ones(1)}, {"rows": "[]"}, 1),
    ],
)
def test_a_file_is_held_to_the_tensors_that_are_told_of(tensors: Any, metadata: dict[str, str], faults: int) -> None:
    shape = Said().of(File)
    assert len([*misfits_of_file(File.of(tensors, metadata), shape, at="file")]) == faults


def test_two_parts_of_one_name_are_refused() -> None:
    shapes = Said()
    shapes.of(TypedDict("Gram", {"of": int}))
    with pytest.raises(TypeError, match="would both be Gram"):
        shapes.of(QUERIES["gram"].answer_type)


def test_a_type_that_says_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="say it with"):
        Said().of(Iterator[int])
