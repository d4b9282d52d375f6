"""Acting on what is seen: each gesture of the page is an edit, and its logits are those of its Python line."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.acting import LONGER, MARY, open_map, pick, same_as_pasted, stack_is

pytestmark = pytest.mark.browser


@pytest.fixture
def acting(bench: Page, workbench: Any) -> Iterator[Page]:
    """The map, with a companion beside the prompt."""
    workbench.session.intent("set_companion", {"text": MARY})
    open_map(bench)
    yield bench
    workbench.session.intent("set_companion", {"text": None})
    workbench.session.intent("set_edits", {"edits": []})


def from_companion(text: str = MARY) -> dict[str, Any]:
    return {"kind": "prompt", "text": text, "bos": None, "edits": []}


OLD = {
    "a": {"kind": "ablate", "site": "z.23", "head": 3, "to": "zero"},
    "f": {"kind": "freeze", "site": "pattern.23", "head": 3},
    "i": {"kind": "isolate", "site": "z.23", "head": 3, "to": "zero"},
    "[": {"kind": "scale", "site": "z.23", "head": 3, "factor": 0.75},
    "]": {"kind": "scale", "site": "z.23", "head": 3, "factor": 1.25},
    "p": {"kind": "patch", "site": "z.23", "head": 3, "source": from_companion()},
}


@pytest.mark.parametrize("key", OLD)
def test_a_key_on_a_head(acting: Page, workbench: Any, key: str) -> None:
    upstream = {"kind": "ablate", "site": "mlp_out.3", "to": "zero"}  # a frozen pattern then differs from its run's own
    workbench.session.intent("set_edits", {"edits": [upstream]})
    stack_is(acting, workbench.session, upstream)
    pick(acting, 23, 3)
    acting.keyboard.press(key)
    stack_is(acting, workbench.session, upstream, OLD[key])
    same_as_pasted(workbench.session)
    acting.keyboard.press({"[": "]", "]": "["}.get(key, key))
    stack_is(acting, workbench.session, upstream)


def test_the_same_by_buttons(acting: Page, workbench: Any) -> None:
    for button in ("ablate", "freeze", "isolate", "strengthen", "patch"):
        pick(acting, 23, 3)
        acting.get_by_test_id(f"map-{button}").click()
        kind = {"strengthen": "scale"}.get(button, button)
        stack_is(acting, workbench.session, {"kind": kind})
        workbench.session.intent("undo", {})
        stack_is(acting, workbench.session)


def test_an_mlp_and_a_rectangle_are_patched(acting: Page, workbench: Any) -> None:
    pick(acting, 21, None)
    acting.keyboard.press("p")
    stack_is(acting, workbench.session, {"kind": "patch", "site": "mlp_out.21", "source": from_companion()})
    pick(acting, 23, 3)
    acting.keyboard.press("Shift+ArrowRight")
    acting.keyboard.press("Shift+ArrowDown")
    acting.get_by_test_id("map-patch").click()
    stack_is(
        acting,
        workbench.session,
        {"kind": "patch", "site": "mlp_out.21"},
        {"kind": "patch", "site": "z.22", "head": [3, 4]},
        {"kind": "patch", "site": "z.23", "head": [3, 4]},
    )
    same_as_pasted(workbench.session)
    expect(acting.get_by_test_id("map-patch")).to_have_attribute("aria-pressed", "true")
    acting.get_by_test_id("map-patch").click()
    stack_is(acting, workbench.session, {"kind": "patch", "site": "mlp_out.21"})


def test_a_companion_of_another_length_is_aligned_and_takes_the_place_of_the_one_before(
    acting: Page, workbench: Any
) -> None:
    pick(acting, 23, 3)
    acting.keyboard.press("p")
    stack_is(acting, workbench.session, {"kind": "patch", "align": None})
    workbench.session.intent("set_companion", {"text": LONGER})
    expect(acting.get_by_test_id("map-patch")).to_have_attribute("aria-pressed", "false")
    acting.keyboard.press("p")
    stack_is(acting, workbench.session, {"kind": "patch", "source": from_companion(LONGER), "align": "tokens"})
    same_as_pasted(workbench.session)


def test_without_a_companion_a_patch_says_what_is_lacking(bench: Page, workbench: Any) -> None:
    open_map(bench)
    button = bench.get_by_test_id("map-patch")
    expect(button).to_have_text("Patch: write a companion first")
    pick(bench, 23, 3)
    bench.keyboard.press("p")
    expect(bench.get_by_role("status").filter(has_text="write a companion first")).to_be_visible()
    stack_is(bench, workbench.session)
