"""A second model beside the session's own: its runs are run A, every number its own, and the page is whole without it."""

import threading
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as unpack

import residscope as rs
from residscope import edits
from residscope.engine.model import Model
from residscope.errors import ModelNotFound, NotFound
from residscope.session import Session
from session import worlds
from tiny_models import tiny_llama

PROMPT = "a small prompt"
ABLATE = {"kind": "ablate", "site": "z.1", "head": 2}


def tuned() -> Model:
    """The tiny model with other weights in its last layer."""
    hf = deepcopy(worlds.model().hf)
    with torch.no_grad():
        hf.model.layers[-1].mlp.down_proj.weight.mul_(1.5)
    return rs.load((hf, worlds.tokenizer()))


def loads(name: str, **_: Any) -> Model:
    if name == "tuned":
        return tuned()
    if name == "wide":
        return rs.load((tiny_llama(layers=3), worlds.tokenizer()))
    raise ModelNotFound("no model of that name", received=name)


@pytest.fixture
def one() -> Iterator[Session]:
    with worlds.session(load=loads) as session:
        session.intent("set_prompt", {"text": PROMPT})
        assert session.wait(60)
        yield session


def wire(session: Session) -> Any:
    return session.snapshot()[1]


def beside(session: Session, name: str = "tuned") -> Any:
    session.intent("set_other", {"model": name})
    assert session.wait(60)
    return wire(session)


def last(run: Any) -> dict[int, float]:
    return {row["id"]: row["p"] for row in run["top"]}


def shown(state: Any, which: str) -> Any:
    return next(run for run in state["runs"] if run["id"] == state["current"][which])


def expected(model: Model, *given: Any) -> torch.Tensor:
    """The last position's logits of the stock model itself, or of a run with edits."""
    ids = model.tokens(PROMPT)
    if not given:
        with torch.no_grad():
            return model.hf(ids).logits[0, -1]
    return model.run(PROMPT, ["logits"], edits=given).logits[0, -1]


def test_the_second_model_s_run_is_run_a(one: Session) -> None:
    state = beside(one)
    assert state["other"]["phase"] == "ready"
    a, b = shown(state, "a"), shown(state, "b")
    assert (a["model"], b["model"]) == ("tuned", None)
    assert a["id"] == state["other"]["runs"]["baseline"]
    for run, model in ((a, tuned()), (b, one.model)):
        p = expected(model).softmax(-1)
        assert all(abs(p[id].item() - share) < 1e-6 for id, share in last(run).items())
    metric = state["metric"]
    logits = expected(tuned())
    assert a["metric"] == pytest.approx((logits[metric["positive"]["id"]] - logits[metric["negative"]["id"]]).item())


def test_with_edits_it_is_the_same_edits_in_both(one: Session) -> None:
    beside(one)
    one.intent("set_edits", {"edits": [ABLATE]})
    assert one.wait(60)
    state = wire(one)
    a, b = shown(state, "a"), shown(state, "b")
    assert (a["model"], a["label"], b["label"]) == ("tuned", b["label"], "ablate z.1 head 2")
    p = expected(tuned(), edits.ablate("z.1", head=2)).softmax(-1)
    assert all(abs(p[id].item() - share) < 1e-6 for id, share in last(a).items())
    one.intent("compare_run", {"run": state["other"]["runs"]["baseline"]})
    assert shown(wire(one), "a")["label"] == "unedited"


def test_every_query_of_its_run_reads_its_own_weights(one: Session) -> None:
    state = beside(one)
    run, model = state["current"]["a"], tuned()
    metric = {"positive": state["metric"]["positive"]["id"], "negative": state["metric"]["negative"]["id"]}
    record = model.run(PROMPT, ["resid_pre", "resid_post", "pattern"])
    rows = torch.stack([record["resid_pre.0"][0], *(record[f"resid_post.{n}"][0] for n in range(model.n_layers))])
    stream = unpack(one.query("stream", {"run": run}))
    assert torch.allclose(stream["norm"], rows.float().norm(dim=-1), atol=1e-5)
    read = unpack(one.query("logits", {"run": run, **metric}))["value"]
    logits = model.lens(rows)
    assert torch.allclose(read, (logits[..., metric["positive"]] - logits[..., metric["negative"]]).float(), atol=1e-4)
    mapped = unpack(one.query("map", {"run": run, **metric}))
    whole = rs.attribute_logits(record, rs.logit_diff(*metric.values()))
    assert torch.allclose(mapped["heads"], whole.heads.values.float(), atol=1e-5)
    lens = one.query("lens", {"run": run, "layer": 0, "pos": 2})["top"][0]
    assert lens["id"] == model.lens(rows[1, 2]).argmax().item()
    pca = rows.float() @ worlds.components(one.model)["resid_post.0"].read.T
    dictionary = one.state.model.info["dictionaries"][1]["id"]
    coef = unpack(one.query("coef", {"run": run, "dictionary": dictionary}))["coef"]
    assert torch.allclose(coef, pca, atol=1e-4)


def test_what_is_asked_for_first_changes_no_number(one: Session) -> None:
    state = beside(one)
    runs = (state["current"]["a"], state["current"]["b"])
    want = [unpack(one.reads.stream(run))["norm"] for run in runs]
    assert not torch.equal(*want)
    metric = {side: state["metric"][side]["id"] for side in ("positive", "negative")}
    for first in (runs, runs[::-1]):
        one._held.clear()
        one.maps.clear()
        for run in first:
            one.query("map", {"run": run, **metric})
        assert all(torch.equal(unpack(one.reads.stream(run))["norm"], x) for run, x in zip(runs, want, strict=True))


def test_a_new_prompt_asks_both(one: Session) -> None:
    beside(one)
    one.intent("set_prompt", {"text": "another one"})
    assert one.wait(60)
    state = wire(one)
    assert [shown(state, side)["prompt"] for side in "ab"] == ["another one"] * 2
    assert shown(state, "a")["model"] == "tuned"


@pytest.mark.parametrize(
    ("name", "code", "said"), [("wide", "OtherModel", "n_layers"), ("gone", "ModelNotFound", "gone")]
)
def test_one_that_is_missing_or_of_another_shape_leaves_the_page_whole(
    one: Session, name: str, code: str, said: str
) -> None:
    before = wire(one)
    state = beside(one, name)
    assert state["other"]["phase"] == "failed"
    assert state["other"]["error"]["type"] == code
    assert said in str(state["other"]["error"])
    assert (state["current"], state["status"]["phase"]) == (before["current"], "idle")
    one.intent("set_edits", {"edits": [ABLATE]})
    assert one.wait(60)
    assert shown(wire(one), "b")["label"] == "ablate z.1 head 2"


def test_put_away_its_runs_go_with_it(one: Session) -> None:
    run = beside(one)["current"]["a"]
    one.intent("set_other", {"model": None})
    assert one.wait(60)
    state = wire(one)
    assert state["other"] is None
    assert all(one["model"] is None for one in state["runs"])
    assert shown(state, "a")["label"] == "unedited"
    with pytest.raises(NotFound):
        one.query("stream", {"run": run})


def test_the_copied_lines_give_both(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    beside(one)
    one.intent("set_edits", {"edits": [ABLATE]})
    assert one.wait(60)
    code = one.intent("python")["code"]
    second = tuned()
    names = {one.model.name: one.model, "tuned": second}
    monkeypatch.setattr(rs, "load", lambda name, **_: names[name])
    made: dict[str, Any] = {"print": lambda *_, **__: None}
    exec(compile(code, "copied", "exec"), made)
    assert torch.equal(made["compared"].logits[0, -1], expected(second, edits.ablate("z.1", head=2)))


def test_a_patch_from_a_run_of_the_second_names_the_model(one: Session) -> None:
    """The same logits as plain hooks give: the other's stream put in at one layer."""
    run = beside(one)["current"]["a"]
    n = one.model.n_layers - 1
    patch = {"kind": "patch", "site": f"mlp_out.{n}", "source": {"kind": "run", "run": run}, "pos": [-1]}
    one.intent("set_edits", {"edits": [patch]})
    assert one.wait(60)
    state = wire(one)
    assert state["edits"][0]["source"]["kind"] == "model"
    assert state["edits"][0]["source"]["model"] == "tuned"
    other, own, ids = tuned().hf, one.model.hf, one.model.tokens(PROMPT)
    kept: list[torch.Tensor] = []
    with torch.no_grad():
        handle = other.model.layers[n].mlp.register_forward_hook(lambda m, i, out: kept.append(out))
        other(ids)
        handle.remove()

        def put(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
            out = out.clone()
            out[:, -1] = kept[0][:, -1]
            return out

        handle = own.model.layers[n].mlp.register_forward_hook(put)
        p = own(ids).logits[0, -1].softmax(-1)
        handle.remove()
    assert all(abs(p[id].item() - share) < 1e-6 for id, share in last(shown(state, "b")).items())


def test_the_next_session_has_it_again(tmp_path: Path) -> None:
    names = {"base": worlds.model()}

    def load(name: str, **options: Any) -> Model:
        return names[name] if name in names else loads(name, **options)

    first = Session(load=load, memory=tmp_path / "memory.json")
    first.load("base")
    assert first.wait(60)
    run = shown(beside(first), "a")
    first.close()
    again = Session(load=load, memory=tmp_path / "memory.json")
    again.load(again.last_model)
    assert again.wait(60)
    back = shown(wire(again), "a")
    again.close()
    assert (back["model"], back["metric"]) == ("tuned", run["metric"])


def test_one_under_way_is_let_go_of_and_the_page_goes_on_meanwhile() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(name: str, *, progress: Any, **_: Any) -> Model:
        progress("download", 1, 4)
        entered.set()
        assert leave.wait(30)
        progress("download", 2, 4)
        raise AssertionError("nobody wants it any more")

    with worlds.session(load=slow) as one:
        one.intent("set_other", {"model": "tuned"})
        assert entered.wait(30)
        assert wire(one)["other"]["progress"] == 0.25
        one.intent("set_prompt", {"text": PROMPT})
        while wire(one)["runs"][-1]["prompt"] != PROMPT:
            assert one.state.status.phase in ("running", "idle")
        one.intent("set_other", {"model": None})
        leave.set()
        assert one.wait(60)
        assert wire(one)["other"] is None
        assert wire(one)["status"]["phase"] == "idle"


def test_a_method_takes_the_second_model_by_name_without_loading_it_again(
    one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(one)
    monkeypatch.setattr("residscope.world.others.load", lambda *_, **__: pytest.fail("it is there already"))
    args = {"other": "tuned"}
    assert one.query("cost", {"method": "weight-difference", "args": args})["seconds"] > 0
    code = one.query("python", {"method": "weight-difference", "args": args})["code"]
    assert "other = rs.load('tuned')" in code
    assert "rs.weight_difference(model, other)" in code
    one.intent("start", {"method": "weight-difference", "args": args})
    assert one.wait(60)
    (job,) = wire(one)["jobs"]
    assert job["phase"] == "done", job["error"]
    found = one.items[job["items"][0]]
    last = one.model.hf.model.layers[-1].mlp.down_proj.weight
    share = found.share.select(layer=one.model.n_layers - 1, weight="mlp.down_proj").values
    assert share == pytest.approx(0.5, rel=1e-5), "1.5 W - W"
    assert found.norm.values.sum() == pytest.approx((0.5 * last).norm().item(), rel=1e-5), "and nothing else"


def test_a_price_loads_nothing_and_a_method_loads_what_it_needs(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str, **options: Any) -> Model:
        loaded.append(name)
        return loads(name, **options)

    monkeypatch.setattr("residscope.world.others.load", load)
    monkeypatch.setattr("residscope.world.others._latest", None)
    ask = {"other": "tuned", "prompts": {"kind": "live"}, "metric": {"kind": "live"}}
    assert one.query("cost", {"method": "layer-swap", "args": ask})["seconds"] > 0
    assert loaded == []
    for _ in range(2):
        one.intent("start", {"method": "layer-swap", "args": ask})
        assert one.wait(60)
    assert [job["phase"] for job in wire(one)["jobs"]] == ["done", "done"]
    assert loaded == ["tuned"], "once, and kept"
    one.intent("start", {"method": "compare-models", "args": {"other": "wide", "prompt": {"kind": "live"}}})
    assert one.wait(60)
    assert wire(one)["jobs"][-1]["error"]["type"] == "OtherModel"
