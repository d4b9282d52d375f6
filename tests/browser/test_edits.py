"""Every kind of edit, added on the page by its form: the number on screen is Python's, and undo brings the old one back."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, metric, settled
from residscope import directions, edits
from residscope.declare import EDITS

pytestmark = pytest.mark.browser

OTHER = "When John and Mary went to the store, Mary gave a bottle of milk to"
MARY = {"direction": "token", "direction-token": " Mary"}


def mary(model: Any) -> Any:
    return directions.unembedding(model, " Mary")


# what is put into the form's fields (a leading ~ is a text box, the rest are as they are), and the same in Python
CASES: dict[str, tuple[str, dict[str, str], Callable[[Any], Any]]] = {
    "a head": ("ablate", {"site": "z", "site-layer": "23", "head": "3"}, lambda m: edits.ablate("z.23", head=3)),
    "a layer's attention, at two tokens": (
        "ablate",
        {"site": "attn_out", "site-layer": "20", "pos": "these", "pos-text": "9, 15"},
        lambda m: edits.ablate("attn_out.20", pos=[9, 15]),
    ),
    "all layers of a site": ("scale", {"site": "z", "site-layer": "", "factor": "0.9"}, lambda m: edits.scale("z", 0.9)),
    "a mean at each position over a text": (
        "ablate",
        {"site": "z", "site-layer": "23", "to": "mean", "over": "drawn", "by": "position", "head": "3"},
        lambda m: edits.ablate("z.23", "mean", over=rs.draw_prompts(m, "python-docs", 50, length=40), by="position", head=3),
    ),
    "a resampled MLP": (
        "ablate",
        {"site": "mlp_out", "site-layer": "22", "to": "resample", "over": "drawn", "seed": "3"},
        lambda m: edits.ablate("mlp_out.22", "resample", over=rs.draw_prompts(m, "python-docs", 50, length=40), seed=3),
    ),
    "noise": ("noise", {"site": "embed", "sigma": "0.02", "seed": "5"}, lambda m: edits.noise("embed", 0.02, seed=5)),
    "steering": (
        "steer",
        {"site": "resid_post", "site-layer": "20", **MARY, "strength": "25", "unit": "norm"},
        lambda m: edits.steer("resid_post.20", mary(m), 25.0),
    ),
    "a coordinate": (
        "clamp",
        {"site": "resid_post", "site-layer": "22", **MARY, "value": "4", "space": "raw"},
        lambda m: edits.clamp("resid_post.22", mary(m), 4.0, space="raw"),
    ),
    "a projection": (
        "project_out",
        {"site": "resid_post", "site-layer": "24", **MARY},
        lambda m: edits.project_out("resid_post.24", mary(m)),
    ),
    "two heads alone": (
        "isolate",
        {"site": "z", "site-layer": "23", "head": "3, 5"},
        lambda m: edits.isolate("z.23", head=[3, 5]),
    ),
    "a patch": (
        "patch",
        {"site": "resid_pre", "site-layer": "12", "source": "typed", "source-text": OTHER, "pos": "selected"},
        lambda m: edits.patch("resid_pre.12", OTHER, pos=15),
    ),
    "a path": (
        "path",
        {
            "sender": "z", "sender-layer": "23", "sender_head": "3", "receiver": "final_norm", "source": "typed",
            "source-text": OTHER,
        },
        lambda m: edits.path("z.23", "final_norm", OTHER, sender_head=3),
    ),
    "a feature": (
        "feature",
        {"dictionary": "pca@resid_post.23", "index": "2", "scale": "0"},
        lambda m: edits.feature(directions.shipped(m)["resid_post.23"], 2, 0.0),
    ),
    "a weight": (
        "overlay",
        {
            "weight": "model.layers.24.self_attn.o_proj", "low_rank-read": "token", "low_rank-read-token": " Mary",
            "low_rank-write": "token", "low_rank-write-token": " John", "low_rank-strength": "3",
        },
        lambda m: edits.overlay(
            "model.layers.24.self_attn.o_proj",
            (unit(mary(m).read), 3.0 * unit(directions.unembedding(m, " John").write)),
        ),
    ),
}  # fmt: skip


def unit(x: Any) -> Any:
    return x.float() / x.float().norm()


def open_form(page: Page, kind: str) -> None:
    page.get_by_test_id("add-edit").click()
    page.get_by_test_id("edit-kind").select_option(kind)


def fill(page: Page, values: dict[str, str]) -> None:
    for name, value in values.items():
        field = page.get_by_test_id(f"field-{name}")
        if field.evaluate("node => node.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
            field.press("Tab")


def add(page: Page) -> None:
    expect(page.get_by_test_id("edit-submit")).to_be_enabled()
    page.get_by_test_id("edit-submit").click()
    expect(page.get_by_test_id("result-b")).to_be_visible(timeout=60_000)
    settled(page)


@pytest.mark.parametrize("case", CASES)
def test_an_edit_of_the_form_gives_pythons_number(bench: Page, workbench: Any, case: str) -> None:
    kind, values, make = CASES[case]
    model, m = workbench.session.model, rs.logit_diff(" Mary", " John")
    baseline = metric(bench, "a")
    open_form(bench, kind)
    fill(bench, values)
    add(bench)
    expected = m(model.run(IOI, edits=make(model))).item()
    assert metric(bench, "b") == pytest.approx(expected, abs=2e-3)
    assert abs(expected - baseline) > 1e-4, "an edit that does nothing would say nothing"
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(1)
    bench.get_by_test_id("undo").click()
    expect(bench.get_by_test_id("result-b")).to_have_count(0)
    assert metric(bench, "a") == baseline


def test_a_freeze_holds_what_another_edit_changes(bench: Page, workbench: Any) -> None:
    open_form(bench, "scale")
    fill(bench, {"site": "resid_pre", "site-layer": "10", "factor": "1.2"})
    add(bench)
    alone = metric(bench, "b")
    open_form(bench, "freeze")
    fill(bench, {"site": "patterns"})
    bench.get_by_test_id("edit-submit").click()
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(2)
    settled(bench)
    model = workbench.session.model
    both = [edits.scale("resid_pre.10", 1.2), edits.freeze("patterns")]
    expected = rs.logit_diff(" Mary", " John")(model.run(IOI, edits=both)).item()
    expect(bench.get_by_test_id("result-b")).not_to_have_attribute("data-value", str(alone))
    assert metric(bench, "b") == pytest.approx(expected, abs=2e-3)


def test_a_probes_edit_acts_at_the_position_its_task_names(bench: Page, workbench: Any) -> None:
    session = workbench.session
    recipe = {
        "data": {"kind": "task", "task": "ioi", "n": 60},
        "site": "resid_mid.18",
        "position": "S2",
        "label": "order",
    }
    job = session.intent("start", {"method": "probe-map", "args": recipe})["job"]
    while not next(one for one in session.state.jobs if one.id == job).ended:
        bench.wait_for_timeout(100)
    fitted = list(session.state.probes.values())[-1]
    name = fitted.id
    text = fitted.data.texts[0]
    session.intent("set_prompt", {"text": text})
    settled(bench)
    open_form(bench, "lrqp")
    fill(bench, {"probe": name, "to": fitted.probe.classes[1], "log_alpha": "6", "pos": "these", "pos-text": "S2"})
    add(bench)
    model, at = session.model, fitted.data.positions["S2"][0]
    edit = rs.lrqp(fitted.probe, fitted.probe.classes[1], log_alpha=6.0, pos=at)
    shown = session.state.metric
    expected = rs.logit_diff(shown.positive.id, shown.negative.id)(model.run(text, edits=edit)).item()
    assert metric(bench, "b") == pytest.approx(expected, abs=2e-3)
    open_form(bench, "set_concept")
    fill(bench, {"probe": name, "method": "constant_dose", "dose": "5", "pos": "these", "pos-text": str(at)})
    bench.get_by_test_id("edit-submit").click()
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(2)
    settled(bench)
    both = [edit, rs.concepts.constant_dose(fitted.probe, fitted.probe.classes[0], dose=5.0, pos=at)]
    expected = rs.logit_diff(shown.positive.id, shown.negative.id)(model.run(text, edits=both)).item()
    assert metric(bench, "b") == pytest.approx(expected, abs=2e-3)


def test_every_kind_there_is_has_a_case_here() -> None:
    assert {kind for kind, _, _ in CASES.values()} | {"freeze", "lrqp", "set_concept"} == {*EDITS}
