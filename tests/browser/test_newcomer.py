"""A first visit in one sitting: understand the colour, find a direction, tell others, change the answer, take the code."""

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import residscope as rs
from browser.steps import IOI, LAST, LOAD_MS, cells, choose, metric, settled

pytestmark = pytest.mark.browser
WAIT_MS = 180_000
NAME, WORDS = "beginnings and ends", "told apart at the first layer"


def run_copied(page: Page, workbench: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the copied lines leave, run where nothing has a name."""
    page.get_by_test_id("copy-python").click()
    expect(page.get_by_test_id("python-code")).to_contain_text("cells", timeout=20_000)
    code = page.get_by_test_id("python-code").inner_text()
    page.keyboard.press("Escape")
    names: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(rs, "load", lambda name, **options: workbench.session.model)
        exec(compile(code, "<pasted>", "exec"), names)
    return names


def same(page: Page, names: dict[str, Any]) -> None:
    shown = np.array(cells(page, n_pos=LAST + 1))
    told = np.asarray(names["cells"].double())
    assert np.abs(told - shown).max() <= 2e-4 * np.abs(shown).max()


def test_a_newcomer_s_first_visit(
    bench: Page, workbench: Any, browser: Browser, browser_context_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = bench
    page.evaluate("localStorage.clear()")
    page.goto("about:blank")
    page.goto(workbench.url)
    settled(page)

    # the colour says what it is of, and something is seen at once
    expect(page.get_by_test_id("sentence")).to_contain_text("Colour shows Mary − John")
    expect(page.get_by_test_id("intro")).to_be_visible()
    first = np.array(cells(page, n_pos=LAST + 1))
    assert first[-1, LAST] > 1, "the last token is turned to Mary"
    page.get_by_test_id("table-toggle").click()

    # component 7 of layer 0, which is read at its own row
    choose(page, place="pca@resid_post.0", direction=7)
    expect(page.get_by_test_id("sentence")).to_contain_text("PC 7 of layer 0, read at layer 0")
    model, d = workbench.session.model, workbench.session.state.model.dictionaries["pca@resid_post.0"]
    x = model.run(IOI, ["resid_post"])["resid_post.0"][0].float()
    wanted = ((x - d.mean) @ d.read[7]).numpy()
    assert np.abs(np.array(cells(page, n_pos=LAST + 1))[1] - wanted).max() < 1e-3
    assert wanted.max() > 5 and wanted.min() < -5, "it has two ends"  # noqa: PT018

    # another one: saved, described, and found by somebody else
    choose(page, direction=6)
    expect(page.get_by_test_id("sentence")).to_contain_text("PC 6 of layer 0")
    page.get_by_test_id("direction-save").click()
    page.get_by_test_id("library-sign-in").click()
    page.get_by_test_id("library-name").fill("newcomer")
    page.get_by_test_id("library-name-set").click()
    page.get_by_test_id("save-name").fill(NAME)
    page.get_by_test_id("save-description").fill(WORDS)
    page.get_by_test_id("save-submit").click()
    expect(page.get_by_test_id("one-name")).to_have_text(NAME)
    page.get_by_test_id("library-close").click()
    context = browser.new_context(**browser_context_args)
    try:
        other = context.new_page()
        other.goto(workbench.url)
        expect(other.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
        other.keyboard.press("b")
        other.get_by_test_id("library-search").fill("ends")
        other.get_by_test_id("library-entry").filter(has_text=NAME).click()
        expect(other.get_by_test_id("description-text")).to_have_text(WORDS)
        other.get_by_test_id("one-open").click()
        expect(other.get_by_test_id("sentence")).to_contain_text(NAME, timeout=20_000)
        expect(other.get_by_test_id("described")).to_contain_text(WORDS)
    finally:
        context.close()

    # what is on screen as Python gives the same cells
    same(page, run_copied(page, workbench, monkeypatch))

    # a probe, fitted; the answer flipped; the held-out prompts
    page.get_by_role("tab", name="Probe").click()
    page.get_by_test_id("probe-n").fill("48")
    page.get_by_test_id("probe-fit").click()
    expect(page.get_by_test_id("probe-accuracy")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_test_id("probe-progress")).to_have_count(0, timeout=WAIT_MS)
    for _ in range(12):
        page.get_by_test_id("probe-try").click()
        expect(page.get_by_test_id("probe-reads")).to_contain_text("labelled", timeout=30_000)
        settled(page)
        if metric(page, "a") > 2:
            break
    before = metric(page, "a")
    reads = float(page.get_by_test_id("probe-reads").get_attribute("data-value") or "nan")
    classes = workbench.session.snapshot()[1]["probes"][0]["classes"]
    page.get_by_test_id(f"probe-to-{classes[0] if reads > 0 else classes[1]}").click()
    expect(page.get_by_test_id("probe-answer")).not_to_contain_text("…", timeout=30_000)
    settled(page)
    assert metric(page, "a") == before
    assert metric(page, "b") < before - 2, "the model answers otherwise"
    page.get_by_test_id("held-out-ask").click()
    expect(page.get_by_test_id("held-out-flips")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_test_id("held-out-histogram")).to_contain_text("counterfactual")

    # the code of the edited run gives its numbers
    page.get_by_role("tab", name="Stream").click()
    names = run_copied(page, workbench, monkeypatch)
    assert float(names["metric"](names["edited"])) == pytest.approx(metric(page, "b"), abs=1e-3)
    assert re.search(r"\d", page.get_by_test_id("result-b").inner_text())
