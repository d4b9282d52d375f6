"""The session: intents change state and nothing else does, results answer what was asked last, refusals leave no trace."""

import threading
from collections import Counter
from typing import Any

import pytest
import torch
from safetensors.torch import load

from residscope import edits
from residscope.directions import logit_diff
from residscope.engine.recording import Recording
from residscope.errors import (
    AbsentSite,
    BadEdit,
    DirectionError,
    EmptyPrompt,
    MalformedJSON,
    NotFound,
    PromptTooLong,
    ResidscopeError,
    UnknownHead,
    UnknownLayer,
    UnknownPosition,
    UnknownSite,
    UnknownToken,
    ZeroDirection,
    explain,
)
from residscope.session import Session, compute
from session import worlds

ABLATE = {"kind": "ablate", "site": "z.1", "head": 2}
SCALE = {"kind": "scale", "site": "mlp_out.2", "factor": 0.25}
FREEZE = {"kind": "freeze", "site": "pattern.3"}
STEER = {
    "kind": "steer",
    "site": "resid_post.1",
    "direction": {"kind": "pca", "site": "resid_post.1", "weights": {"0": 1.0, "2": -2.0}},
    "strength": 3.0,
    "unit": "sd",
}


def wire(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def b_run(session: Session) -> dict[str, Any]:
    state = wire(session)
    wanted = state["current"]["b"] or state["current"]["a"]
    return next(run for run in state["runs"] if run["id"] == wanted)


def test_a_fresh_session_shows_a_prompt_and_its_run(live: Session) -> None:
    state = wire(live)
    assert state["status"]["phase"] == "idle"
    assert "".join(token["text"] for token in state["prompt"]["tokens"]) == state["prompt"]["text"]
    assert state["current"] == {"a": "r1", "b": None}
    assert state["metric"]["chosen"] is False
    assert [state["metric"][sign]["id"] for sign in ("positive", "negative")] == [
        t["id"] for t in b_run(live)["top"][:2]
    ]
    assert state["runs"][0]["metric"] > 0


def test_results_are_those_of_the_engine(live: Session) -> None:
    live.intent("set_prompt", {"text": "abc def"})
    live.intent("set_metric", {"positive": "x", "negative": "y"})
    live.intent("set_edits", {"edits": [ABLATE, SCALE]})
    assert live.wait(60)
    model = live.state.model.model
    stack = [edits.ablate("z.1", head=2), edits.scale("mlp_out.2", 0.25)]
    metric = {
        n: _diff(model.run("abc def", ["logits"], edits=e), "x", "y")
        for n, e in {"none": [], "both": stack, "first": stack[:1], "last": stack[1:]}.items()
    }
    state = wire(live)
    a, b = (next(r for r in state["runs"] if r["id"] == state["current"][name]) for name in "ab")
    assert (a["metric"], b["metric"]) == pytest.approx((metric["none"], metric["both"]), abs=1e-5)
    deltas = [edit["delta"] for edit in state["edits"]]
    assert deltas == pytest.approx([metric["both"] - metric["last"], metric["both"] - metric["first"]], abs=1e-5)


def _diff(recording: Any, positive: str, negative: str) -> float:
    last, token = recording.logits[0, -1], recording.model.token_id
    return float(last[token(positive)] - last[token(negative)])


def test_the_next_tokens_of_a_long_prompt_follow_its_picture(live: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[Recording] = []
    whole = Recording.logits_in_parts
    monkeypatch.setattr(Recording, "logits_in_parts", lambda recording: (parts.append(recording), whole(recording))[1])
    monkeypatch.setattr(compute, "AT_ONCE", 20)
    text = "hello there " * 4
    live.intent("set_prompt", {"text": text})
    assert live.wait(60)
    run, model = b_run(live)["id"], live.state.model.model
    ((_, asked, first), *_) = live.reads.pictures([run], set())
    assert asked == {"run": run, "next": "last"}
    assert not parts, "the picture waits for no other position's logits"
    p, ids = model.run(text, ["logits"]).logits[0].float().softmax(-1).topk(5, dim=-1)
    early = load(first)
    assert torch.equal(early["next_id"], ids[-1:])
    torch.testing.assert_close(early["next_p"], p[-1:])
    late = load(live.reads.stream(run))
    assert torch.equal(late["next_id"], ids)
    torch.testing.assert_close(late["next_p"], p)
    assert torch.equal(early["norm"], late["norm"])
    assert torch.equal(load(live.reads.stream(run, next="last"))["next_id"], ids), "once they are there, all of them"
    live.reads.stream(run)
    assert len(parts) == 1, "computed once"
    live.intent("set_prompt", {"text": "hello there"})
    assert live.wait(60)
    assert load(live.reads.stream(b_run(live)["id"], next="last"))["next_id"].shape == (11, 5), (
        "of a short prompt all come at once"
    )


def test_stream_and_logits_are_the_recording_s(live: Session) -> None:
    live.intent("set_prompt", {"text": "hello there"})
    assert live.wait(60)
    loaded = live.state.model
    model, run = loaded.model, b_run(live)["id"]
    rec = model.run("hello there", ["resid_pre.0", "resid_post", "logits"])
    rows = torch.stack([rec["resid_pre.0"][0], *rec.stack("resid_post")[:, 0]]).float()
    basis = loaded.dictionaries["pca@resid_post.2"]
    got = load(live.reads.stream(run)) | load(live.reads.coef(run, dictionary="pca@resid_post.2"))
    torch.testing.assert_close(got["coef"], rows @ basis.read.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got["norm"], rows.norm(dim=-1))
    means = torch.stack([d.mean for d in loaded.dictionaries.values()])
    torch.testing.assert_close(got["offset"], means @ basis.read.T)
    p, ids = rec.logits[0].float().softmax(-1).topk(5, dim=-1)
    assert torch.equal(got["next_id"], ids)
    torch.testing.assert_close(got["next_p"], p)
    x, y = model.token_id("x"), model.token_id("y")
    value = load(live.reads.logits(run, positive=x, negative=y))["value"]
    torch.testing.assert_close(value[-1], (rec.logits[0, :, x] - rec.logits[0, :, y]).float(), atol=1e-4, rtol=1e-4)
    direction = logit_diff(model, "x", "y")
    middle = direction.project(rows[2], space="lens", model=model)
    torch.testing.assert_close(value[2], middle.float(), atol=1e-4, rtol=1e-4)
    lens = live.reads.lens(run, layer=model.n_layers - 1, pos=4)["top"]
    assert [entry["id"] for entry in lens] == ids[4].tolist()


def test_the_last_of_many_quick_prompts_wins_and_none_mix(one: Session) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []
    _, state, stop = one.subscribe(lambda seq, patch: seen.append((seq, patch)))
    model = one.state.model.model
    texts = [f"prompt number {n}" for n in range(100)]
    for text in texts:
        one.intent("set_prompt", {"text": text})
    assert one.wait(120)
    stop()
    final = b_run(one)
    assert (final["prompt"], final["version"]) == (texts[-1], wire(one)["version"])
    assert wire(one)["status"]["phase"] == "idle"
    assert len(wire(one)["runs"]) < 100
    numbers = [seq for seq, _ in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for run in wire(one)["runs"]:
        expected = model.run(run["prompt"], ["logits"]).top(10)
        assert [t["id"] for t in run["top"]] == [id for _, id, _ in expected]
    for _, patch in seen:
        state |= patch
        shown = {run["id"]: run for run in state["runs"]}[state["current"]["a"]]
        assert state["status"]["phase"] == "running" or shown["prompt"] == state["prompt"]["text"]
        assert shown["version"] <= state["version"]


def test_a_run_overtaken_on_its_way_is_not_shown() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        session.intent("set_prompt", {"text": "the first"})
        assert slow.entered.wait(30)
        session.intent("set_prompt", {"text": "the second"})
        session.intent("set_prompt", {"text": "the third"})
        before = slow.runs
        slow.gate.set()
        assert session.wait(60)
        assert [run["prompt"] for run in wire(session)["runs"]][1:] == ["the third"]
        assert slow.runs == before + 1


def test_intents_from_many_threads(one: Session) -> None:
    def work(n: int) -> None:
        for i in range(10):
            one.intent("set_prompt", {"text": f"thread {n} turn {i}"})
            one.intent("add_edit", {"edit": {**SCALE, "factor": n + i / 10}})
            one.intent("undo")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert one.wait(120)
    state = wire(one)
    assert b_run(one)["prompt"] == state["prompt"]["text"]
    assert b_run(one)["edits"] == len(state["edits"])
    assert max(Counter(run["id"] for run in state["runs"]).values()) == 1
    assert len(state["runs"]) <= 50


def test_undo_and_redo(one: Session) -> None:
    unedited = b_run(one)["metric"]
    one.intent("add_edit", {"edit": ABLATE})
    one.intent("add_edit", {"edit": SCALE})
    one.wait(60)
    both = b_run(one)
    one.intent("undo")
    one.intent("undo")
    assert wire(one)["edits"] == []
    assert not wire(one)["can_undo"]
    one.wait(60)
    assert b_run(one)["metric"] == unedited
    one.intent("undo")
    one.intent("redo")
    one.intent("redo")
    one.wait(60)
    assert (b_run(one)["id"], b_run(one)["metric"]) == (both["id"], both["metric"])
    one.intent("undo")
    one.intent("add_edit", {"edit": FREEZE})
    assert not wire(one)["can_redo"]


LONG = "x" * 65
REFUSED = [
    ("set_prompt", {"text": ""}, EmptyPrompt),
    ("set_prompt", {"text": LONG}, PromptTooLong),
    ("set_prompt", {"text": 3}, MalformedJSON),
    ("set_prompt", {}, MalformedJSON),
    ("set_prompt", {"text": "a", "unknown": 1}, MalformedJSON),
    ("set_prompt", [], MalformedJSON),
    ("set_metric", {"positive": "xy", "negative": "z"}, UnknownToken),
    ("set_metric", {"positive": "x", "negative": None}, MalformedJSON),
    ("add_edit", {"edit": {**ABLATE, "site": "nowhere.3"}}, UnknownSite),
    ("add_edit", {"edit": {**ABLATE, "site": "z.99"}}, UnknownLayer),
    ("add_edit", {"edit": {**ABLATE, "head": 4}}, UnknownHead),
    ("add_edit", {"edit": {**ABLATE, "pos": 14}}, UnknownPosition),
    ("add_edit", {"edit": {**ABLATE, "site": "router.1", "head": None}}, AbsentSite),
    ("add_edit", {"edit": {"kind": "ablate", "site": "mlp_out.1", "head": 0}}, UnknownHead),
    ("add_edit", {"edit": {"kind": "ablate", "site": "pattern.1", "to": "mean"}}, BadEdit),
    ("add_edit", {"edit": {"kind": "explode", "site": "z.1"}}, BadEdit),
    ("add_edit", {"edit": {"kind": "scale", "site": "z.1"}}, BadEdit),
    ("add_edit", {"edit": {"kind": "scale", "site": "z.1", "factor": float("nan")}}, BadEdit),
    ("add_edit", {"edit": "z.1"}, BadEdit),
    ("set_edits", {"edits": [SCALE, {**ABLATE, "head": 77}]}, UnknownHead),
    ("set_edits", {"edits": [{**SCALE, "id": "e1"}, {**ABLATE, "id": "e1"}]}, BadEdit),
    ("set_edits", {"edits": {}}, MalformedJSON),
    ("add_edit", {"edit": {**STEER, "site": "mlp_post.1"}}, None),
    (
        "add_edit",
        {"edit": {**STEER, "direction": {"kind": "pca", "site": "resid_post.1", "weights": {"3": 1}}}},
        DirectionError,
    ),
    (
        "add_edit",
        {"edit": {**STEER, "direction": {"kind": "pca", "site": "resid_post.1", "weights": {"1": 0}}}},
        ZeroDirection,
    ),
    ("add_edit", {"edit": {**STEER, "direction": {"kind": "pca", "site": "z.1", "weights": {"1": 1}}}}, UnknownSite),
    ("add_edit", {"edit": {**STEER, "unit": "norm", "direction": {"kind": "saved", "name": "none"}}}, NotFound),
    ("add_edit", {"edit": {**STEER, "direction": {"kind": "token", "token": "x"}}}, BadEdit),
    ("select", {"layer": 4, "pos": 0}, UnknownLayer),
    ("select", {"layer": 0, "pos": 14}, UnknownPosition),
    ("restore_run", {"run": "r99"}, NotFound),
    ("compare_run", {"run": "r99"}, NotFound),
    ("save_prompt", {"text": LONG}, PromptTooLong),
    ("python", {"direction": {"kind": "pca"}}, MalformedJSON),
    ("no_such_intent", {}, NotFound),
]


@pytest.mark.parametrize(("intent", "args", "error"), REFUSED)
def test_a_refused_intent_changes_nothing(one: Session, intent: str, args: Any, error: type | None) -> None:
    one.intent("add_edit", {"edit": SCALE})
    one.wait(60)
    before = one.snapshot()
    with pytest.raises(error or ResidscopeError) as caught:
        one.intent(intent, args)
    assert str(caught.value)
    one.wait(60)
    assert one.snapshot() == before


def test_an_edit_the_new_prompt_lacks_is_kept_marked_and_left_out(one: Session) -> None:
    one.intent("add_edit", {"edit": {**SCALE, "pos": 12}})
    one.intent("set_prompt", {"text": "short"})
    one.wait(60)
    (edit,) = wire(one)["edits"]
    assert "5 tokens" in edit["error"]
    assert wire(one)["current"]["b"] is None
    one.intent("set_edits", {"edits": [{**edit, "enabled": False}]})
    one.intent("set_prompt", {"text": "long enough again"})
    one.intent("set_edits", {"edits": [{**wire(one)["edits"][0], "enabled": True}]})
    one.wait(60)
    assert wire(one)["edits"][0]["error"] is None
    assert b_run(one)["edits"] == 1


def test_restore_and_compare(one: Session) -> None:
    one.intent("add_edit", {"edit": ABLATE})
    one.wait(60)
    edited = b_run(one)
    one.intent("set_prompt", {"text": "elsewhere"})
    one.intent("set_edits", {"edits": []})
    one.wait(60)
    one.intent("compare_run", {"run": edited["id"]})
    assert wire(one)["current"] == {
        "a": edited["id"],
        "b": next(r["id"] for r in wire(one)["runs"] if r["prompt"] == "elsewhere" and not r["edits"]),
    }
    one.intent("compare_run", {"run": None})
    assert wire(one)["current"]["b"] is None
    one.intent("restore_run", {"run": edited["id"]})
    one.wait(60)
    assert wire(one)["prompt"]["text"] == "a small prompt"
    assert b_run(one)["id"] == edited["id"]
    assert [edit["site"] for edit in wire(one)["edits"]] == ["z.1"]


def test_runs_are_bounded_and_old_ones_computed_again(one: Session) -> None:
    first = b_run(one)
    before = load(one.reads.coef(first["id"], dictionary="pca@resid_post.0"))
    for n in range(60):
        one.intent("set_prompt", {"text": f"prompt {n}"})
        one.wait(60)
        if n == 20:
            assert one._held._kept.get(one.state.run(first["id"]).key) is None
            again = load(one.reads.coef(first["id"], dictionary="pca@resid_post.0"))
            assert all(torch.equal(before[name], again[name]) for name in before)
    assert len(wire(one)["runs"]) == 50
    with pytest.raises(NotFound):
        one.reads.stream(first["id"])


def test_another_model_takes_the_prompt_along(one: Session) -> None:
    one.intent("add_edit", {"edit": {**ABLATE, "site": "resid_mid.1", "head": None}})
    seen = threading.Event()

    def load(name: str, **_: Any) -> Any:
        seen.wait(30)
        return worlds.model("gpt2")

    one._load = load
    one.intent("load_model", {"name": "other"})
    assert wire(one)["status"]["phase"] == "loading"
    seen.set()
    one.wait(60)
    state = wire(one)
    assert (state["model"]["family"], state["prompt"]["text"]) == ("gpt2", "a small prompt")
    assert {run["prompt"] for run in state["runs"]} == {"a small prompt"}
    assert state["status"]["phase"] == "idle"


def test_a_model_that_does_not_load_leaves_the_old_one(one: Session) -> None:
    def fail(name: str, **_: Any) -> None:
        raise NotFound("no such model", received=name)

    one._load = fail
    one.intent("load_model", {"name": "nothing"})
    one.wait(60)
    state = wire(one)
    assert (state["status"]["phase"], state["status"]["error"]["type"]) == ("failed", "NotFound")
    assert state["model"] is not None
    one.intent("set_prompt", {"text": "still here"})
    one.wait(60)
    assert (wire(one)["status"]["phase"], b_run(one)["prompt"]) == ("idle", "still here")


def test_a_newer_load_cancels_an_older(one: Session) -> None:
    entered = threading.Event()
    go_on = threading.Event()
    cancelled: list[bool] = []

    def load_slowly(name: str, progress: Any, **_: Any) -> Any:
        if name == "new":
            return worlds.model("gpt2")
        entered.set()
        go_on.wait(30)
        try:
            progress("fetching", 1, 2)
        except ResidscopeError:
            cancelled.append(True)
            raise
        return worlds.model()

    one._load = load_slowly
    one.intent("load_model", {"name": "old"})
    assert entered.wait(30)
    one.intent("load_model", {"name": "new"})
    go_on.set()
    one.wait(60)
    assert cancelled == [True]
    assert wire(one)["model"]["family"] == "gpt2"


def test_a_run_that_fails_says_so_and_can_be_asked_again(one: Session) -> None:
    real, held = one.state.model.model.run, one.state.model.model

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    held.run = broken
    try:
        one.intent("set_prompt", {"text": "doomed"})
        one.wait(60)
        assert wire(one)["status"]["phase"] == "failed"
        assert "out of memory" in wire(one)["status"]["error"]["message"]
    finally:
        del held.run
    assert held.run == real
    one.intent("set_prompt", {"text": "doomed"})
    one.wait(60)
    assert b_run(one)["prompt"] == "doomed"


def test_intents_before_a_model_are_refused() -> None:
    session = Session(load=lambda name, **_: worlds.model())
    try:
        with pytest.raises(ResidscopeError, match="no model"):
            session.intent("set_prompt", {"text": "a"})
        assert wire(session)["status"]["phase"] == "empty"
    finally:
        session.close()


def test_python_runs_as_pasted_and_gives_the_numbers(
    live: Session, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import residscope
    from residscope import directions

    model = live.state.model.model
    monkeypatch.setattr(residscope, "load", lambda name: model, raising=False)
    monkeypatch.setattr(directions, "shipped", worlds.components)
    live.intent("set_prompt", {"text": 'it\'s "quoted"', "bos": True})
    stack = [STEER, ABLATE, FREEZE, {**SCALE, "pos": [1, 2]}, {"kind": "ablate", "site": "mlp_out.0", "to": "mean"}]
    project = {"kind": "project_out", "site": "resid_pre.2", "direction": {"kind": "token", "token": "x"}}
    live.intent("set_edits", {"edits": [*stack, project]})
    assert live.wait(60)
    ref = {"kind": "pca", "site": "resid_post.1", "weights": {"1": -2.0}}
    code = live.intent("python", {"direction": ref})["code"]
    found: dict[str, Any] = {}
    exec(compile(code, "pasted", "exec"), found)
    assert float(found["metric"](found["edited"])) == pytest.approx(b_run(live)["metric"], abs=1e-5)
    assert found["edited"].top(1)[0][1] == b_run(live)["top"][0]["id"]
    stream = load(live.reads.coef(b_run(live)["id"], dictionary="pca@resid_post.1"))
    centred = (stream["coef"] - stream["offset"][:, None])[2, :, 1]
    torch.testing.assert_close(found["edited"].project(found["direction"])[0].float(), -centred, atol=1e-4, rtol=1e-4)


def test_directions_say_what_they_are(one: Session) -> None:
    found = one.reads.dictionary("pca@resid_post.1")
    assert (found["fitted_on"], found["tokens"], len(found["components"])) == ("noise", 7, worlds.N_COMPONENTS)
    assert len(found["components"][0]["top"]) == 5
    mix = one.reads.read({"kind": "pca", "site": "resid_post.1", "weights": {"0": 3.0, "1": 4.0}})
    assert mix["norm"] == pytest.approx(1.0, abs=1e-5)
    assert mix["variance"] == pytest.approx((9 * 0.5 + 16 * 0.3) / 25)
    assert mix["sd"] == pytest.approx(((0.6 * 3) ** 2 + (0.8 * 2) ** 2) ** 0.5, rel=1e-5)
    one.intent("set_metric", {"positive": "x", "negative": "y"})
    own = one.reads.read({"kind": "logit_diff", "positive": "x", "negative": "y"})
    assert own["cos_logit_diff"] == pytest.approx(1.0, abs=1e-5)
    assert own["top"][0]["text"] == "x"
    assert own["bottom"][0]["text"] == "y"


def test_any_failure_has_the_one_shape() -> None:
    assert explain(KeyError("k")).keys() == explain(NotFound("nothing")).keys()


BROKEN = [
    ({**ABLATE, "head": 77}, "UnknownHead"),
    ({"kind": "lrqp", "site": "resid_pre.2", "probe": "of a file", "to": "b", "log_alpha": 1.0, "pos": 0}, None),
    ({"kind": "no such kind"}, "BadEdit"),
    ("no edit", "BadEdit"),
    ({**SCALE, "id": "mine"}, "BadEdit"),  # the id of an edit before it
]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(("broken", "refusal"), BROKEN)
def test_a_stack_of_a_link_is_kept_without_the_edit_that_is_refused(
    live: Session, broken: Any, refusal: str | None, at: int
) -> None:
    good = [{**SCALE, "id": "mine"}, ABLATE]
    stack = [*good[:at], broken, *good[at:]]
    live.intent("set_edits", {"edits": []})
    with pytest.raises(ResidscopeError):
        live.intent("set_edits", {"edits": stack})
    assert wire(live)["edits"] == []
    (answer,) = live.intent("set_edits", {"edits": stack, "skip_refused": True})["refused"]
    kept = [edit["kind"] for edit in wire(live)["edits"]]
    if isinstance(broken, dict) and broken.get("id") and at == 0:  # then the other has its id
        assert (answer["index"], kept) == (1, ["scale", "ablate"])
    else:
        assert (answer["index"], kept) == (at, ["scale", "ablate"])
        assert refusal is None or answer["error"]["type"] == refusal
    assert answer["error"]["message"]
    live.intent("undo", {})
    assert wire(live)["edits"] == []
    assert live.intent("set_edits", {"edits": good, "skip_refused": True}) == {"refused": []}


def test_the_state_is_told_again_without_working_out_a_schema(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """With six edits on the stack that took 40 ms at each change, under the session's lock."""
    one.intent("add_edit", {"edit": {"kind": "scale", "site": "mlp_out.1", "factor": 0.5}})
    assert one.wait(60)
    monkeypatch.setattr("pydantic.BaseModel.model_json_schema", lambda *given, **named: pytest.fail("a schema"))
    before, _ = one.snapshot()
    one.intent("select", {"layer": 0, "pos": 1})
    after, state = one.snapshot()
    assert after == before + 1
    assert state["edits"][0]["slider"]["value"] == 0.5


def test_a_text_is_spelled_as_the_one_token_that_it_names_or_as_those_it_is_made_of(one: Session) -> None:
    assert one.query("tokens", {"text": "x"}) == {"tokens": [{"id": one.state.model.token("x").id, "text": "x"}]}
    assert [token["text"] for token in one.query("tokens", {"text": "x y"})["tokens"]] == ["x", " ", "y"]
    assert one.query("tokens", {"text": "<s>"})["tokens"] == [{"id": 0, "text": "<s>"}]
    with pytest.raises(MalformedJSON):
        one.query("tokens", {"text": ""})


def test_an_answer_goes_by_its_token_s_own_name_whatever_was_typed(one: Session) -> None:
    x = one.state.model.token("x").id
    one.intent("set_metric", {"positive": f"<id {x}>", "negative": "<s>"})
    metric = wire(one)["metric"]
    assert (metric["positive"], metric["negative"]) == ({"id": x, "text": "x"}, {"id": 0, "text": "<s>"})
    assert wire(one)["model"]["special"] == ["<s>", "</s>"]
