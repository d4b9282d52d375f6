"""Generating on the real model: both sides stream and are Python's, a token is looked into, it stops, waits and goes stale."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import IOI, Traffic, metric, settled, type_prompt
from residscope import edits

pytestmark = pytest.mark.browser
LONG = 60_000
PROMPT = "The animal that barks at strangers is called a"
CUT = {"kind": "ablate", "site": "mlp_out.28", "to": "zero"}
PYTHON_CUT = [edits.ablate("mlp_out.28")]


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at, in both themes."""
    if folder := os.environ.get("SHOTS"):
        for theme in ("light", "dark"):
            page.wait_for_timeout(300)
            page.screenshot(path=Path(folder) / f"{name}-{theme}.png")
            page.get_by_test_id("theme-toggle").click()


def ask(page: Page, **form: Any) -> None:
    """Opens the panel by its key, fills it in and generates."""
    if page.get_by_test_id("generate-fold").get_attribute("aria-expanded") != "true":
        page.keyboard.press("g")
    for name, value in form.items():
        page.get_by_test_id(f"generate-{name.replace('_', '-')}").fill(str(value))
    page.get_by_test_id("generate-run").click()


def generated(page: Page, draw: int = 0) -> dict[str, list[int]]:
    """The ids of each side once it is done."""
    expect(page.get_by_test_id("generated")).to_have_attribute("data-done", "true", timeout=LONG)
    one = page.get_by_test_id("generate-draw").nth(draw)
    return {
        side: one.get_by_test_id(f"generate-{side}")
        .locator("[data-id]")
        .evaluate_all("all => all.map(b => +b.dataset.id)")
        for side in ("baseline", "edited")
    }


def numbers(page: Page, side: str, what: str) -> list[float]:
    found = (
        page.get_by_test_id(f"generate-{side}")
        .locator("[data-id]")
        .evaluate_all(f"all => all.map(b => +b.dataset.{what})")
    )
    return [float(x) for x in found]


@pytest.fixture
def ready(bench: Page, workbench: Any) -> Page:
    """A prompt typed, an MLP ablated, nothing generated yet."""
    for _ in range(2):  # stopped, then put away
        for job in workbench.session.state.jobs:
            workbench.session.intent("cancel", {"job": job.id})
        assert workbench.session.wait(60)
    for name in workbench.session.items:
        workbench.session.intent("delete_item", {"name": name})
    type_prompt(bench, PROMPT)
    workbench.session.intent("add_edit", {"edit": CUT})
    settled(bench)
    bench.locator("#tab-stream").focus()
    return bench


def test_both_sides_are_pythons_for_the_same_seed_and_come_token_by_token(ready: Page, workbench: Any) -> None:
    page, model = ready, workbench.session.model
    page.keyboard.press("g")
    expect(page.get_by_test_id("generate-run")).to_be_focused()
    shot(page, "generate-empty")
    ask(page, tokens=14, temperature=0.9, seed=3, n=1)
    expect(page.get_by_test_id("generate-baseline").locator("[data-id]").nth(2)).to_be_visible(timeout=LONG)
    assert page.get_by_test_id("generated").get_attribute("data-done") == "false", "it comes as it is made"
    shot(page, "generate-running")
    found = generated(page)
    how = {"max_new_tokens": 14, "temperature": 0.9, "seed": 3}
    (draw,) = rs.continuations(model, PROMPT, edits=PYTHON_CUT, **how).draws
    assert draw.edited is not None
    assert found == {"baseline": [*draw.baseline.ids], "edited": [*draw.edited.ids]}
    for side, run in (("baseline", draw.baseline), ("edited", draw.edited)):
        assert numbers(page, side, "logProb") == pytest.approx(run.log_probs, abs=1e-6)
        assert numbers(page, side, "other") == pytest.approx(run.other, abs=1e-6)
    expect(page.get_by_test_id("generate-draw")).to_have_attribute("data-same", str(draw.same))
    expect(page.get_by_test_id("generate-draw")).to_contain_text(draw.said)
    chip = page.get_by_test_id("generate-edited").locator("[data-at='1']")
    chip.hover()
    shown = f"{draw.edited.log_probs[1]:+.2f}".replace("-", "−")
    expect(page.get_by_test_id("generate-told")).to_contain_text(f"{shown} edited")
    shot(page, "generate-done")
    page.get_by_test_id("generate-table").click()
    table = page.get_by_test_id("generate-card").get_by_test_id("view-values")
    expect(table.locator("tbody tr")).to_have_count(max(len(draw.baseline.ids), len(draw.edited.ids)))
    shot(page, "generate-table")
    page.get_by_test_id("generate-table").click()
    page.get_by_test_id("generate-python").click()
    code = page.get_by_test_id("python-code").text_content() or ""
    scope: dict[str, Any] = {}
    exec(code.replace("rs.load(", "(lambda *_, **__: model)("), {"model": model}, scope)
    assert scope["result"].draws == (draw,)


def test_a_generated_token_is_looked_into_and_the_edits_stay(ready: Page, workbench: Any) -> None:
    page, session = ready, workbench.session
    ask(page, tokens=6, temperature=0)
    found = generated(page)
    page.get_by_test_id("generate-edited").locator("[data-at='1']").click()
    expect(page.get_by_test_id("generate-inside")).to_be_visible()
    settled(page)
    ids = [*session.model.tokens(PROMPT)[0].tolist(), *found["edited"][:2]]
    assert [*session.state.prompt.ids] == ids
    assert session.state.selection[1] == len(ids) - 1
    assert len(session.state.edits) == 1
    expect(page.locator("[data-pos].on")).to_have_attribute("data-pos", str(len(ids) - 1))
    expect(page.get_by_test_id("generate-stale")).to_have_count(0)
    expect(page.get_by_test_id("generate-edited").locator("[aria-pressed=true]")).to_have_attribute("data-at", "1")
    logits = session.model.run([ids], edits=PYTHON_CUT).logits[0, -1]
    positive, negative = session.state.metric.positive.id, session.state.metric.negative.id
    assert metric(page, "b") == pytest.approx(float(logits[positive] - logits[negative]), abs=1e-3)
    assert int(logits.argmax()) == found["edited"][2], "what the model does there is what it went on with"
    shot(page, "generate-inside")
    page.get_by_test_id("generate-back").click()
    expect(page.get_by_test_id("generate-inside")).to_have_count(0)
    settled(page)
    assert session.state.prompt.text == PROMPT


def test_it_stops_midway_and_what_came_stays(ready: Page, workbench: Any) -> None:
    page, model = ready, workbench.session.model
    ask(page, tokens=300, temperature=0)
    expect(page.get_by_test_id("generate-edited").locator("[data-id]").nth(3)).to_be_visible(timeout=LONG)
    page.get_by_test_id("generate-stop").click()
    found = generated(page)
    assert 4 <= len(found["edited"]) < 300
    assert tuple(found["edited"]) == model.generate(PROMPT, PYTHON_CUT, len(found["edited"]), stop=()).ids
    page.get_by_test_id("generate-keep").click()
    expect(page.get_by_test_id("generate-keep")).to_have_text("Kept")
    (name,) = [name for name in workbench.session.items if name.startswith("Continuations")]
    assert list(workbench.session.items[name].draws[0].edited.ids) == found["edited"]


def test_a_new_one_takes_the_place_of_the_one_before_and_a_live_run_goes_first(ready: Page, workbench: Any) -> None:
    page, session = ready, workbench.session
    ask(page, tokens=300, temperature=0)
    expect(page.get_by_test_id("generate-baseline").locator("[data-id]").nth(2)).to_be_visible(timeout=LONG)
    first = session.state.jobs[-1].id
    type_prompt(page, IOI)
    settled(page)
    assert not session.state.jobs[-1].ended, "the run did not wait for it"
    expect(page.get_by_test_id("generate-stale")).to_contain_text("another prompt")
    shot(page, "generate-stale")
    ask(page, tokens=3)
    found = generated(page)
    assert found["baseline"] == [*session.model.generate(IOI, max_new_tokens=3).ids]
    assert not [job for job in session.state.jobs if job.id == first and not job.ended]
    expect(page.get_by_test_id("generate-stale")).to_have_count(0)
    session.intent("set_edits", {"edits": []})
    settled(page)
    expect(page.get_by_test_id("generate-stale")).to_contain_text("edits have changed")
    session.intent("undo")
    settled(page)
    expect(page.get_by_test_id("generate-stale")).to_have_count(0)


def test_without_edits_there_is_one_side_and_draws_are_several(ready: Page, workbench: Any) -> None:
    page, session = ready, workbench.session
    session.intent("set_edits", {"edits": []})
    settled(page)
    ask(page, tokens=4, temperature=1.0, seed=1, n=3)
    expect(page.get_by_test_id("generate-draw")).to_have_count(3, timeout=LONG)
    generated(page)
    expect(page.get_by_test_id("generate-edited")).to_have_count(0)
    expect(page.get_by_test_id("generate-draw").first).to_contain_text("No edits")
    for number in range(3):
        own = session.model.generate(PROMPT, max_new_tokens=4, temperature=1.0, seed=1 + number).ids
        assert generated(page, number)["baseline"] == [*own]
    page.reload()
    settled(page)
    page.keyboard.press("g")
    expect(page.get_by_test_id("generate-draw")).to_have_count(3)


def test_what_is_refused_is_said_in_the_panel(ready: Page, traffic: Traffic) -> None:
    page = ready
    ask(page, tokens=90_000, temperature=0)
    expect(page.get_by_test_id("generate-refused")).to_contain_text("context")
    shot(page, "generate-refused")
    page.get_by_test_id("generate-tokens").fill("")
    expect(page.get_by_test_id("generate-missing")).to_contain_text("whole number")
    expect(page.get_by_test_id("generate-run")).to_be_disabled()
    page.get_by_test_id("generate-tokens").fill("2")
    page.get_by_test_id("generate-tokens").press("Enter")
    expect(page.get_by_test_id("generate-refused")).to_have_count(0)
    generated(page)
    traffic.complaints = [said for said in traffic.complaints if "422" not in said]


def test_by_keys_alone(ready: Page, workbench: Any) -> None:
    page, session = ready, workbench.session
    page.keyboard.press("g")
    expect(page.get_by_test_id("generate-run")).to_be_focused()
    page.keyboard.press("Shift+Tab")  # temperature 0: the seed and the draws are out of use
    expect(page.get_by_test_id("generate-stop-text")).to_be_focused()
    page.get_by_test_id("generate-tokens").fill("5")
    page.get_by_test_id("generate-tokens").press("Enter")
    found = generated(page)
    page.get_by_test_id("generate-baseline").locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_test_id("generate-baseline").locator("[data-at='2']")).to_be_focused()
    expect(page.get_by_test_id("generate-told")).to_contain_text("baseline")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("generate-inside")).to_be_visible()
    settled(page)
    assert [*session.state.prompt.ids][-3:] == found["baseline"][:3]
    page.locator("#tab-stream").focus()
    page.keyboard.press("g")
    expect(page.get_by_test_id("generate-fold")).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("/")
    page.get_by_label("Command", exact=True).fill("temperature")
    expect(page.get_by_role("listbox", name="Commands").get_by_role("option").first).to_contain_text("Generate")
    page.keyboard.press("Escape")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_everything_is_in_reach(ready: Page, theme: str) -> None:
    page = ready
    if theme == "dark":
        page.get_by_test_id("theme-toggle").click()
    expect(page.locator(".residscope")).to_have_attribute("data-theme", theme)
    ask(page, tokens=12, temperature=1.2, seed=5, n=2)
    generated(page)
    wrong: dict[str, list[str]] = {}
    for table in (False, True):
        if table:
            page.get_by_test_id("generate-table").click()
        wrong[f"axe, table {table}"] = violations(page)
        for width, height in ((1280, 720), (820, 1180), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(300)
            fold = page.get_by_test_id("fold-inspector")
            if fold.is_visible() and fold.get_attribute("aria-expanded") != "true":
                fold.click()
                page.wait_for_timeout(300)
            wrong[f"{width}, table {table}"] = faults(page)
        page.set_viewport_size({"width": 1280, "height": 720})
    assert {where: one for where, one in wrong.items() if one} == {}


def test_ids_that_no_text_gives_are_said_to_be_set_by_ids(ready: Page, workbench: Any) -> None:
    page, session = ready, workbench.session
    ids = [*session.model.encode("I say"), *(session.model.token_id(part) for part in (" he", "llo"))]
    session.intent("set_tokens", {"ids": ids})
    settled(page)
    expect(page.get_by_test_id("prompt-by-ids")).to_contain_text("other tokens")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_test_id("share").click()
    expect(page.get_by_test_id("notice")).to_contain_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    type_prompt(page, PROMPT)
    expect(page.get_by_test_id("prompt-by-ids")).to_have_count(0)
    page.evaluate("link => { location.href = link }", link)
    page.get_by_test_id("link-open").click()
    expect(page.get_by_test_id("prompt-by-ids")).to_be_visible(timeout=LONG)
    settled(page)
    assert [*session.state.prompt.ids] == ids
    page.get_by_test_id("copy-python").click()
    expect(page.get_by_test_id("python-code")).to_contain_text(re.compile(re.escape(repr(ids))))
    page.keyboard.press("Escape")
