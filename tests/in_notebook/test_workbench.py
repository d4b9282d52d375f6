"""`rs.workbench`: what code sets the page shows, what the page does code reads, and the numbers are the engine's own."""

import random
import threading
import time
from typing import Any

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.errors import (
    AbsentSite,
    BadArguments,
    BadEdit,
    BadPrompt,
    Cancelled,
    CertificateFailed,
    EmptyPrompt,
    MalformedJSON,
    ModelNotFound,
    NotFound,
    PromptTooLong,
    UnknownHead,
    UnknownLayer,
    UnknownMethod,
    UnknownPosition,
    UnknownToken,
)
from residscope.notebook import sessions
from residscope.results import Result
from server.entering import enter
from session import asked


def direction(wb: rs.Workbench, seed: int = 0, **facts: Any) -> rs.Direction:
    vector = torch.randn(wb.model.d_model, generator=torch.Generator().manual_seed(seed)).float()
    return rs.Direction(vector, vector, "resid_post.1", **facts)


def shown(wb: rs.Workbench) -> torch.Tensor:
    """The last logits of the run that the page shows."""
    assert wb.wait(60)
    state = wb.session.state
    assert state.status.phase == "idle", state.status.error
    run = state.run(state.edited or state.baseline)
    assert run is not None
    return run.last


def plain(wb: rs.Workbench, stack: Any = ()) -> torch.Tensor:
    return wb.model.run(wb.prompt, edits=list(stack)).logits_at(-1)[0].float()


def test_one_session_for_one_model_object(tiny: Any) -> None:
    wb = rs.workbench(tiny)
    assert wb.model is tiny
    assert rs.workbench(tiny) is wb
    assert rs.workbench() is wb
    assert rs.workbench((tiny.hf, tiny.tokenizer)) is wb  # the very weights, under another name
    wb.close()
    again = rs.workbench(tiny)
    assert again is not wb
    assert again.model is tiny


@pytest.mark.parametrize("none", [3, (1, 2, 3), [1], object()])
def test_what_is_no_model_is_refused(none: Any) -> None:
    with pytest.raises(ModelNotFound):
        rs.workbench(none)


def test_what_code_sets_is_what_the_page_is_told(wb: rs.Workbench) -> None:
    wb.prompt = "another"
    wb.metric = rs.logit_diff("x", "y")
    wb.selection = (1, -1)
    wb.edits = (edits.ablate("z.1", head=2),)
    assert wb.wait(60)
    state = wb.session.snapshot()[1]
    assert state["prompt"]["text"] == wb.prompt == "another"
    assert [state["metric"][side]["text"] for side in ("positive", "negative")] == ["x", "y"]
    assert state["metric"]["chosen"]
    assert wb.metric == rs.logit_diff("x", "y")
    assert state["selection"] == {"layer": 1, "pos": 6} == wb.selection._asdict()
    assert [(edit["kind"], edit["site"], edit["head"]) for edit in state["edits"]] == [("ablate", "z.1", 2)]
    assert float(wb.metric(wb.model.run(wb.prompt, edits=list(wb.edits)))) == pytest.approx(
        next(run["metric"] for run in state["runs"] if run["id"] == state["current"]["b"]), abs=1e-5
    )


def test_what_the_page_does_is_read_by_code(wb: rs.Workbench) -> None:
    wb.session.intent("add_edit", {"edit": {"kind": "scale", "site": "mlp_out.2", "factor": 0.5}})
    (edit,) = wb.edits
    assert (edit.kind, edit.site, edit.factor) == ("scale", "mlp_out.2", 0.5)
    assert torch.equal(shown(wb), plain(wb, wb.edits))
    wb.session.intent("select", {"layer": 0, "pos": 2})
    assert wb.selection == (0, 2)
    wb.session.intent("set_metric", {"positive": "q", "negative": "z"})
    assert wb.metric == rs.logit_diff("q", "z")
    wb.session.intent("undo", {})
    assert wb.edits == ()


def every_edit(wb: rs.Workbench) -> list[Any]:
    d, n = direction(wb, name="mine"), len(wb.model.tokens(wb.prompt)[0])
    other = "b" * n  # as long as the prompt
    recorded = wb.model.run(other)
    return [
        edits.ablate("z.1", head=2),
        edits.ablate("mlp_out.0", to="mean", over=["some text", "other text"]),
        edits.ablate("z.0", to="resample", over=["the first text", "and the second"], seed=3, head=1),
        edits.ablate("z.2", to=torch.ones(wb.model.run(wb.prompt, ["z.2"])["z.2"].shape[-1])),
        edits.freeze("pattern.3"),
        edits.isolate("z.1", head=0),
        edits.scale("mlp_out.2", 0.25, pos=[0, -1]),
        edits.noise("embed", 0.3, seed=4),
        edits.steer("resid_post.1", d, 3.0),
        edits.steer("resid_post.0", d.write, 2.0, pos=1),
        edits.clamp("resid_post.1", d, 2.0),
        edits.project_out("resid_post.2", [d, direction(wb, 1, name="mine")]),  # two of one name
        edits.patch("resid_pre.1", other),
        edits.patch("resid_pre.2", recorded),
        edits.path("z.0", "q.2", other, sender_head=1, head=0),
        edits.overlay("model.layers.1.mlp.down_proj", _low_rank(wb)),
        edits.feature(_dictionary(wb), index=[1, 2], scale=0.0),
        rs.lrqp(probe := _probe(wb), to="b", pos=4),
        rs.concepts.set_concept(probe, to="a", method="leace", pos=[4]),
    ]


EDITS = 19


def _dictionary(wb: rs.Workbench) -> rs.Dictionary:
    basis = torch.linalg.qr(torch.randn(wb.model.d_model, 3, generator=torch.Generator().manual_seed(2)))[0].T
    return rs.Dictionary("mine", "resid_post.1", basis, basis, torch.zeros(wb.model.d_model))


def _probe(wb: rs.Workbench) -> rs.Probe:
    drawn = random.Random(0)
    texts = [
        "".join(drawn.choices("efghijkl", k=4)) + "ab"[i % 2] + "".join(drawn.choices("efgh", k=3)) for i in range(48)
    ]
    table = "text,@KEY,kind\n" + "".join(f"{text},4:5,{text[4]}\n" for text in texts)
    data = rs.tasks.from_text(wb.model, table, name="made.csv")
    return rs.fit_probe(wb.model, data, site="resid_pre.2", position="KEY", label="kind")


def _low_rank(wb: rs.Workbench) -> tuple[torch.Tensor, torch.Tensor]:
    weight = wb.model.hf.model.layers[1].mlp.down_proj.weight
    made = torch.Generator().manual_seed(1)
    return (
        torch.randn(weight.shape[1], 1, generator=made).to(weight),
        0.05 * torch.randn(1, weight.shape[0], generator=made).to(weight),
    )


@pytest.mark.parametrize("place", range(EDITS))
def test_any_edit_goes_in_and_comes_out_as_it_is(wb: rs.Workbench, place: int) -> None:
    stack = (every_edit(wb)[place],)
    before = plain(wb)
    wb.edits = stack
    assert wb.edits == stack  # the very object
    assert torch.equal(shown(wb), plain(wb, stack))
    assert torch.equal(shown(wb), before) == (stack[0].kind == "freeze")  # frozen alone it stays as it is


def test_all_at_once_and_again(wb: rs.Workbench) -> None:
    stack = tuple(every_edit(wb))
    wb.edits = stack
    assert wb.edits == stack
    logits = shown(wb)
    assert torch.equal(logits, plain(wb, stack))
    ids = [edit["id"] for edit in wb.session.snapshot()[1]["edits"]]
    wb.edits = tuple(reversed(wb.edits))
    assert [edit["id"] for edit in wb.session.snapshot()[1]["edits"]] == ids[::-1]
    wb.edits = wb.edits[::-1]
    assert torch.equal(shown(wb), logits)


def test_an_edit_of_ones_own_class_is_held_as_it_is(wb: rs.Workbench) -> None:
    class Halve(edits.BaseEdit):
        def change(self, value: torch.Tensor, at: Any) -> torch.Tensor:
            return value / 2

    own = Halve("mlp_out.1")
    wb.edits = own  # one alone
    assert wb.edits == (own,)
    assert torch.equal(shown(wb), plain(wb, [edits.scale("mlp_out.1", 0.5)]))
    (line,) = [line for line in wb.history() if line.startswith("stack = [wb")]
    (name,) = wb.given
    assert line == f"stack = [wb.given[{name!r}]]"
    assert wb.given[name] is own


def test_what_no_stack_can_come_back_to_is_let_go(wb: rs.Workbench) -> None:
    wb.edits = (edits.ablate("z.2", to=torch.ones(8)),)
    for head in range(120):  # out of reach of undo, and of the history of runs
        wb.edits = (edits.ablate("z.0", head=head % 4),)
        wb.prompt = f"{head}"
        assert wb.wait(60)
    assert len(wb.session.state.given) <= 5


def test_edits_that_the_page_switches_off_are_not_applied(wb: rs.Workbench) -> None:
    first, second = edits.ablate("z.1", head=2), edits.scale("mlp_out.0", 0.5)
    wb.edits = (first, second)
    stack = [dict(edit) for edit in wb.session.snapshot()[1]["edits"]]
    stack[0]["enabled"] = False
    wb.session.intent("set_edits", {"edits": stack})
    assert wb.edits == (second,)
    assert torch.equal(shown(wb), plain(wb, [second]))


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("prompt", 3, BadPrompt),
        ("prompt", None, BadPrompt),
        ("prompt", "", EmptyPrompt),
        ("edits", ("x",), BadEdit),
        ("edits", (edits.ablate("z.99"),), UnknownLayer),
        ("edits", (edits.ablate("z.1", head=99),), UnknownHead),
        ("edits", (edits.scale("mlp_out.1", 2.0, pos=99),), UnknownPosition),
        ("selection", 5, UnknownPosition),
        ("selection", (1, 2, 3), UnknownPosition),
        ("selection", (99, 0), UnknownLayer),
        ("selection", (0, 99), UnknownPosition),
        ("selection", ("a", 0), MalformedJSON),
        ("metric", ("x",), BadArguments),
        ("metric", rs.loss(), BadArguments),
        ("metric", ("x", "long"), UnknownToken),
        ("metric", (3, 10**6), UnknownToken),
    ],
)
def test_what_is_refused_says_so_and_changes_nothing(wb: rs.Workbench, name: str, value: Any, refused: type) -> None:
    before = wb.session.snapshot()
    with pytest.raises(refused) as said:
        setattr(wb, name, value)
    assert wb.session.snapshot() == before
    assert said.value.received is not None


def test_callbacks_hear_both_and_a_failing_one_stops_nothing(wb: rs.Workbench, capsys: Any) -> None:
    heard: list[tuple[str, Any]] = []
    enough = threading.Event()

    def listen(name: str, value: Any) -> None:
        heard.append((name, value))
        if name == "run":
            enough.set()

    def fail(name: str, value: Any) -> None:
        raise ValueError("mine")

    wb.on_change(fail, "edits")
    off = wb.on_change(listen, "edits", "selection", "run")
    edit = edits.ablate("z.1", head=2)
    wb.edits = (edit,)
    wb.session.intent("select", {"layer": 0, "pos": 1})
    assert enough.wait(30)
    assert ("edits", (edit,)) in heard
    assert ("selection", (0, 1)) in heard
    assert "fail failed on a change of the edits: ValueError: mine" in wb.session.state.notices
    assert "ValueError: mine" in capsys.readouterr().err
    off()
    count = len(heard)
    wb.edits = ()
    assert wb.wait(30)
    assert len(heard) == count
    with pytest.raises(NotFound, match="Allowed: prompt, companion, other, edits"):
        wb.on_change(listen, "weather")


def test_a_method_is_a_job_and_answers_its_item(wb: rs.Workbench) -> None:
    wb.metric = ("x", "y")
    wb.edits = (edits.scale("mlp_out.0", 0.5),)
    found = wb.run("ablation-sweep", site="z", name="heads")
    assert isinstance(found, Result)
    expected = rs.ablation_sweep(wb.model, wb.prompt, rs.logit_diff("x", "y"), site="z")
    torch.testing.assert_close(found.values, expected.values)
    assert wb.items["heads"] is found
    assert [job["method"] for job in wb.session.snapshot()[1]["jobs"]] == ["ablation-sweep"]
    other = wb.run("ablation-sweep", prompts="other", metric=rs.log_prob("x"), site="mlp_out")
    torch.testing.assert_close(
        other.values, rs.ablation_sweep(wb.model, "other", rs.log_prob("x"), site="mlp_out").values
    )
    with pytest.raises(BadArguments, match="foo"):
        wb.run("ablation-sweep", foo=1)
    with pytest.raises(UnknownMethod):
        wb.run("no such thing")
    with pytest.raises(UnknownPosition, match="Received: position 99"):
        wb.run("ablation-sweep", site="z", positions=[99])
    with pytest.raises(NotFound, match="items"):
        wb.run("ablation-sweep", over=object(), to="mean")


def test_a_job_that_fails_raises_its_own_error(wb: rs.Workbench) -> None:
    def boom(model: Any) -> Result:
        raise PromptTooLong("it is too long", received="3000 tokens", allowed="2048")

    with asked.declared(boom=boom), pytest.raises(PromptTooLong) as said:
        wb.run("boom")
    assert str(said.value) == "it is too long. Received: 3000 tokens. Allowed: 2048."


def test_a_job_that_is_stopped_on_the_page_is_cancelled_here(wb: rs.Workbench) -> None:
    entered = threading.Event()

    def stand(model: Any, cancel: Any = None) -> Result:
        entered.set()
        while not cancel():
            time.sleep(0.01)
        raise Cancelled("stopped")

    def stop() -> None:
        entered.wait(30)
        wb.session.intent("cancel", {"job": wb.session.state.jobs[-1].id})

    page = threading.Thread(target=stop)
    page.start()
    with asked.declared(stand=stand), pytest.raises(Cancelled):
        wb.run("stand")
    page.join(30)


def test_items_go_both_ways(wb: rs.Workbench) -> None:
    made = Result(torch.arange(3.0), ("pos",), name="mine")
    wb.items["mine"] = made
    assert wb.items["mine"] == made
    assert [item["name"] for item in wb.session.snapshot()[1]["items"]["items"]] == ["mine"]
    wb.items["mine"] = Result(torch.zeros(3), ("pos",), name="mine")
    assert list(wb.items) == ["mine"]
    assert wb.items["mine"].values.sum() == 0
    del wb.items["mine"]
    assert dict(wb.items) == {}
    with pytest.raises(KeyError):
        wb.items["mine"]
    with pytest.raises(BadArguments, match="item"):
        wb.items["mine"] = 3


def test_refresh_takes_the_model_as_it_is_now(wb: rs.Workbench) -> None:
    wb.edits = (edits.ablate("z.1", head=2),)
    before, hashed = shown(wb), wb.model.hash
    with torch.no_grad():
        wb.model.hf.model.layers[2].mlp.down_proj.weight.mul_(0.5)
    wb.refresh()
    after = shown(wb)
    assert not torch.equal(after, before)
    assert torch.equal(after, plain(wb, wb.edits))
    assert wb.model.hash != hashed
    assert wb.session.snapshot()[1]["model"]["hash"] == wb.model.hash == wb.model.fingerprint()
    assert wb.model.certificate.passed
    with torch.no_grad():
        wb.model.hf.model.layers[2].mlp.down_proj.weight.mul_(2)
    wb.refresh()
    assert torch.equal(shown(wb), before)
    assert wb.model.hash == hashed


def test_refresh_after_a_fine_tuning_step(wb: rs.Workbench) -> None:
    before, hf = shown(wb), wb.model.hf
    ids = wb.model.tokens(wb.prompt)
    step = torch.optim.SGD(hf.parameters(), lr=0.1)
    hf(ids, labels=ids).loss.backward()
    step.step()
    step.zero_grad()
    wb.refresh()
    assert torch.equal(shown(wb), hf(ids).logits[0, -1].float().detach())
    assert not torch.equal(shown(wb), before)


def test_what_a_hook_breaks_is_absent_by_its_name_or_refused(wb: rs.Workbench) -> None:
    before = shown(wb)
    block = wb.model.hf.model.layers[1]
    handle = block.mlp.register_forward_hook(lambda module, args, out: out * 0.5)
    wb.refresh()
    assert not torch.equal(shown(wb), before)
    with pytest.raises(AbsentSite, match=r"(?s)mlp_post.*hook"):
        wb.model.run("abc", ["mlp_post.1"])
    handle.remove()
    handle = block.register_forward_hook(lambda module, args, out: out * 0.5)
    with pytest.raises(CertificateFailed, match="take off"):
        wb.refresh()
    handle.remove()
    wb.refresh()
    assert torch.equal(shown(wb), before)


def test_the_next_kernel_goes_on_where_this_one_was_left(wb: rs.Workbench) -> None:
    model, edit = wb.model, edits.scale("mlp_out.0", 0.5)
    wb.prompt, wb.metric, wb.edits = "left here", ("x", "y"), (edit,)
    logits = shown(wb)
    sessions.close_all()
    again = rs.workbench(model)
    assert again is not wb
    assert (again.prompt, again.metric) == ("left here", rs.logit_diff("x", "y"))
    assert [repr(edit) for edit in again.edits] == [repr(edit)]
    assert torch.equal(shown(again), logits)


def test_the_same_session_in_a_browser_tab(wb: rs.Workbench) -> None:
    import httpx

    with httpx.Client() as browser:
        assert enter(browser, wb.url).status_code == 303
        base = wb.url.split("?")[0]
        assert browser.get(base).status_code == 200
        told = browser.post(f"{base}api/intents/set_prompt", json={"text": "from a tab"})
        assert told.json()["ok"]
    assert wb.prompt == "from a tab"
    assert wb.url == wb.url


def test_the_picture_is_the_page_s_numbers(wb: rs.Workbench) -> None:
    wb.metric = ("x", "y")
    shown(wb)
    view = wb.view()
    recorded = wb.model.run(wb.prompt)
    last = float(rs.logit_diff("x", "y")(recorded))
    assert view.values[-1][-1] == pytest.approx(last, abs=1e-3)
    assert len(view.columns) == recorded.tokens.shape[1]
    assert "unedited" in view.note


def test_a_dictionary_s_direction_is_the_dictionary_s_on_the_page(smollm2: Any) -> None:
    wb = rs.workbench(smollm2)
    component = rs.directions.shipped(smollm2)["resid_post.23"][7]
    stack = (edits.steer("resid_post.20", component, 4.0), edits.clamp("resid_post.23", component, 1.0))
    wb.edits = stack
    assert wb.edits == stack
    said = wb.session.snapshot()[1]["edits"]
    term = {"dictionary": "pca@resid_post.23", "index": 7, "weight": 1.0}
    assert [edit["direction"] for edit in said] == [{"kind": "mix", "terms": [term], "site": None}] * 2
    assert wb.session.snapshot()[1]["directions"] == []
    assert "edits.steer('resid_post.20', pca_resid_post_23[7], 4.0)" in "\n".join(wb.history())
    assert torch.equal(shown(wb), plain(wb, stack))
