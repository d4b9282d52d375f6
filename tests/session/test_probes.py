"""Probes of the session: fitted as the library fits them, read in live runs, set by edits; refused and cancelled cleanly."""

import math
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import residscope as rs
from residscope.errors import (
    BadArguments,
    BadEdit,
    NameTaken,
    NotFound,
    ResidscopeError,
    SiteError,
    UnknownPosition,
    UnknownSite,
    UnknownTask,
)
from residscope.fields.prompts import ProbePrompts
from residscope.model.prompts import PromptSet
from residscope.probes.probe_map import ProbeMap
from residscope.session import Session
from session import worlds
from session.asked import jobs, shelf, start

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


def ask(session: Session, **more: Any) -> str:
    """A job that fits and maps a probe: its id."""
    return start(session, "probe-map", **{**ASKED, **more})


def fit(session: Session, **more: Any) -> str:
    """What edits call the probe, once its job is done."""
    told = ended(session, ask(session, **more))
    assert told["phase"] == "done", told["error"]
    (name,) = told["items"]
    return next(probe["name"] for probe in wire(session)["probes"] if probe["item"] == name)


def ended(session: Session, job: str) -> dict[str, Any]:
    assert session.wait(60)
    return jobs(session)[job]


def held(session: Session, name: str = NAME) -> ProbeMap:
    found = session.state.probes[name].item
    assert isinstance(found, ProbeMap)
    return found


def right(mapped: ProbeMap, site: str, position: str) -> int:
    """How many of the held-out prompts are read right there."""
    return round(float(mapped.accuracy.select(site=site, position=position).values) * len(mapped.held_out))


def library(session: Session) -> tuple[PromptSet, rs.Probe]:
    model = session.state.model.model
    data = rs.tasks.from_text(model, CSV, name="made.csv")
    return data, rs.fit_probe(model, data, site="resid_pre.2", position="KEY", label="kind")


def test_it_is_the_library_s_probe(live: Session) -> None:
    assert fit(live) == NAME
    own, (_, probe) = held(live).probe, library(live)
    torch.testing.assert_close(own.weights, probe.weights, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(own.covariance, probe.covariance, rtol=1e-5, atol=1e-8)
    assert (own.accuracy, own.interval, own.C, own.counts) == (
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
    shown = live.reads.probe(NAME)
    model = live.state.model.model
    assert shown["map_at"]["positions"] == ["END", "KEY"]  # one prompt lacks `late`
    assert shown["map"]["columns"] == [str(layer) for layer in range(model.n_layers)]
    end, key = shown["map"]["values"]
    assert key[0] == pytest.approx(0.5), "before the first block the token itself says its kind"
    assert end[0] < 0.2, "and END knows nothing of an earlier token"
    assert shown["map"]["marks"] == [[1, 2]]
    noise = live.reads.probe(fit(live, label="noise"))
    assert max(abs(value) for row in noise["map"]["values"] for value in row) < 0.4


def test_prompts_of_token_ids_alone_are_tried_as_text(one: Session, tmp_path: Path) -> None:
    """A file may hold prompts without their texts, and answers as ids: the page types both."""
    data, model = library(one)[0], one.model
    answers = tuple((model.token_id(text[4]), model.token_id("z")) for text in TEXTS)
    replace(data, texts=None, answers=answers).save(tmp_path / "ids.safetensors")
    one.intent("import_item", {"data": (tmp_path / "ids.safetensors").read_bytes(), "name": "ids"})
    shown = one.query("probe", {"name": fit(one, data={"kind": "item", "name": "ids"})})
    assert len(shown["examples"]) == 12
    for example in shown["examples"]:
        assert example["text"] in TEXTS
        assert example["answers"] == [example["label"], "z"] == [example["text"][4], "z"]
        one.intent("set_prompt", {"text": example["text"]})
        one.intent("set_metric", dict(zip(("positive", "negative"), example["answers"], strict=True)))


def test_the_map_agrees_with_the_probe_in_its_own_cell(one: Session) -> None:
    fit(one, label="noise")
    found = held(one, "noise at KEY, resid_pre.2")
    assert right(found, "resid_pre.2", "KEY") == round(found.probe.accuracy * found.probe.held_out)


def test_where_every_token_is_the_first_the_map_stays_empty_and_says_so(one: Session) -> None:
    """At position 0 no statistic is taken: no accuracy is shown for it, and the others' do not wait for it."""
    csv = CSV.replace("@KEY,@late", "@FIRST,@KEY").replace(",4:5,,", ",0:1,4:5,").replace(",4:5,5:6,", ",0:1,4:5,")
    found = held(one, name := fit(one, data={**FILE, "text": csv}))
    assert [job["note"] for job in jobs(one).values()] == [""], "it says itself what is not there"
    assert found.done
    assert [at for at in found.unfitted if at[1] == "FIRST"] == [(site, "FIRST") for site in found.sites]
    assert len(found.unfitted) == len(found.sites)
    shown = one.reads.probe(name)
    first = shown["map_at"]["positions"].index("FIRST")
    assert all(value is None or math.isnan(value) for value in shown["map"]["values"][first])
    assert "first ones" in shown["map"]["note"]
    told = ended(one, ask(one, position="FIRST", data={**FILE, "text": csv}))
    assert "stand at position 0" in str(told["error"])


def test_it_comes_coarse_to_fine_and_another_layer_runs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        seen: list[tuple[int, int]] = []

        def listen(_: int, patch: dict[str, Any]) -> None:
            for probe in patch.get("probes", []):
                here = held(session, probe["name"])
                seen.append((probe["revision"], int((~here.accuracy.values.isnan()).sum())))

        session.subscribe(listen)
        fit(session)
        known = [count for _, count in seen]
        assert known == sorted(known)
        assert known[0] == 0, "the probe itself comes before its map"
        assert 0 < known[1] < known[-1] == 2 * slow.n_layers
        before = slow.runs
        fit(session, site="resid_pre.3", position="END")
        assert slow.runs == before, "the recordings of the map serve"
        assert held(session, "kind at END, resid_pre.3").done


def test_three_classes_have_a_histogram_each(one: Session) -> None:
    shown = one.reads.probe(fit(one, label="three"))
    assert [part["of"] for part in shown["margins"]] == ["p", "q", "r"]
    assert [part["of"] for part in one.reads.probe(fit(one))["margins"]] == ["b"]
    colours = [series["name"] for series in shown["margins"][0]["view"]["series"]]
    assert list(dict.fromkeys(shown["cloud"]["groups"])) == colours, "a class has one colour"
    found = held(one, "three at KEY, resid_pre.2")
    drawn = dict(zip(shown["cloud"]["texts"], shown["cloud"]["groups"], strict=True))
    assert all(drawn[text] == label for text, label in zip(found.data.texts, found.data.label("three"), strict=True))
    n = wire(one)["probes"][0]["held_out"]
    for part in shown["margins"]:
        assert sum(series["n"] for series in part["view"]["series"]) == n


def test_the_data_says_what_can_be_chosen(one: Session) -> None:
    found = one.query("read_data", {"data": FILE})
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
    found = one.reads.probe_reading(NAME, run=run, pos=0, named=True)
    assert (found["pos"], found["own"], found["label"]) == (4, True, TEXTS[0][4])
    x = one.state.model.model.run(TEXTS[0], ["resid_pre.2"])["resid_pre.2"][0, 4]
    assert found["log_prob"] == pytest.approx(probe.log_prob(x).tolist(), abs=1e-5)
    assert one.reads.probe_reading(NAME, run=run, pos=6, named=False)["pos"] == 6
    with pytest.raises(UnknownPosition):
        one.reads.probe_reading(NAME, run=run, pos=99)
    one.intent("set_prompt", {"text": "no such prompt"})
    assert one.wait(60)
    other = one.reads.probe_reading(NAME, run=wire(one)["current"]["a"], pos=2, named=True)
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
    before = live.reads.probe_reading(NAME, run=wire(live)["current"]["a"], pos=4)
    live.intent("add_edit", {"edit": {**edit, "probe": NAME, "site": "resid_pre.2", "pos": [4]}})
    assert live.wait(60)
    state = wire(live)
    after = live.reads.probe_reading(NAME, run=state["current"]["b"], pos=4)["log_prob"]
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
    before = one.snapshot()
    with pytest.raises(ResidscopeError) as refused:
        ask(one, **more)
    assert refused.value.__class__.__name__ == type
    assert said in str(refused.value)
    assert one.snapshot() == before, "no job is taken"
    fit(one)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"data": {"kind": "task", "task": "ioi2"}}, UnknownTask),
        ({"site": "resid_prey.1"}, UnknownSite),
        ({"data": {"kind": "task"}}, BadArguments),
        ({"label": 3}, BadArguments),
    ],
)
def test_what_is_refused_at_once_leaves_no_trace(one: Session, more: dict[str, Any], error: type[Exception]) -> None:
    before = one.snapshot()
    with pytest.raises(error):
        ask(one, **more)
    assert one.snapshot() == before


def test_a_cancelled_fit_leaves_nothing_and_the_others_go_on() -> None:
    """As the page does: a newer fit of its own stops the older."""
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        older = ask(session)
        assert slow.entered.wait(30)
        session.intent("cancel", {"job": older})
        newer = ask(session, label="noise")
        slow.gate.set()
        assert ended(session, newer)["phase"] == "done"
        assert jobs(session)[older]["phase"] == "cancelled"
        assert [probe["label"] for probe in wire(session)["probes"]] == ["noise"]
        slow.gate.clear()
        slow.entered.clear()
        last = ask(session, data={**FILE, "text": CSV + "abcdefgh,2:3,3:4,a,one,x,p\n"})
        assert slow.entered.wait(30)
        session.intent("cancel", {"job": last})
        slow.gate.set()
        assert ended(session, last)["phase"] == "cancelled"
        assert [probe["label"] for probe in wire(session)["probes"]] == ["noise"]


def test_stopped_while_it_maps_the_probe_and_what_is_mapped_stay_under_one_name() -> None:
    """Edits may name the probe from the moment that it is there, and go on naming it."""
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        session.intent("set_prompt", {"text": TEXTS[0]})
        assert session.wait(60)
        stopped: list[bool] = []

        def listen(_: int, patch: dict[str, Any]) -> None:
            if patch.get("probes") and not stopped:
                stopped.append(True)
                slow.gate.clear()  # before the map's own pass

        session.subscribe(listen)
        job = ask(session)
        deadline = time.monotonic() + 30
        while not stopped and time.monotonic() < deadline:
            time.sleep(0.01)
        (growing,) = wire(session)["probes"]
        assert (growing["name"], growing["item"], growing["job"], growing["mapped"]) == (NAME, None, job, "part")
        session.intent("add_edit", {"edit": {**EDITS[0], "probe": NAME, "site": "resid_pre.2", "pos": [4]}})
        assert wire(session)["edits"][0]["error"] is None
        session.intent("cancel", {"job": job})
        slow.gate.set()
        assert ended(session, job)["items"] == [f"{NAME}, cut short"]
        (kept,) = wire(session)["probes"]
        assert (kept["name"], kept["item"], kept["job"], kept["mapped"]) == (NAME, f"{NAME}, cut short", None, "part")
        assert wire(session)["edits"][0]["error"] is None
        assert fit(session) == f"{NAME} (2)", "a name is given once"
        session.intent("rename_item", {"name": f"{NAME}, cut short", "to": "mine"})
        assert wire(session)["edits"][0]["error"] is None
        session.intent("delete_item", {"name": "mine"})
        assert "no probe of that name" in wire(session)["edits"][0]["error"]
        lost = {
            key: wire(session)["edits"][0][key] for key in ("id", "kind", "to", "log_alpha", "probe", "site", "pos")
        }
        other = {"kind": "scale", "site": "mlp_out.1", "factor": 0.5}
        session.intent("set_edits", {"edits": [lost, other]})  # as the page says the whole stack
        session.intent("set_edits", {"edits": [lost]})
        assert fit(session, label="noise") == "noise at KEY, resid_pre.2"
        session.intent("restore_item")
        assert wire(session)["edits"][0]["error"] is None
        assert session.wait(60)


def test_a_name_once_taken_keeps_its_probe_and_another_model_drops_them(one: Session) -> None:
    fit(one)
    kept = held(one)
    other = fit(one, data={**FILE, "text": CSV + "abcdefgh,0:1,3:4,a,one,x,p\n"})
    assert other == f"{NAME} (2)"
    assert held(one) is kept
    one.intent("add_edit", {"edit": {**EDITS[0], "probe": NAME, "site": "resid_pre.2", "pos": [2]}})
    one.load(worlds.model("gpt2"))
    assert one.wait(60)
    state = wire(one)
    assert (state["probes"], state["jobs"]) == ([], [])
    assert "no probe of that name" in state["edits"][0]["error"]
    assert any("Probes belong to the model before: 2 dropped" in notice for notice in state["notices"])


def test_a_deleted_probes_name_is_not_another_s(one: Session) -> None:
    """Runs are kept by what their edits say: a name that came to mean another probe would show the old one's numbers."""
    one.intent("set_prompt", {"text": TEXTS[0]})
    fit(one)
    edit = {**EDITS[0], "probe": NAME, "site": "resid_pre.2", "pos": [4]}
    one.intent("set_edits", {"edits": [edit]})
    assert one.wait(60)
    one.intent("delete_item", {"name": NAME})
    other = fit(one, data={**FILE, "text": CSV + "abcdefgh,0:1,3:4,a,one,x,p\n"})
    assert other == f"{NAME} (2)"
    assert shelf(one) == [other]
    with pytest.raises(NameTaken):
        one.intent("rename_item", {"name": other, "to": NAME})
    told = ended(one, start(one, "probe-map", name=NAME, **{**ASKED, "label": "noise"}))
    assert NAME not in told["items"]
    assert "no probe" in wire(one)["edits"][0]["error"]
    one.intent("set_edits", {"edits": [{**edit, "probe": other}]})
    assert one.wait(60)
    run = next(run for run in wire(one)["runs"] if run["id"] == wire(one)["current"]["b"])
    model, probe = one.state.model.model, held(one, other).probe
    expected = model.run(TEXTS[0], edits=rs.lrqp(probe, to="b", log_alpha=3.0, pos=4)).logits[0, -1]
    metric = wire(one)["metric"]
    assert float(expected[metric["positive"]["id"]] - expected[metric["negative"]["id"]]) == pytest.approx(
        run["metric"], abs=1e-4
    )


def test_an_edit_that_says_the_name_of_its_item_is_of_that_probe_for_good(one: Session) -> None:
    ended(one, start(one, "probe-map", name="mine", **ASKED))
    one.intent("add_edit", {"edit": {**EDITS[0], "probe": "mine", "site": "resid_pre.2", "pos": [2]}})
    assert wire(one)["edits"][0]["probe"] == NAME
    one.intent("rename_item", {"name": "mine", "to": "yours"})
    assert wire(one)["edits"][0]["error"] is None
    assert one.wait(60)


def test_probes_and_their_names_survive_the_session(tmp_path: Path) -> None:
    """Also those of `fit-probe`, which have no prompts: edits name them, the tab does not show them."""
    with worlds.session(folder=tmp_path) as session:
        fit(session)
        assert session.wait(60)
        told = ended(session, start(session, "fit-probe", **{**ASKED, "site": "resid_pre.1"}))
        assert told["phase"] == "done", told["error"]
        before, shown = wire(session)["probes"], session.reads.probe(NAME)
        kept = held(session)
    with worlds.session(folder=tmp_path) as again:
        assert wire(again)["probes"] == [{**probe, "revision": 0} for probe in before]
        assert [probe["mapped"] for probe in before] == ["whole", "none"]
        assert held(again) == kept
        assert again.reads.probe(NAME) == {**shown, "revision": 0}
        with pytest.raises(NotFound, match="without its prompts"):
            again.reads.probe("kind at KEY, resid_pre.1")
        again.intent("set_prompt", {"text": TEXTS[0]})
        assert again.wait(60)
        run = wire(again)["current"]["a"]
        assert again.reads.probe_reading(NAME, run=run, pos=0, named=True)["pos"] == 4
        for layer in (1, 2):
            edit = {**EDITS[0], "probe": f"kind at KEY, resid_pre.{layer}", "site": f"resid_pre.{layer}", "pos": [4]}
            again.intent("add_edit", {"edit": edit})
        again.load(worlds.model("gpt2"))
        assert again.wait(60)
        assert any("2 put away until it is loaded again" in notice for notice in wire(again)["notices"])


def test_named_positions_are_those_of_the_probes_own_prompts(one: Session) -> None:
    fit(one)
    one.intent("set_prompt", {"text": TEXTS[7]})
    assert one.state.prompt.names == {"END": 7, "KEY": 4}, "it lacks `late`"
    one.intent("set_prompt", {"text": "no such prompt"})
    assert one.state.prompt.names == {}


def test_the_live_run_goes_first() -> None:
    """While a fit is at work, a prompt's run waits for one batch at most."""
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        slow.gate.clear()
        slow.entered.clear()
        job = ask(session)
        assert slow.entered.wait(30)
        before = slow.runs
        session.intent("set_prompt", {"text": "while it fits"})
        slow.gate.set()
        assert ended(session, job)["phase"] == "done"
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


def test_a_probe_s_held_out_prompts_are_those_that_its_fit_has_not_seen(one: Session) -> None:
    """What the Probe tab measures an edit over: the same rows as Python's own split, and none of the training half."""
    fit(one)
    mapped, (data, _) = held(one), library(one)
    train, test = data.split(by="kind")
    world = one.state.world()
    for part, prompts in (("held_out", test), ("training", train), ("all", data)):
        given = world.prompts(ProbePrompts(kind="probe", probe=NAME, part=part))
        assert given.prompts == prompts.prompts
        assert given.label("kind") == prompts.label("kind")
    assert len(test) == len(mapped.held_out) == mapped.probe.held_out
    told = one.query("read_data", {"data": {"kind": "probe", "probe": NAME}})
    assert told["n"] == len(test)
    with pytest.raises(NotFound, match="no probe of that name"):
        world.prompts(ProbePrompts(kind="probe", probe="nobody"))


def test_every_point_of_the_cloud_is_the_prompt_that_it_opens(one: Session) -> None:
    name = fit(one)
    shown, (data, _) = one.reads.probe(name), library(one)
    assert sorted(shown["cloud_rows"]) == [*range(len(data))]
    assert shown["cloud_rows"] != [*range(len(data))], "the classes are mixed in the data, or nothing is compared"
    for k, row in enumerate(shown["cloud_rows"]):
        opened = one.query("probe_prompt", {"name": name, "row": row})
        assert opened["text"] == data.texts[row]
        assert shown["cloud"]["texts"][k] == opened["text"][-80:]
        assert shown["cloud"]["groups"][k] == opened["label"] == data.label("kind")[row]
    for row in (-1, len(data)):
        with pytest.raises(NotFound, match="no prompt of that number"):
            one.query("probe_prompt", {"name": name, "row": row})


def test_where_its_position_stands_is_known_of_its_own_prompts_alone(one: Session) -> None:
    """Of any other prompt nobody knows it: the token that is asked for is read, and is not said to be the probe's."""
    name = fit(one)
    data, _ = library(one)
    for text, place in ((data.texts[3], data.at("KEY")[3]), ("efghefgh", None)):
        one.intent("set_prompt", {"text": text})
        assert one.wait(60)
        run = wire(one)["current"]["a"]
        told = one.query("probe_reading", {"name": name, "run": run, "pos": 1, "named": True})
        assert (told["place"], told["own"]) == (place, place is not None)
        assert told["pos"] == (1 if place is None else place)
        assert one.query("probe_reading", {"name": name, "run": run, "pos": 2})["pos"] == 2
