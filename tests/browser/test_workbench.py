"""First light, as a newcomer sees it: type a sentence, watch the stream of the real model light up."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.steps import (
    IOI,
    LAST,
    ROWS,
    Traffic,
    cells,
    choose,
    metric,
    open_mix,
    quiet,
    settled,
    show_table,
    type_prompt,
)

pytestmark = pytest.mark.browser

TURN = 24  # the row after block 23, whose head 3 moves "Mary" to the end; the rows before carry a negative offset
RED_AND_BLUE = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let red = 0, blue = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] > 200 && data[i] - data[i + 2] > 60) red++;
    if (data[i + 3] > 200 && data[i + 2] - data[i] > 60) blue++;
  }
  return [red, blue];
}"""


def test_the_link_leaves_no_token_in_the_address(bench: Page, workbench: Any) -> None:
    assert workbench.token not in bench.url
    assert "token" not in bench.url


def test_typing_the_prompt_lights_up_the_stream(bench: Page) -> None:
    type_prompt(bench, "The capital of France is")
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    type_prompt(bench, IOI)
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Mary", timeout=20_000)
    assert float(bench.get_by_test_id("next-p").inner_text()) == pytest.approx(0.93, abs=0.015)
    expect(bench.get_by_test_id("certificate-badge")).to_be_visible()
    settled(bench)
    choose(bench, direction="logit")
    red, blue = bench.locator("[data-testid=stream-grid] canvas, canvas[data-testid=stream-grid]").first.evaluate(
        RED_AND_BLUE
    )
    assert red > 500
    assert blue > 500


def test_the_logit_difference_turns_the_last_column_towards_mary(bench: Page) -> None:
    choose(bench, direction="logit", unit="logits-raw")
    stream = cells(bench, n_pos=LAST + 1)
    last = [row[LAST] for row in stream]
    early, late = last[:TURN], last[TURN:]
    assert last[-1] == pytest.approx(metric(bench, "a"), abs=1e-3)
    assert max(early) < 0 < min(late)
    assert last[TURN] - last[TURN - 1] > 8
    assert last[-1] > sum(late[1:-1]) / len(late[1:-1])
    elsewhere = stream[-1][1:LAST]
    assert sum(elsewhere) / len(elsewhere) < 1


def test_dragging_a_slider_asks_the_server_for_nothing(bench: Page, traffic: Traffic) -> None:
    choose(bench, direction=0)
    before = cells(bench, n_pos=LAST + 1)
    bench.wait_for_load_state("networkidle")
    open_mix(bench)
    quiet(bench, traffic)
    slider = bench.get_by_test_id("mix-slider-1")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    bench.mouse.move(box["x"] + box["width"] / 2, y)
    bench.mouse.down()
    asked = traffic.count
    for step in range(1, 11):
        bench.mouse.move(box["x"] + box["width"] * (0.5 + 0.04 * step), y)
        bench.wait_for_timeout(20)
    during = cells(bench, n_pos=LAST + 1)
    assert traffic.count == asked
    bench.mouse.up()
    bench.wait_for_timeout(500)
    assert traffic.count > asked, "the release asks for the mix's tokens, so the count does count"
    assert during != before
    exact = max(abs(x - y) for a, b in zip(during, before, strict=True) for x, y in zip(a, b, strict=True))
    assert exact > 0.01


def test_an_ablation_changes_the_result_and_undo_brings_it_back(bench: Page) -> None:
    baseline = metric(bench, "a")
    bench.get_by_test_id("add-edit").click()
    bench.get_by_test_id("edit-kind").select_option("ablate")
    bench.get_by_test_id("field-site-layer").fill("23")
    bench.get_by_test_id("field-head").fill("3")
    bench.get_by_test_id("edit-submit").click()
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(1)
    expect(bench.get_by_test_id("edits-list")).to_contain_text("z.23")
    expect(bench.get_by_test_id("result-b")).to_be_visible(timeout=20_000)
    settled(bench)
    assert metric(bench, "a") == baseline
    assert metric(bench, "b") < baseline - 0.5
    bench.get_by_test_id("undo").click()
    expect(bench.get_by_test_id("result-b")).to_have_count(0)
    assert metric(bench, "a") == baseline


def test_both_themes(bench: Page) -> None:
    show = "getComputedStyle(document.querySelector('.residscope')).backgroundColor"
    light = bench.evaluate(show)
    assert bench.locator(".residscope").get_attribute("data-theme") == "light"
    bench.get_by_test_id("theme-toggle").click()
    expect(bench.locator(".residscope")).to_have_attribute("data-theme", "dark")
    assert bench.evaluate(show) != light
    bench.reload()
    expect(bench.locator(".residscope")).to_have_attribute("data-theme", "dark")
    settled(bench)
    bench.get_by_test_id("theme-toggle").click()
    expect(bench.locator(".residscope")).to_have_attribute("data-theme", "light")


def test_the_readout_says_the_locked_cell(bench: Page) -> None:
    show_table(bench)
    choose(bench, direction="logit")
    cell = bench.locator(f"td[data-row='{ROWS - 1}'][data-col='{LAST}']")
    value = float(cell.get_attribute("data-value") or "nan")
    cell.locator("button").click()
    expect(bench.get_by_test_id("readout")).to_have_attribute("data-value", re.compile(rf"^{value:.2f}"[:-1]))


def test_tokens_are_text_not_markup(bench: Page) -> None:
    type_prompt(bench, "<img src=x onerror=alert(1)> <b>bold</b>")
    settled(bench)
    expect(bench.get_by_test_id("status")).to_have_attribute("data-phase", "idle")
    assert bench.locator("img[src=x]").count() == 0


def test_an_empty_and_an_endless_prompt_are_refused_in_words(bench: Page) -> None:
    type_prompt(bench, "word " * 9000, refused=True)
    expect(bench.get_by_test_id("notice").first).to_contain_text("context", timeout=20_000)
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Mary")
    expect(bench.get_by_test_id("prompt-input"), "what was refused can be shortened").to_have_value("word " * 9000)
    bench.get_by_test_id("prompt-input").fill("")
    bench.get_by_test_id("prompt-input").press("Enter")
    expect(bench.get_by_test_id("prompt-input")).to_be_visible()
    bench.get_by_test_id("prompt-input").fill("The capital of France is")
    bench.get_by_test_id("prompt-input").press("Enter")
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    expect(bench.get_by_test_id("prompt-input")).to_have_count(0)
    expect(bench.get_by_test_id("notice")).to_have_count(0)
