"""Probes of the session: fitted as the library fits them, read in live runs, set by edits; refused and cancelled cleanly."""

import math
import time
from random import Random
from typing import Any

import pytest
import torch

import residscope as rs
from residscope.errors import BadEdit, MalformedJSON, NotFound, SiteError, UnknownPosition, UnknownSite, UnknownTask
from residscope.model.prompts import PromptSet
from residscope.session import Session
from session import worlds

DRAWN = Random(0)
TEXTS = [
    "".join(DRAWN.choices("efghijkl", k=4)) + "ab"[i % 2] + "".join(DRAWN.choices("efghijkl", k=3)) for i in range(48)
]
CSV = "text,@KEY,@late,kind,same,noise,three\n" + "".join(
    f"{text},4:5,{'' if i == 7 else '5:6'},{text[4]},one,{DRAWN.choice('xy')},{'pqr'[i % 3]}\n"
    for i, text in enumerate(TEXTS)
)
FILE = {"kind": "file", "name": "made.csv", "text": CSV}
ASKED = {"data": FILE, "site": "resid_pre.2", "position": "KEY", "label": "kind"}
NAME = "kind at KEY, resid_pre.2"


def wire(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def done(session: Session) -> dict[str, Any] | None:
    """Once the job is over: its error, or None."""
    for _ in range(3000):
        now = wire(session)["probing"]
        if now is None or now["error"]:
            return None if now is None else now["error"]
        time.sleep(0.01)
    raise AssertionError("the fit did not end")


def fit(session: Session, **more: Any) -> str:
    name = session.intent("fit_probe", {**ASKED, **more})["name"]
    assert done(session) is None
    assert session.wait(60)
    return name


def library(session: Session) -> tuple[PromptSet, rs.Probe]:
    model = session.state.model.model
    data = rs.tasks.from_text(model, CSV, name="made.csv")
    return data, rs.fit_probe(model, data, site="resid_pre.2", position="KEY", label="kind")


def test_it_is_the_library_s_probe(live: Session) -> None:
    assert fit(live) == NAME
    held, (_, probe) = live.state.probes[NAME].probe, library(live)
    torch.testing.assert_close(held.weights, probe.weights, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(held.covariance, probe.covariance, rtol=1e-5, atol=1e-8)
    assert (held.accuracy, held.interval, held.C, held.counts) == (
        probe.accuracy,
        probe.interval,
        probe.C,
        probe.counts,
    )
    shown = wire(live)["probes"][0]
    assert shown["interval"][0] > 0.5
    assert shown["selectivity"] > 0.2
    assert "text" not in shown["data"]


def test_the_map_says_where_the_label_can_be_read_and_where_not(live: Session) -> None:
    fit(live)
    shown = live.probe(NAME)
    model = live.state.model.model
    assert shown["map_at"]["positions"] == ["END", "KEY"]  # one prompt lacks `late`
    assert shown["map"]["columns"] == [str(layer) for layer in range(model.n_layers)]
    end, key = shown["map"]["values"]
    assert key[0] == pytest.approx(0.5), "before the first block the token itself says its kind"
    assert end[0] < 0.2, "and END knows nothing of an earlier token"
    assert shown["map"]["marks"] == [[1, 2]]
    noise = live.probe(fit(live, label="noise"))
    assert max(abs(value) for row in noise["map"]["values"] for value in row) < 0.4


def test_the_map_agrees_with_the_probe_in_its_own_cell(one: Session) -> None:
    fit(one, label="noise")
    held = one.state.probes["noise at KEY, resid_pre.2"]
    assert held.map.right["resid_pre.2", "KEY"] == round(held.probe.accuracy * held.probe.held_out)


def test_where_every_token_is_the_first_the_map_stays_empty_and_says_so(one: Session) -> None:
    """At position 0 no statistic is taken: no accuracy is shown for it, and the others' do not wait for it."""
    csv = CSV.replace("@KEY,@late", "@FIRST,@KEY").replace(",4:5,,", ",0:1,4:5,").replace(",4:5,5:6,", ",0:1,4:5,")
    one.intent("fit_probe", {**ASKED, "data": {**FILE, "text": csv}})
    assert done(one) is None
    held = next(iter(one.state.probes.values()))
    assert held.map.done
    assert {held.map.right[site, "FIRST"] for site in held.map.sites} == {None}
    shown = one.probe(held.name)
    first = shown["map_at"]["positions"].index("FIRST")
    assert all(value is None or math.isnan(value) for value in shown["map"]["values"][first])
    assert "first ones" in shown["map"]["note"]
    one.intent("fit_probe", {**ASKED, "position": "FIRST", "data": {**FILE, "text": csv}})
    assert "stand at position 0" in str(done(one))


def test_it_comes_coarse_to_fine_and_another_layer_runs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        seen: list[tuple[int, int]] = []

        def listen(_: int, patch: dict[str, Any]) -> None:
            for probe in patch.get("probes", []):
                here = session.state.probes[probe["name"]].map
                seen.append((probe["revision"], len(here.right)))

        session.subscribe(listen)
        fit(session)
        known = [count for _, count in seen]
        assert known == sorted(known)
        assert known[0] == 0, "the probe itself comes before its map"
        assert 0 < known[1] < known[-1] == 2 * slow.n_layers
        before = slow.runs
        fit(session, site="resid_pre.3", position="END")
        assert slow.runs == before, "the recordings of the map serve"
        assert session.state.probes["kind at END, resid_pre.3"].map.done


def test_three_classes_have_a_histogram_each(one: Session) -> None:
    shown = one.probe(fit(one, label="three"))
    assert [part["of"] for part in shown["margins"]] == ["p", "q", "r"]
    assert [part["of"] for part in one.probe(fit(one))["margins"]] == ["b"]
    colours = [series["name"] for series in shown["margins"][0]["view"]["series"]]
    assert list(dict.fromkeys(shown["cloud"]["groups"])) == colours, "a class has one colour"
    held = one.state.probes["three at KEY, resid_pre.2"]
    drawn = dict(zip(shown["cloud"]["texts"], shown["cloud"]["groups"], strict=True))
    assert all(drawn[text] == label for text, label in zip(held.data.texts, held.data.label("three"), strict=True))
    n = wire(one)["probes"][0]["held_out"]
    for part in shown["margins"]:
        assert sum(series["n"] for series in part["view"]["series"]) == n


def test_the_data_says_what_can_be_chosen(one: Session) -> None:
    found = one.intent("read_data", {"data": FILE})
    assert found["n"] == 48
    assert {label["name"]: label["classes"] for label in found["labels"]} == {
        "kind": 2,
        "same": 1,
        "noise": 2,
        "three": 3,
    }
    assert {p["name"]: p["lacking"] for p in found["positions"]} == {"END": 0, "KEY": 0, "late": 1}


def test_a_live_prompt_is_read_at_its_own_position(one: Session) -> None:
    fit(one)
    one.intent("set_prompt", {"text": TEXTS[0]})
    assert one.wait(60)
    run, (_, probe) = wire(one)["current"]["a"], library(one)
    found = one.probe_reading(NAME, run=run, pos=0, named=True)
    assert (found["pos"], found["own"], found["label"]) == (4, True, TEXTS[0][4])
    x = one.state.model.model.run(TEXTS[0], ["resid_pre.2"])["resid_pre.2"][0, 4]
    assert found["log_prob"] == pytest.approx(probe.log_prob(x).tolist(), abs=1e-5)
    assert one.probe_reading(NAME, run=run, pos=6, named=False)["pos"] == 6
    with pytest.raises(UnknownPosition):
        one.probe_reading(NAME, run=run, pos=99)
    one.intent("set_prompt", {"text": "no such prompt"})
    assert one.wait(60)
    other = one.probe_reading(NAME, run=wire(one)["current"]["a"], pos=2, named=True)
    assert (other["pos"], other["own"], other["label"]) == (2, False, None)


EDITS = [
    {"kind": "lrqp", "to": "b", "log_alpha": 3.0},
    {"kind": "lrqp", "to": "a", "log_alpha": 20.0, "covariance": "within"},
    {"kind": "set_concept", "method": "mean_difference", "to": "b"},
    {"kind": "set_concept", "method": "project_out", "to": "b"},
    {"kind": "set_concept", "method": "mean_difference", "to": "neutral"},
    {"kind": "lrqp", "to": "neutral"},
    {"kind": "set_concept", "method": "constant_dose", "to": "b", "dose": 0.5},
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.get("method") or f"lrqp-{edit['to']}")
def test_an_edit_lands_where_the_page_was_told_it_would(live: Session, edit: dict[str, Any]) -> None:
    """What the browser computes while dragging is what the probe then reads in the edited run."""
    fit(live)
    live.intent("set_prompt", {"text": TEXTS[0]})
    assert live.wait(60)
    before = live.probe_reading(NAME, run=wire(live)["current"]["a"], pos=4)
    live.intent("add_edit", {"edit": {**edit, "probe": NAME, "site": "resid_pre.2", "pos": [4]}})
    assert live.wait(60)
    state = wire(live)
    after = live.probe_reading(NAME, run=state["current"]["b"], pos=4)["log_prob"]
    if edit["to"] == "neutral" and edit["kind"] == "lrqp":
        edit = {**edit, "method": "project_out"}
    if "method" not in edit:
        sign = 1 if edit["to"] == "b" else -1
        was = sign * (before["log_prob"][1] - before["log_prob"][0])
        assert sign * (after[1] - after[0]) == pytest.approx(max(was, edit["log_alpha"]), abs=1e-4)
    else:
        move = before["moves"][edit["method"]][edit["to"]]
        scores = [at + edit.get("dose", 0) * slope for at, slope in zip(move["at"], move["slope"], strict=True)]
        assert after[1] - after[0] == pytest.approx(scores[1] - scores[0], abs=1e-4)
    runs = {run["id"]: run for run in state["runs"]}
    assert runs[state["current"]["b"]]["metric"] != runs[state["current"]["a"]]["metric"]
    assert state["edits"][0]["delta"] is not None


def test_the_python_gives_the_same_numbers(one: Session, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(one)
    one.intent("set_prompt", {"text": TEXTS[0]})
    one.intent("set_edits", {"edits": [{**edit, "probe": NAME, "site": "resid_pre.2", "pos": 4} for edit in EDITS]})
    assert one.wait(60)
    code = one.intent("python", {})["code"]
    assert code.count("rs.fit_probe(") == 1
    assert "probe.save(" in code
    (tmp_path / "made.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rs, "load", lambda *_, **__: one.state.model.model, raising=False)
    names: dict[str, Any] = {}
    exec(code, names)
    state = wire(one)
    run = next(run for run in state["runs"] if run["id"] == state["current"]["b"])
    last = names["edited"].logits[0, -1]
    metric = state["metric"]
    assert float(last[metric["positive"]["id"]] - last[metric["negative"]["id"]]) == pytest.approx(
        run["metric"], abs=1e-4
    )


def test_an_edit_whose_probe_is_not_there_is_refused_and_says_how_to_get_it(one: Session) -> None:
    edit = {**EDITS[0], "probe": NAME, "site": "resid_pre.2", "pos": [2]}
    with pytest.raises(NotFound, match="Probe tab"):
        one.intent("add_edit", {"edit": edit})
    fit(one)
    one.intent("add_edit", {"edit": edit})
    for wrong in ({"site": "resid_pre.1"}, {"pos": None}, {"to": "z"}, {"to": "other"}, {"head": 1}, {"dose": 1.0}):
        with pytest.raises(BadEdit):
            one.intent("add_edit", {"edit": {**edit, **wrong}})
    with pytest.raises(UnknownPosition):
        one.intent("add_edit", {"edit": {**edit, "pos": [99]}})
    assert one.wait(60)


BAD = [
    ("one class", {"label": "same"}, "OneClass", "one"),
    ("no such label", {"label": "colour"}, "MissingLabel", "kind"),
    ("no such position", {"position": "S2"}, "UnknownPosition", "KEY"),
    ("a position one prompt lacks", {"position": "late"}, "UnknownPosition", "prompt 7"),
    ("heads", {"site": "z.1"}, "UnknownHead", "head"),
    ("ragged", {"data": {**FILE, "text": "text,kind\nab,a\nab,c,d\n"}}, "BadTable", "line 3"),
    (
        "words that are not there",
        {"data": {**FILE, "text": "text,@K,kind\nab,zz,a\n"}},
        "BadTable",
        "line 2, column @K",
    ),
    ("no table", {"data": {**FILE, "name": "made.txt"}}, "BadTable", "csv"),
    ("split names", {"data": {"kind": "task", "task": "ioi", "n": 20}}, "TooFewWords", "names"),
]


@pytest.mark.parametrize(("more", "type", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_cannot_be_fitted_says_why(one: Session, more: dict[str, Any], type: str, said: str) -> None:
    one.intent("fit_probe", {**ASKED, **more})
    error = done(one)
    assert error is not None
    assert error["type"] == type, error
    assert said in error["message"]
    assert wire(one)["probes"] == []
    one.intent("cancel_probe", {})
    assert wire(one)["probing"] is None
    fit(one)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"data": {"kind": "task", "task": "ioi2"}}, UnknownTask),
        ({"site": "resid_prey.1"}, UnknownSite),
        ({"data": {"kind": "task"}}, MalformedJSON),
        ({"label": 3}, MalformedJSON),
    ],
)
def test_what_is_refused_at_once_leaves_no_trace(one: Session, more: dict[str, Any], error: type[Exception]) -> None:
    before = one.snapshot()
    with pytest.raises(error):
        one.intent("fit_probe", {**ASKED, **more})
    assert one.snapshot() == before


def test_a_newer_fit_replaces_an_older_and_cancel_ends_it() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        session.intent("fit_probe", ASKED)
        assert slow.entered.wait(30)
        session.intent("fit_probe", {**ASKED, "label": "noise"})
        slow.gate.set()
        assert done(session) is None
        assert [probe["label"] for probe in wire(session)["probes"]] == ["noise"]
        slow.gate.clear()
        slow.entered.clear()
        session.intent("fit_probe", {**ASKED, "data": {**FILE, "text": CSV + "abcdefgh,2:3,3:4,a,one,x,p\n"}})
        assert slow.entered.wait(30)
        session.intent("cancel_probe", {})
        slow.gate.set()
        assert session.wait(30)
        time.sleep(0.1)
        assert [probe["label"] for probe in wire(session)["probes"]] == ["noise"]


def test_a_name_once_taken_keeps_its_probe_and_another_model_drops_them(one: Session) -> None:
    fit(one)
    kept = one.state.probes[NAME]
    assert one.intent("fit_probe", ASKED)["name"] == NAME
    assert wire(one)["probing"] is None
    assert one.state.probes[NAME] is kept
    other = fit(one, data={**FILE, "text": CSV + "abcdefgh,0:1,3:4,a,one,x,p\n"})
    assert other == f"{NAME} (2)"
    one.intent("add_edit", {"edit": {**EDITS[0], "probe": NAME, "site": "resid_pre.2", "pos": [2]}})
    one.load(worlds.model("gpt2"))
    assert one.wait(60)
    state = wire(one)
    assert (state["probes"], state["probing"]) == ([], None)
    assert "no probe of that name" in state["edits"][0]["error"]
    assert any("Probes belong to the model before" in notice for notice in state["notices"])


def test_the_live_run_goes_first() -> None:
    """While a fit is at work, a prompt's run waits for one batch at most."""
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        session.intent("fit_probe", ASKED)
        assert slow.entered.wait(30)
        before = slow.runs
        session.intent("set_prompt", {"text": "while it fits"})
        slow.gate.set()
        assert done(session) is None
        assert session.wait(30)
        run = next(run for run in wire(session)["runs"] if run["prompt"] == "while it fits")
        assert run["version"] == wire(session)["version"]
        assert slow.runs > before
        assert math.isfinite(run["metric"])


def test_an_edit_of_a_methods_argument_is_for_the_methods_prompts_not_for_the_typed_one(one: Session) -> None:
    fit(one)
    state = one.state
    world = state.world()
    wanted = [{"kind": "lrqp", "probe": NAME, "site": "resid_pre.2", "to": to} for to in ("other", "true", "b")]
    made = world.edits(wanted)  # no position, and a class that only a labelled prompt has
    assert [edit.to for edit in made] == ["other", "true", "b"]
    beyond = 28  # the typed prompt is shorter
    assert world.edits([{"kind": "scale", "site": "mlp_out.1", "factor": 2.0, "pos": beyond}])[0].pos == (beyond,)
    with pytest.raises(SiteError, match=r"layer|site"):
        world.edits([{"kind": "scale", "site": "mlp_out.99", "factor": 2.0}])
