"""What of the map a link carries, and what an ablated part's old number looks like."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, LOAD_MS, settled
from browser.test_map import node, open_map
from residscope import edits

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def model(workbench: Any) -> Any:
    assert workbench.session.wait(LOAD_MS / 1000)
    return rs.load("smollm2-135m")


def link_of(page: Page) -> str:
    page.evaluate(
        "() => { window.copied = ''; navigator.clipboard.writeText = async text => { window.copied = text } }"
    )
    page.get_by_role("button", name="Share").click()
    page.wait_for_function("() => window.copied")
    return str(page.evaluate("() => window.copied"))


def test_node_rectangle_tint_and_drawing_come_back_by_the_link(bench: Page) -> None:
    open_map(bench)
    bench.mouse.click(*node(bench, 20, 4))
    bench.keyboard.press("Shift+ArrowRight")
    bench.keyboard.press("Shift+ArrowDown")
    bench.keyboard.press("w")
    bench.get_by_test_id("map-tint").select_option("induction")
    bench.get_by_test_id("map-flow-pos").select_option("3")
    link = link_of(bench)
    assert "node=20.4-19.5" in link
    bench.goto("about:blank")
    bench.goto(link)
    settled(bench)
    expect(bench.get_by_test_id("map").locator("canvas")).to_be_visible(timeout=30_000)
    expect(bench.get_by_test_id("map-selected")).to_have_text("4 parts")
    expect(bench.get_by_test_id("map-readout")).to_have_attribute("data-node", "20.4")
    expect(bench.get_by_test_id("map-tint")).to_have_value("induction")
    expect(bench.get_by_test_id("map-flow")).to_have_attribute("data-layer", "20")
    expect(bench.get_by_test_id("map-flow-pos")).to_have_value("3")


def test_an_address_of_nothing_there_is_read_as_far_as_it_goes(bench: Page, workbench: Any) -> None:
    bench.goto("about:blank")
    bench.goto(f"http://127.0.0.1:{workbench.port}/#tab=map&node=99.99-500.7&tint=nothing&inside=at 400")
    settled(bench)
    expect(bench.get_by_test_id("map").locator("canvas")).to_be_visible(timeout=30_000)
    expect(bench.get_by_test_id("map-readout")).to_have_attribute("data-node", "29.8")
    expect(bench.get_by_test_id("map-selected")).to_have_text("29.8")
    expect(bench.get_by_test_id("map-tint")).to_have_value("direct")
    expect(bench.get_by_test_id("map-flow-pos")).to_have_value("15")


def test_an_ablated_head_has_its_baseline_struck_through_beside_the_edited_value(bench: Page, model: Any) -> None:
    before = rs.direct_attribution(model, IOI, rs.logit_diff(" Mary", " John"), by="head").heads
    stack = [edits.ablate("z.23", head=3)]
    after = rs.direct_attribution(model, IOI, rs.logit_diff(" Mary", " John"), by="head", background=stack).heads
    assert before is not None
    assert after is not None
    open_map(bench)
    node(bench, 23, 3)
    bench.keyboard.press("a")
    settled(bench)
    old, new = float(before.values[23, 3]), float(after.values[23, 3])
    assert new == 0
    was = bench.locator("[data-testid=map] svg text", has_text="before the edits")
    expect(was).to_have_count(1)
    expect(was).to_contain_text(f"{old:+.2f}")  # once the map of the edited run has come
    assert was.evaluate("text => text.firstChild.textContent") == f"{old:+.2f}"
    expect(bench.get_by_test_id("map-was")).to_have_text(f"{old:+.3f}")
    expect(bench.locator("s[data-testid=map-was]")).to_have_count(1)
    line = was.evaluate(
        "text => { const next = text.nextElementSibling, a = text.getBBox(), b = next.getBBox();"
        " return [next.tagName, b.x <= a.x + 1, b.x + b.width >= a.x + a.width - 1, b.y > a.y, b.y < a.y + a.height]; }"
    )
    assert line == ["path", True, True, True, True], "a line through the number"
    bench.keyboard.press("a")
    expect(was).to_have_count(0)
