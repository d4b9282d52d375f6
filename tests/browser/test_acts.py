"""Acting on what is seen: each gesture of the page is an edit, and its logits are those of its Python line."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.acting import LONGER, MARY, open_map, pick, same_as_pasted, spot, stack_is
from browser.steps import IOI, Traffic, choose, settled

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
    expect(bench.get_by_test_id("companion-input")).to_be_focused()
    bench.keyboard.press("Escape")
    button.click()
    expect(bench.get_by_test_id("companion-input")).to_be_focused()
    bench.keyboard.press("Escape")
    stack_is(bench, workbench.session)


PATH = {"kind": "path", "sender": "z.20", "sender_head": 4, "source": from_companion()}


def dragged(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 8, start[1] - 3)
    page.mouse.move(*end, steps=5)


def test_a_head_dragged_onto_a_later_one_is_a_path(acting: Page, workbench: Any) -> None:
    start, end = spot(acting, 20, 4), spot(acting, 23, 3)
    dragged(acting, start, end)
    target = acting.get_by_test_id("path-target")
    expect(target).to_have_attribute("data-end", "23.3")
    expect(target).to_have_attribute("data-possible", "true")
    expect(acting.get_by_test_id("path-words")).to_contain_text("23.3 reads 20.4 as in")
    acting.mouse.up()
    expect(acting.get_by_test_id("path-choice").get_by_role("button")).to_have_text(["q 3", "k kv 1", "v kv 1", "✕"])
    expect(acting.get_by_test_id("path-q")).to_be_focused()
    acting.get_by_test_id("path-q").click()
    stack_is(acting, workbench.session, {**PATH, "receiver": "q.23", "head": 3})
    same_as_pasted(workbench.session)


@pytest.mark.parametrize("reads", ["k", "v"])
def test_keys_and_values_are_those_of_the_group(acting: Page, workbench: Any, reads: str) -> None:
    dragged(acting, spot(acting, 0, None), spot(acting, 23, 4))
    acting.mouse.up()
    for _ in range("qkv".index(reads)):
        acting.keyboard.press("ArrowRight")
    acting.keyboard.press("Enter")
    stack_is(acting, workbench.session, {"sender": "mlp_out.0", "receiver": f"{reads}.23", "kv_head": 1})
    same_as_pasted(workbench.session)


def test_an_mlp_and_the_logits_are_dropped_on_without_a_choice(acting: Page, workbench: Any) -> None:
    box = acting.get_by_test_id("map").get_by_role("application").bounding_box()
    assert box is not None
    start, mlp = spot(acting, 22, None), spot(acting, 25, None)
    dragged(acting, start, mlp)
    acting.mouse.up()
    stack_is(acting, workbench.session, {"sender": "mlp_out.22", "receiver": "mlp_in.25"})
    spine = acting.locator("[data-testid=map] svg circle").first.bounding_box()
    assert spine is not None
    dragged(acting, spot(acting, 23, 3), (spine["x"] + spine["width"] / 2, box["y"] + 14))
    acting.mouse.up()
    wanted = {"sender": "z.23", "sender_head": 3, "receiver": "final_norm", "head": None}
    stack_is(acting, workbench.session, {"kind": "path"}, {"kind": "path", **wanted})
    same_as_pasted(workbench.session)
    foot = (spine["x"] + spine["width"] / 2, box["y"] + box["height"] - 8)
    dragged(acting, foot, mlp)
    expect(acting.get_by_test_id("path-words")).to_contain_text("mlp 25 reads embed")
    acting.keyboard.press("Escape")
    acting.mouse.up()
    stack_is(acting, workbench.session, {"kind": "path"}, {"kind": "path"})


def test_what_cannot_read_is_no_target_and_escape_lets_go(acting: Page, workbench: Any) -> None:
    start, end = spot(acting, 20, 4), spot(acting, 18, 2)
    dragged(acting, start, end)
    expect(acting.get_by_test_id("path-target")).to_have_attribute("data-possible", "false")
    expect(acting.get_by_test_id("path-words")).to_contain_text("18.2 reads the stream before 20.4 writes into it")
    acting.mouse.up()
    expect(acting.get_by_test_id("path-words")).to_have_count(0)
    dragged(acting, start, spot(acting, 23, 3))
    acting.keyboard.press("Escape")
    expect(acting.get_by_test_id("path-words")).to_have_count(0)
    acting.mouse.up()
    stack_is(acting, workbench.session)


def test_a_path_by_keys_alone_and_its_arrow_is_lit_with_its_row(acting: Page, workbench: Any) -> None:
    pick(acting, 0, None)
    acting.keyboard.press("m")
    pick(acting, 23, 3)
    expect(acting.get_by_test_id("path-target")).to_have_attribute("data-possible", "true")
    acting.keyboard.press("Enter")
    acting.keyboard.press("ArrowRight")
    acting.keyboard.press("ArrowRight")
    acting.keyboard.press("Enter")
    stack_is(acting, workbench.session, {"sender": "mlp_out.0", "receiver": "v.23", "kv_head": 1})
    same_as_pasted(workbench.session)
    arrow, row = acting.locator("[data-arrow]"), acting.locator("[data-edit]")
    expect(arrow).to_have_count(1)
    row.hover()
    expect(arrow).to_have_class(re.compile("lit"))
    acting.mouse.move(2, 2)
    expect(arrow).not_to_have_class(re.compile("lit"))
    acting.locator("[data-testid=map] path.under").dispatch_event("pointerenter")
    expect(row).to_have_class(re.compile("lit"))
    pick(acting, 20, 4)
    acting.keyboard.press("m")
    acting.get_by_test_id("path-embed").click()
    acting.get_by_test_id("path-logits").click()
    stack_is(acting, workbench.session, {"kind": "path"}, {"kind": "path", "sender": "embed", "receiver": "final_norm"})
    same_as_pasted(workbench.session)


def test_steering_a_part_is_in_the_stream_behind_it_and_its_strength_is_in_the_stack(
    acting: Page, workbench: Any
) -> None:
    pick(acting, 20, 4)
    acting.keyboard.press("s")
    answers = {"kind": "logit_diff", "positive": " Mary", "negative": " John"}
    stack_is(acting, workbench.session, {"kind": "steer", "site": "resid_post.20", "direction": answers, "head": None})
    expect(acting.get_by_test_id("map-steer")).to_have_attribute("aria-pressed", "true")
    same_as_pasted(workbench.session)
    slider = acting.get_by_test_id("edit-strength")
    slider.focus()
    slider.press("ArrowRight")
    settled(acting)
    (edit,) = workbench.session.snapshot()[1]["edits"]
    assert edit["strength"] > 10
    same_as_pasted(workbench.session)
    pick(acting, 20, None)
    acting.get_by_test_id("map-steer").click()
    stack_is(acting, workbench.session)


def test_steering_along_a_direction_of_a_head_is_in_its_z_and_an_mlp_refuses_it(
    acting: Page, workbench: Any, traffic: Traffic
) -> None:
    text = {"kind": "typed", "name": "mine.txt", "text": "\n\n".join([IOI, MARY, LONGER] * 3)}
    args = {"corpus": text, "site": "z.23", "head": 3, "n": 3, "tokens": 100}
    workbench.session.intent("start", {"method": "svd", "args": args})
    assert workbench.session.wait(120)
    acting.locator("#tab-stream").click()
    choose(acting, kind="svd", place="svd@z.23.h3", direction=0)
    open_map(acting)
    pick(acting, 23, 5)
    acting.keyboard.press("s")
    stack_is(acting, workbench.session, {"kind": "steer", "site": "z.23", "head": 5})
    same_as_pasted(workbench.session)
    acting.keyboard.press("s")
    stack_is(acting, workbench.session)
    pick(acting, 23, None)
    acting.keyboard.press("s")
    expect(acting.get_by_role("alert").filter(has_text="width")).to_be_visible()
    stack_is(acting, workbench.session)
    acting.locator("#tab-stream").click()
    choose(acting, direction="logit")
    workbench.session.intent("forget_dictionary", {"id": "svd@z.23.h3"})
