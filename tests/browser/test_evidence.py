"""Evidence on the real model: gathered coarse to fine beside the live run, both badges said, stale when the direction changes."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.steps import choose, settled, type_prompt

pytestmark = pytest.mark.browser
GATHER_MS = 300_000


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at."""
    if folder := os.environ.get("SHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_evidence_comes_stage_by_stage_and_says_both_badges(bench: Page, workbench: Any) -> None:
    choose(bench, direction=3)
    card = bench.get_by_test_id("evidence-card")
    card.scroll_into_view_if_needed()
    shot(bench, "empty")
    bench.get_by_test_id("evidence-gather").click()
    expect(bench.get_by_test_id("evidence-progress")).to_contain_text("Reading the text")
    expect(bench.get_by_test_id("badge-used")).to_have_attribute("data-shown", "null", timeout=30_000)
    expect(card).to_contain_text("Highest in the text", timeout=60_000)
    shot(bench, "reading")
    type_prompt(bench, "The Eiffel Tower is in the city of")
    settled(bench)
    assert not workbench.session.state.jobs[-1].ended, "the live run went first, and the gathering goes on"
    for which in ("correlates", "used"):
        badge = bench.get_by_test_id(f"badge-{which}")
        expect(badge).to_have_attribute("data-shown", re.compile("true|false"), timeout=GATHER_MS)
        expect(badge).to_have_attribute("data-preliminary", "true")
        expect(badge).to_contain_text(re.compile("shown so far.*Preliminary, from .* of "))
    expect(bench.get_by_test_id("evidence-progress")).to_contain_text(re.compile("First look|Reading the text"))
    job = workbench.session.state.jobs[-1]
    early = workbench.session.reads.evidence(job=job.id)
    assert early["tokens_read"] < 4_000, "both badges before most of the text, and of the prompts, has been read"
    assert "First look" in job.stage or "Reading" in job.stage
    shot(bench, "first-look-light")
    expect(bench.get_by_test_id("evidence-progress")).to_have_count(0, timeout=GATHER_MS)
    expect(bench.get_by_test_id("evidence-cancel")).to_have_count(0, timeout=GATHER_MS)
    told = workbench.session.reads.evidence(item=workbench.session.state.jobs[-1].items[0])
    assert told["done"]
    assert told["missing"] == {} or "stability" in told["missing"]
    for which in ("correlates", "used"):
        badge = bench.get_by_test_id(f"badge-{which}")
        expect(badge).to_have_attribute("data-shown", re.compile("true|false"), timeout=30_000)
        expect(badge).to_have_attribute("data-preliminary", "false")
        expect(badge).to_contain_text(told["badges"][which]["sentence"])
    shot(bench, "card-light")

    bench.get_by_test_id("evidence-details").click()
    dialog = bench.get_by_test_id("evidence-dialog")
    shot(bench, "details-light")
    for part in ("null", "dose", "removal"):
        expect(dialog.get_by_test_id(f"evidence-{part}").locator("figure")).to_have_count(2)
    expect(dialog.get_by_test_id("evidence-examples").locator(".example")).to_have_count(10)
    dialog.get_by_role("button", name="Lowest").click()
    expect(dialog.get_by_test_id("evidence-examples").locator(".example").first).to_contain_text(
        told["examples"]["bottom"][0]["tokens"][told["examples"]["bottom"][0]["at"]].strip()
    )
    dialog.get_by_role("button", name="Highest").click()
    for part in ("dose", "examples"):
        dialog.get_by_test_id(f"evidence-{part}").scroll_into_view_if_needed()
        shot(bench, f"details-{part}-light")
    bench.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    if os.environ.get("SHOTS"):
        bench.get_by_test_id("theme-toggle").click()
        card.scroll_into_view_if_needed()
        shot(bench, "card-dark")
        bench.set_viewport_size({"width": 1440, "height": 900})
        bench.get_by_test_id("evidence-details").click()
        shot(bench, "details-dark")
        dialog.get_by_test_id("evidence-dose").scroll_into_view_if_needed()
        shot(bench, "details-dose-dark")
        bench.keyboard.press("Escape")
        bench.get_by_test_id("theme-toggle").click()

    choose(bench, direction="logit")
    expect(bench.get_by_test_id("evidence-stale")).to_be_visible()
    shot(bench, "stale")
    bench.get_by_test_id("evidence-gather").click()
    bench.get_by_test_id("evidence-cancel").click()
    expect(bench.get_by_test_id("evidence-cancel")).to_have_count(0)
    assert workbench.session.state.jobs[-1].phase in ("cancelled", "running")
    assert workbench.session.wait(60)
    assert workbench.session.state.jobs[-1].phase == "cancelled"
