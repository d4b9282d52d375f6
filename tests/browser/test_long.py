"""A prompt wider than its grid: a map of the whole with a brush, and next tokens that follow the picture."""

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from browser.steps import settled
from residscope.corpus.text import python_docs

pytestmark = pytest.mark.browser
TOKENS = 300
HEADS = "all => all.map(head => Number(head.querySelector('.n')?.textContent ?? NaN)).filter(Number.isFinite)"


@pytest.fixture
def long(bench: Page, workbench: Any) -> Page:
    model = workbench.session.model
    text = model.text(model.tokens(next(text for text in python_docs() if len(text) > 4000))[0, :TOKENS].tolist())
    assert len(model.tokens(text)[0]) == TOKENS
    bench.get_by_test_id("prompt-edit").click()
    bench.get_by_test_id("prompt-input").fill(text)
    bench.get_by_test_id("prompt-input").press("Enter")
    expect(bench.get_by_test_id("stream-grid")).to_have_attribute("data-cols", str(TOKENS), timeout=60_000)
    settled(bench)
    return bench


def columns(page: Page) -> list[int]:
    found: list[int] = page.get_by_test_id("stream-grid").locator(".head").evaluate_all(HEADS)
    return found


def test_a_map_of_the_whole_prompt_moves_the_grid(long: Page) -> None:
    whole = long.get_by_test_id("minimap")
    expect(whole).to_be_visible()
    last = columns(long)[-1]
    whole.focus()
    long.keyboard.press("Home")
    expect(whole).to_have_attribute("aria-valuenow", "0")
    first = columns(long)
    assert first[0] == 0
    assert first[-1] < last == TOKENS - 1
    expect(whole).to_have_attribute("aria-valuetext", f"tokens 0 to {first[-1]} of {TOKENS}")
    long.keyboard.press("ArrowRight")
    expect(whole).to_have_attribute("aria-valuenow", "1")
    assert 1 in columns(long)
    assert 0 not in columns(long)
    long.keyboard.press("End")
    expect(whole).to_have_attribute("aria-valuetext", f"tokens {TOKENS - len(first)} to {TOKENS - 1} of {TOKENS}")
    box = whole.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    long.mouse.click(box["x"] + box["width"] / 2, y)
    middle = columns(long)
    assert abs((middle[0] + middle[-1]) / 2 - TOKENS / 2) <= 1, "the view stands about the point"
    brush = long.get_by_test_id("minimap-brush").bounding_box()
    assert brush
    assert abs(brush["x"] + brush["width"] / 2 - box["x"] - box["width"] / 2) < 2
    long.mouse.move(brush["x"] + 3, y)
    long.mouse.down()
    long.mouse.move(brush["x"] + 3 + box["width"] / 4, y, steps=5)
    long.mouse.up()
    moved = columns(long)
    assert abs((moved[0] - middle[0]) - TOKENS / 4) <= 1, "held where it is gripped"
    for size in ((1440, 900), (1280, 720)) if os.environ.get("SHOTS") else ():
        long.set_viewport_size({"width": size[0], "height": size[1]})
        for theme in ("light", "dark"):
            long.wait_for_timeout(400)
            long.screenshot(path=Path(os.environ["SHOTS"]) / f"map-{size[0]}-{theme}.png")
            long.get_by_test_id("theme-toggle").click()


@pytest.mark.parametrize("size", [(1280, 720), (1440, 900)])
def test_no_row_is_lost_to_the_map(long: Page, size: tuple[int, int]) -> None:
    long.set_viewport_size({"width": size[0], "height": size[1]})
    expect(long.get_by_test_id("minimap")).to_be_visible()
    whole = long.get_by_test_id("minimap").bounding_box()
    room = long.get_by_test_id("stream-grid").bounding_box()
    assert whole
    assert room
    assert whole["height"] >= 24
    box = long.get_by_test_id("stream-grid").locator(".scroller")
    seen, all_rows = box.evaluate("box => [box.clientHeight, box.scrollHeight]")
    assert seen >= min(all_rows, room["height"] - 54 - 18 - 10 - 26 - 1), "the sparks give way first"
    assert whole["y"] + whole["height"] <= room["y"] + room["height"] + 0.5


def test_a_prompt_in_view_has_no_map(bench: Page) -> None:
    expect(bench.get_by_test_id("stream-grid")).to_be_visible()
    expect(bench.get_by_test_id("minimap")).to_have_count(0)


def test_the_picture_comes_before_the_other_positions_next_tokens(bench: Page, workbench: Any) -> None:
    painted_before: list[bool] = []

    def heard(request: Request) -> None:
        if request.url.endswith("/api/queries/stream"):
            painted_before.append(
                bool(workbench) and '"next"' not in (request.post_data or "") and "run" in (request.post_data or "")
            )

    bench.on("request", heard)
    model = workbench.session.model
    text = model.text(model.tokens([text for text in python_docs() if len(text) > 4000][1])[0, :120].tolist())
    bench.get_by_test_id("prompt-edit").click()
    bench.get_by_test_id("prompt-input").fill(text)
    bench.get_by_test_id("prompt-input").press("Enter")
    expect(bench.get_by_test_id("stream-grid")).to_have_attribute(
        "data-cols", str(len(model.tokens(text)[0])), timeout=60_000
    )
    settled(bench)
    expect(bench.get_by_test_id("next-token")).to_be_visible()
    bench.wait_for_load_state("networkidle")
    assert painted_before == [True], (
        "one question, for the whole, once the picture is there: the picture itself was sent ahead"
    )
    whole = bench.get_by_test_id("minimap")
    whole.focus()
    bench.keyboard.press("Home")
    wanted = model.run(text).top(1, pos=0)[0][0]
    shown = bench.get_by_test_id("stream-grid").locator("span.next").first
    expect(shown).not_to_have_text("…")
    assert wanted.strip()[:3] in shown.inner_text()
