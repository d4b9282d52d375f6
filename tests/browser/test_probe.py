"""The Probe tab on the real model: fit the order at S2, drag it to the other, watch the answer change."""

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.steps import Traffic, metric, settled

pytestmark = pytest.mark.browser
FIT_MS = 180_000


def fit(page: Page, *, n: int) -> None:
    page.get_by_role("tab", name="Probe").click()
    page.get_by_test_id("probe-n").fill(str(n))
    page.get_by_test_id("probe-fit").click()
    expect(page.get_by_test_id("probe-accuracy")).to_be_visible(timeout=FIT_MS)


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at."""
    if folder := os.environ.get("SHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png")


def try_prompt(page: Page, workbench: Any) -> None:
    """The next of the probe's own prompts, until its run is there with its own answers."""
    before = workbench.session.state.prompt
    page.get_by_test_id("probe-try").click()
    for _ in range(300):
        page.wait_for_timeout(100)
        state = workbench.session.state
        own = state.metric is not None and state.metric.positive.text in state.prompt.text
        if state.prompt != before and own and state.metric.chosen and state.status.phase == "idle":
            return
    raise AssertionError("the prompt did not come")


def lands(page: Page) -> float:
    return float(page.get_by_test_id("probe-lands").get_attribute("data-value") or "nan")


def test_the_order_at_s2_is_read_and_rewritten(bench: Page, workbench: Any, traffic: Traffic) -> None:
    bench.get_by_role("tab", name="Probe").click()
    fit(bench, n=64)  # of a size that no other test here fits
    assert float(bench.get_by_test_id("probe-accuracy").get_attribute("data-value") or 0) > 0.9
    expect(bench.get_by_test_id("probe-progress")).to_be_visible()
    shot(bench, "filling")
    expect(bench.get_by_test_id("probe-progress")).to_have_count(0, timeout=FIT_MS)

    before = 0.0
    for _ in range(6):  # one that the model answers right
        try_prompt(bench, workbench)
        expect(bench.get_by_test_id("probe-reads")).to_contain_text("labelled", timeout=30_000)
        before = metric(bench, "a")
        if before > 2:
            break
    assert before > 2
    now = float(bench.get_by_test_id("probe-reads").get_attribute("data-value") or "nan")

    slider = bench.get_by_test_id("probe-slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    y, other = box["y"] + box["height"] / 2, 0.1 if now > 0 else 0.9
    bench.mouse.move(box["x"] + box["width"] / 2, y)
    bench.mouse.down()
    bench.wait_for_load_state("networkidle")
    asked, seen = traffic.count, []
    for step in range(6):
        bench.mouse.move(box["x"] + box["width"] * (0.5 + (other - 0.5) * step / 5), y)
        bench.wait_for_timeout(30)
        seen.append(lands(bench))
    assert traffic.count == asked, "dragging asks the server for nothing"
    assert len(set(seen)) > 3, "and the mark moves with it"
    bench.mouse.up()
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(1)
    expect(bench.get_by_test_id("edits-list")).to_contain_text("lrqp resid_mid.18")
    expect(bench.get_by_test_id("result-b")).to_be_visible(timeout=30_000)
    expect(bench.get_by_test_id("probe-answer")).not_to_contain_text("…", timeout=30_000)
    settled(bench)
    assert lands(bench) * now < 0, "the probe now reads the other order"
    assert metric(bench, "a") == before
    assert metric(bench, "b") < before - 2, "and the model no longer answers as before"
    shot(bench, "edited-light")
    bench.set_viewport_size({"width": 1440, "height": 900})
    shot(bench, "edited-1440")
    bench.set_viewport_size({"width": 800, "height": 720})
    shot(bench, "edited-800")
    bench.set_viewport_size({"width": 1440, "height": 900})
    bench.get_by_test_id("theme-toggle").click()
    shot(bench, "edited-dark")

    bench.get_by_test_id("probe-method").select_option("mean_difference")
    expect(bench.get_by_test_id("edits-list")).to_contain_text("mean_difference")
    bench.get_by_test_id("probe-remove").click()
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(0)
    bench.get_by_test_id("probe-map").locator(".picture").click(position={"x": 200, "y": 70})
    expect(bench.get_by_test_id("probe-choice").locator("option")).to_have_count(2, timeout=30_000)
    expect(bench.get_by_test_id("probe-progress")).to_have_count(0, timeout=30_000)


def test_a_file_that_is_damaged_says_where(bench: Page, traffic: Traffic, tmp_path: Path) -> None:
    bench.get_by_role("tab", name="Probe").click()
    table = tmp_path / "mine.csv"
    table.write_text("text,@who,kind\nThe cat sat,cat,animal\nThe jug fell,cup,thing\n")
    bench.get_by_test_id("probe-file").set_input_files(table)
    expect(bench.get_by_test_id("probe-refused")).to_contain_text("line 3, column @who", timeout=30_000)
    shot(bench, "refused")
    assert all("422" in complaint for complaint in traffic.complaints), "the refusal, and nothing else"
    traffic.complaints.clear()
    bench.get_by_test_id("probe-source").select_option("gender")
    expect(bench.get_by_test_id("probe-refused")).to_have_count(0)
    expect(bench.get_by_test_id("probe-label")).to_have_value("gender")
