"""What the tests of gestures do on the map, and how they hold what came of it to Python."""

from typing import Any

import torch
from playwright.sync_api import Page, expect

from browser.steps import IOI, settled

MARY = "When John and Mary went to the store, Mary gave a bottle of milk to"
LONGER = "When John and Mary went to the big store, Mary gave a bottle of milk to"
HEADS = 9


def open_map(page: Page) -> None:
    page.locator("#tab-map").click()
    expect(page.get_by_test_id("map").locator("canvas")).to_be_visible(timeout=30_000)
    page.get_by_test_id("map").get_by_role("application").focus()


def pick(page: Page, layer: int, head: int | None) -> None:
    """Selects a node by keys alone."""
    name = f"mlp {layer}" if head is None else f"{layer}.{head}"
    want = (layer, HEADS if head is None else head)
    while (now := str(page.get_by_test_id("map-readout").get_attribute("data-node"))) != name:
        at = (int(now[4:]), HEADS) if now.startswith("mlp") else tuple(map(int, now.split(".")))
        page.keyboard.press("k" if want[0] > at[0] else "j" if want[0] < at[0] else "l" if want[1] > at[1] else "h")
        page.wait_for_timeout(5)


def centre(page: Page, layer: int, head: int | None) -> tuple[float, float]:
    """Where a node stands on the screen, once it is selected."""
    pick(page, layer, head)
    box = page.locator("[data-testid=map] svg .on").first.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def stack_is(page: Page, session: Any, *wanted: dict[str, Any]) -> None:
    """The stack, in the words of the wire; of each edit only what is named here is looked at."""
    expect(page.locator("[data-edit]")).to_have_count(len(wanted))
    settled(page)
    shown = session.snapshot()[1]["edits"]
    assert [_named(edit, want) for edit, want in zip(shown, wanted, strict=True)] == [*wanted]


def _named(edit: Any, want: Any) -> Any:
    """Of a value, what another names of it."""
    if not isinstance(want, dict) or not isinstance(edit, dict):
        return edit
    return {key: _named(edit.get(key), value) for key, value in want.items()}


def same_as_pasted(session: Any) -> Any:
    """The logits of the session's edited run are those of the lines that "Copy as Python" gives; answers what these leave."""
    assert session.wait(60)
    state = session.state
    held = state.run(state.edited or state.baseline)
    pasted: dict[str, Any] = {}
    exec(compile(session.intent("python", {})["code"], "<pasted>", "exec"), pasted)
    run = pasted.get("edited", pasted["baseline"])
    torch.testing.assert_close(held.last, run.logits[0, -1], atol=2e-4, rtol=0)
    if "edited" in pasted:
        assert (run.logits[0, -1] - pasted["baseline"].logits[0, -1]).abs().max() > 1e-3, "the edits change nothing"
    assert pasted["prompt"] == IOI
    return pasted


def spot(page: Page, layer: int, head: int | None) -> tuple[float, float]:
    """Where a node stands, without selecting it: found with the pointer, whose tip says what is under it."""
    box = page.get_by_test_id("map").get_by_role("application").bounding_box()
    assert box is not None
    name, tip = f"mlp {layer}" if head is None else f"{layer}.{head}", page.get_by_test_id("tip")

    def over(x: float, y: float) -> str:
        page.mouse.move(x, y)
        page.wait_for_timeout(20)
        return tip.inner_text().split(" · ")[0] if tip.count() else ""

    rows = (y for y in range(int(box["y"]) + 27, int(box["y"] + box["height"]), 4))
    y = next(y for y in rows if over(box["x"] + 40, y).startswith(f"{layer}."))
    columns = range(int(box["x"]) + 34, int(box["x"] + box["width"]), 8)
    x = next(x for x in columns if over(x, y + 2) == name)
    page.mouse.move(box["x"] + 2, y)
    return x + 4, y + 2
