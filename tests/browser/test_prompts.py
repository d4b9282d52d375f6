"""The Prompts tab on the real model: many prompts coloured by one direction, and prompts of 1,000 tokens."""

import re
from itertools import groupby
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.steps import IOI, Traffic, choose, open_mix, quiet, settled

pytestmark = pytest.mark.browser
DRAWN_MS = 120_000
COLOURS = "all => all.map(span => getComputedStyle(span).backgroundColor)"
PLAIN = "rgba(0, 0, 0, 0)"
MOST_NODES = 3000
SEEN = """() => {
  window.seenTokens = [];
  const look = () => {
    const size = document.querySelector('[data-testid="prompt-list"]')?.dataset.tokens;
    if (size) window.seenTokens.push(Number(size));
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def open_prompts(page: Page, *, drawn: bool = True) -> Locator:
    choose(page, direction=7)
    page.get_by_role("tab", name="Prompts").click()
    expect(page.get_by_test_id("prompt-0")).to_have_attribute("data-own", "true", timeout=DRAWN_MS)
    if drawn:
        expect(page.locator('[data-testid^="prompt-"][data-own="false"]').first).to_be_visible(timeout=DRAWN_MS)
        expect(page.get_by_test_id("prompts-new")).to_be_visible(timeout=DRAWN_MS)
    return page.get_by_test_id("prompt-list")


def colours(page: Page) -> list[str]:
    tokens = page.get_by_test_id("prompt-list").locator("[data-token]")
    expect(tokens.nth(1)).not_to_have_css("background-color", PLAIN)
    found: list[str] = tokens.evaluate_all(COLOURS)
    return found


def drawn_text(page: Page) -> str:
    return page.locator('[data-testid^="prompt-"][data-own="false"]').first.inner_text()


def test_ones_own_prompt_stands_above_random_ones_and_all_are_coloured(bench: Page) -> None:
    open_prompts(bench)
    own = bench.get_by_test_id("prompt-0")
    assert IOI in own.inner_text().replace("\n", "")
    assert int(bench.get_by_test_id("prompt-list").get_attribute("data-tokens") or 0) >= 16 + 20 * 40
    found = colours(bench)
    red = [c for c in found if (m := re.findall(r"\d+", c)) and int(m[0]) - int(m[2]) > 40]
    blue = [c for c in found if (m := re.findall(r"\d+", c)) and int(m[2]) - int(m[0]) > 40]
    assert len(red) > 3
    assert len(blue) > 3


def test_the_first_rows_come_before_the_rest(bench: Page, workbench: Any) -> None:
    open_prompts(bench)
    bench.evaluate(SEEN)
    bench.get_by_test_id("prompts-new").click()
    expect(bench.get_by_test_id("prompts-waiting")).to_have_count(1)
    expect(bench.get_by_test_id("prompts-waiting")).to_have_count(0, timeout=DRAWN_MS)
    sizes = [size for size, _ in groupby(bench.evaluate("() => window.seenTokens"))]
    own = bench.locator('[data-own="true"] [data-token]').count()
    assert sizes[-4:] == [own + n * 40 for n in (2, 6, 18, 20)], "one's own and two, then ever more"
    job = workbench.session.state.jobs[-1]
    assert job.revision == 3
    drawn = workbench.session.query("prompts", {"drawn": job.id})["prompts"]
    assert len(drawn) == 20
    first = bench.get_by_test_id("prompt-list").locator('[data-own="false"]').first
    letters = [re.sub(r"\W", "", text) for text in (drawn[0]["text"], first.inner_text())]
    assert letters[0][:20] in letters[1]


def test_dragging_a_slider_recolours_and_asks_for_nothing(bench: Page, traffic: Traffic) -> None:
    open_prompts(bench)
    before = colours(bench)
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
    asked, seen = traffic.count, [before]
    for step in range(1, 6):
        bench.mouse.move(box["x"] + box["width"] * (0.5 + 0.08 * step), y)
        bench.wait_for_timeout(60)
        seen.append(colours(bench))
    assert traffic.count == asked
    assert len({tuple(found) for found in seen}) > 4
    bench.mouse.up()


def test_a_zero_mix_colours_nothing_and_says_so(bench: Page) -> None:
    open_prompts(bench, drawn=False)
    expect(bench.get_by_test_id("prompt-list").locator("[data-token]").nth(1)).not_to_have_css(
        "background-color", PLAIN
    )
    bench.get_by_test_id("mix-reset").click()
    expect(bench.get_by_test_id("prompts-zero")).to_contain_text("nothing is coloured")
    tokens = bench.get_by_test_id("prompt-list").locator("[data-token]")
    expect(tokens.nth(1)).to_have_css("background-color", PLAIN)
    assert set(tokens.evaluate_all(COLOURS)) == {PLAIN}
    choose(bench, direction=7)
    assert set(colours(bench)) != {PLAIN}


def test_a_token_tells_its_value_its_next_tokens_and_its_neighbours(bench: Page) -> None:
    open_prompts(bench)
    colours(bench)
    bench.locator("#pt15").hover()
    tip = bench.get_by_test_id("token-tip")
    expect(tip).to_contain_text("prompt 1, token 15")
    expect(tip.get_by_test_id("tip-next")).to_contain_text("·Mary .93")
    value = float(bench.get_by_test_id("prompts-readout").get_attribute("data-value") or "nan")
    shown = [float(text.replace("−", "-")) for text in tip.locator("td.num").all_inner_texts()]
    expect(tip.get_by_test_id("tip-here")).to_have_count(1)
    assert len(shown) == 9 or value in (max(shown), min(shown)) or len(shown) > 4
    assert shown == sorted(shown, reverse=True)
    bench.mouse.move(5, 5)
    expect(tip).to_have_count(0)
    bench.get_by_test_id("prompt-list").focus()
    bench.keyboard.press("Home")
    bench.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("prompt 1, token 1")
    bench.keyboard.press("Escape")
    expect(tip).to_have_count(0)


def test_a_click_makes_the_prompt_the_live_one_with_the_token_selected(bench: Page, workbench: Any) -> None:
    open_prompts(bench)
    prompt = bench.locator('[data-testid^="prompt-"][data-own="false"]').first
    token = prompt.locator("[data-token]").nth(5)
    at = int(token.get_attribute("data-token") or -1) - int(
        prompt.locator("[data-token]").first.get_attribute("data-token") or 0
    )
    token.click()
    expect(bench.get_by_role("tab", name="Stream")).to_have_attribute("aria-selected", "true")
    settled(bench)
    bench.wait_for_timeout(300)
    state = workbench.session.state
    assert len(state.prompt.tokens) == 40
    assert state.selection[1] == at
    assert state.prompt.text != IOI
    bench.get_by_role("tab", name="Prompts").click()
    expect(bench.get_by_test_id("prompt-0")).to_contain_text(
        state.prompt.text[:12].replace("\n", "↵"), timeout=DRAWN_MS
    )


def test_new_ones_and_a_text_of_ones_own(bench: Page, traffic: Traffic) -> None:
    open_prompts(bench)
    first = drawn_text(bench)
    bench.get_by_test_id("prompts-new").click()
    expect(bench.get_by_test_id("prompts-seed")).to_have_value("1")
    expect(bench.locator('[data-testid^="prompt-"][data-own="false"]').first).not_to_contain_text(
        first[4:30], timeout=DRAWN_MS
    )
    expect(bench.get_by_test_id("prompts-new")).to_be_visible(timeout=DRAWN_MS)
    bench.get_by_test_id("prompts-source").select_option("typed")
    bench.get_by_test_id("prompts-text").fill(
        "The queen of the north kept bees. Her bees made a dark and bitter honey all winter long."
    )
    bench.get_by_test_id("prompts-length").fill("8")
    bench.get_by_test_id("prompts-length").blur()
    expect(bench.locator('[data-testid^="prompt-"][data-own="false"]').first).to_contain_text("bees", timeout=DRAWN_MS)
    bench.get_by_test_id("prompts-text").fill(" a ")
    bench.get_by_test_id("prompts-text").blur()
    expect(bench.get_by_test_id("prompts-error")).to_contain_text("4 tokens", timeout=DRAWN_MS)
    assert traffic.complaints == [], "the job's refusal is news, and no failed request"


def test_another_row_and_the_table(bench: Page) -> None:
    open_prompts(bench)
    before = colours(bench)
    choose(bench, row=10)
    expect(bench.get_by_test_id("prompts-readout")).to_contain_text("resid_post.9")
    bench.wait_for_load_state("networkidle")
    bench.wait_for_timeout(300)
    assert colours(bench) != before
    bench.get_by_test_id("prompts-table-toggle").click()
    expect(bench.get_by_test_id("prompts-table").locator("tbody tr")).to_have_count(100)
    bench.get_by_label("greatest value first").check()
    values = (
        bench.get_by_test_id("prompts-table")
        .locator("td[data-token]")
        .evaluate_all("all => all.map(td => +td.dataset.value)")
    )
    assert values == sorted(values, reverse=True)
    bench.get_by_test_id("prompts-table-toggle").click()


def test_a_prompt_of_1000_tokens_stays_in_a_bounded_page(bench: Page, workbench: Any) -> None:
    from bench.long_prompt import prompt  # the benchmark's own text

    workbench.session.intent("set_prompt", {"text": prompt(workbench.session.model)})
    settled(bench)
    expect(bench.get_by_test_id("stream-grid")).to_have_attribute("data-cols", "1000", timeout=60_000)
    nodes = "() => document.getElementsByTagName('*').length"
    assert bench.evaluate(nodes) < MOST_NODES
    strip = bench.get_by_role("listbox", name="The prompt's tokens")
    assert 5 < strip.locator("[data-token]").count() < 200
    expect(strip.locator('[aria-selected="true"]'), "the locked token is in sight").to_have_attribute(
        "data-token", "999"
    )
    strip.evaluate("box => box.scrollTop = 0")
    expect(strip.locator('[data-token="0"]')).to_be_visible()
    cells = bench.get_by_test_id("stream-grid").locator(".scroller")
    assert cells.evaluate("box => box.scrollLeft") > 0, "the locked cell is in sight"
    cells.evaluate("box => box.scrollLeft = 40")
    choose(bench, direction=2)
    bench.get_by_test_id("theme-toggle").click()
    settled(bench)
    bench.wait_for_timeout(300)
    assert cells.evaluate("box => box.scrollLeft") == 40, "a reader who scrolls away stays there"
    expect(strip.locator('[data-token="0"]')).to_be_visible()
    bench.get_by_test_id("theme-toggle").click()
    strip.locator('[data-token="3"]').click()
    expect(bench.get_by_test_id("readout")).to_contain_text("at 3")
    strip.locator('[data-token="4"]').hover()
    expect(bench.get_by_test_id("token-tip")).to_contain_text("at 4")
    expect(bench.get_by_test_id("tip-neighbour")).to_have_count(8)
    open_prompts(bench, drawn=False)
    listed = bench.get_by_test_id("prompt-list")
    assert int(listed.get_attribute("data-tokens") or 0) >= 1000
    assert bench.evaluate(nodes) < MOST_NODES
    listed.evaluate("box => box.scrollTop = box.scrollHeight")
    expect(listed.locator("#pt0")).to_have_count(0)
    assert bench.evaluate(nodes) < MOST_NODES
