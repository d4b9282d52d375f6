"""A cell of the stream takes what the companion has there: by a drag, a press, a key; the logits are those of its Python line."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.acting import LONGER, MARY, same_as_pasted, stack_is
from browser.steps import IOI, LOAD_MS, settled

pytestmark = pytest.mark.browser

CHANGED = 9


@pytest.fixture
def beside(bench: Page, workbench: Any) -> Iterator[Page]:
    workbench.session.intent("set_companion", {"text": MARY})
    expect(bench.get_by_test_id("companion-strip")).to_be_visible()
    yield bench
    workbench.session.intent("set_companion", {"text": None})
    workbench.session.intent("set_edits", {"edits": []})


def at(page: Page, session: Any, layer: int, pos: int) -> None:
    session.intent("select", {"layer": layer, "pos": pos})
    settled(page)


LATE = """
window.WebSocket = class extends WebSocket {
  set onmessage(heard) { super.onmessage = (event) => setTimeout(() => heard.call(this, event), 300); }
};
"""


def test_what_is_settled_has_heard_all_even_what_computes_nothing(page: Page, workbench: Any) -> None:
    page.add_init_script(LATE)
    page.goto(workbench.url)
    expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
    workbench.session.intent("set_prompt", {"text": IOI})
    for pos in (3, 14, 0):
        at(page, workbench.session, 10, pos)
        token = page.get_by_role("group", name="Prompt tokens").locator("[aria-pressed=true]")
        pressed = token.get_attribute("aria-label", timeout=500)
        assert str(pressed).startswith(f"Token {pos}:")


@pytest.mark.parametrize("where", ["strip", "panel"])
def test_a_token_dragged_onto_a_cell_patches_that_layer_there(beside: Page, workbench: Any, where: str) -> None:
    token = beside.get_by_test_id("companion-token").nth(CHANGED)
    expect(token).to_have_class(re.compile("changed"))
    if where == "panel":
        token = beside.get_by_test_id("chips-own").locator(f"[data-own='{CHANGED}']")
    cells = beside.locator("#grid-cells")
    grid = beside.get_by_test_id("stream-grid")
    box, row = cells.bounding_box(), grid.locator(".layer", has_text=re.compile("^12$")).bounding_box()
    column = grid.locator(".head").nth(CHANGED).bounding_box()
    assert None not in (box, row, column)
    x, y = column["x"] + column["width"] / 2 - box["x"], row["y"] + row["height"] / 2 - box["y"]
    token.drag_to(cells, target_position={"x": x, "y": y})
    patch = {"kind": "patch", "site": "resid_post.12", "pos": [9], "source": {"kind": "prompt", "text": MARY}}
    stack_is(beside, workbench.session, patch)
    run = same_as_pasted(workbench.session)
    held = run["model"].run(MARY, ["resid_post.12"])["resid_post.12"][0, CHANGED]

    def put(module: Any, args: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        value[0, CHANGED] = held
        return output

    hook = run["model"].hf.model.layers[12].register_forward_hook(put)
    try:
        with torch.no_grad():
            plain = run["model"].hf(rs.load("smollm2-135m").tokens(IOI)).logits[0, -1]
    finally:
        hook.remove()
    torch.testing.assert_close(plain, run["edited"].logits[0, -1], atol=2e-4, rtol=0)


def test_the_key_patches_the_locked_cell_from_what_stands_for_it(beside: Page, workbench: Any) -> None:
    at(beside, workbench.session, 15, CHANGED)
    beside.keyboard.press("p")
    stack_is(beside, workbench.session, {"kind": "patch", "site": "resid_post.15", "pos": [CHANGED]})
    same_as_pasted(workbench.session)
    beside.keyboard.press("p")
    stack_is(beside, workbench.session)
    at(beside, workbench.session, -1, CHANGED)
    beside.keyboard.press("p")
    stack_is(beside, workbench.session, {"kind": "patch", "site": "embed", "pos": [CHANGED]})
    same_as_pasted(workbench.session)


def test_a_press_takes_another_position_and_makes_the_one_before_way(beside: Page, workbench: Any) -> None:
    workbench.session.intent("set_companion", {"text": LONGER})
    expect(beside.get_by_test_id("companion-token")).to_have_count(17)
    at(beside, workbench.session, 10, 15)
    beside.keyboard.press("p")
    stack_is(beside, workbench.session, {"kind": "patch", "pos": [15]})
    same_as_pasted(workbench.session)
    beside.get_by_test_id("companion-token").nth(10).click()
    stack_is(beside, workbench.session, {"kind": "patch", "site": "resid_post.10", "pos": [15]})
    (edit,) = workbench.session.state.edits
    assert [[*pair] for pair in edit.align] == [[15, 10]]
    same_as_pasted(workbench.session)


def test_a_cell_that_nothing_stands_for_says_so(beside: Page, workbench: Any) -> None:
    workbench.session.intent("set_companion", {"text": "When John and Mary went to the store, Mary gave milk to"})
    expect(beside.get_by_test_id("companion-token")).to_have_count(13)
    companion = workbench.session.snapshot()[1]["companion"]
    lone = next(pos for pos in range(16) if pos not in {to for to, _ in companion["pairs"]})
    at(beside, workbench.session, 10, lone)
    beside.keyboard.press("p")
    expect(beside.get_by_role("status").filter(has_text="that stands for it")).to_be_visible()
    stack_is(beside, workbench.session)
