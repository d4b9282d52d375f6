"""The stack of edits: its order, one alone, all off, under a name, as a file and as a link; each step is undone by one press."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.acting import same_as_pasted, stack_is
from browser.steps import settled
from residscope import edits

pytestmark = pytest.mark.browser

ABLATE = {"kind": "ablate", "site": "z.23", "head": 3, "to": "zero"}
SCALE = {"kind": "scale", "site": "mlp_out.28", "factor": 0.5}
STEER = {
    "kind": "steer", "site": "resid_post.20", "strength": 30.0, "unit": "norm",
    "direction": {"kind": "logit_diff", "positive": " Mary", "negative": " John"},
}  # fmt: skip
STACK = [ABLATE, SCALE, STEER]


@pytest.fixture
def stacked(bench: Page, workbench: Any) -> Iterator[Page]:
    workbench.session.intent("set_edits", {"edits": STACK})
    stack_is(bench, workbench.session, *STACK)
    yield bench
    for stack in workbench.session.snapshot()[1]["stacks"]:
        workbench.session.intent("delete_stack", {"name": stack["name"]})
    workbench.session.intent("set_edits", {"edits": []})


def switched(page: Page) -> list[str | None]:
    return [row.get_attribute("aria-checked") for row in page.locator("[data-edit] [role=switch]").all()]


def test_the_order_is_changed_by_drag_and_by_keys(stacked: Page, workbench: Any) -> None:
    grips = stacked.locator("[data-edit] .grip")
    grips.nth(2).drag_to(stacked.locator("[data-edit]").nth(0))
    stack_is(stacked, workbench.session, STEER, ABLATE, SCALE)
    same_as_pasted(workbench.session)
    grips.nth(0).focus()
    stacked.keyboard.press("ArrowDown")
    stack_is(stacked, workbench.session, ABLATE, STEER, SCALE)
    stacked.get_by_test_id("undo").click()
    stack_is(stacked, workbench.session, STEER, ABLATE, SCALE)
    stacked.get_by_test_id("undo").click()
    stack_is(stacked, workbench.session, *STACK)
    stacked.get_by_test_id("redo").click()
    stack_is(stacked, workbench.session, STEER, ABLATE, SCALE)


def test_one_alone_and_all_off(stacked: Page, workbench: Any) -> None:
    row = stacked.locator("[data-edit]").nth(1)
    row.hover()
    row.get_by_test_id("edit-only").click()
    stack_is(stacked, workbench.session, *({**edit, "enabled": i == 1} for i, edit in enumerate(STACK)))
    same_as_pasted(workbench.session)
    row.get_by_test_id("edit-only").click()
    stack_is(stacked, workbench.session, *({**edit, "enabled": True} for edit in STACK))
    stacked.get_by_test_id("edits-all").click()
    stack_is(stacked, workbench.session, *({**edit, "enabled": False} for edit in STACK))
    assert switched(stacked) == ["false"] * 3
    stacked.get_by_test_id("undo").click()
    stack_is(stacked, workbench.session, *({**edit, "enabled": True} for edit in STACK))


def test_a_stack_is_kept_under_a_name_put_back_renamed_and_deleted(stacked: Page, workbench: Any) -> None:
    stacked.get_by_test_id("stacks").click()
    expect(stacked.get_by_test_id("stack-name")).to_be_focused()
    stacked.keyboard.type("three")
    stacked.keyboard.press("Enter")
    expect(stacked.locator("[data-stack=three]")).to_be_visible()
    stacked.keyboard.press("Escape")
    workbench.session.intent("set_edits", {"edits": [SCALE]})
    stack_is(stacked, workbench.session, SCALE)
    stacked.get_by_test_id("stacks").click()
    stacked.locator("[data-stack=three]").get_by_test_id("stack-load").click()
    stack_is(stacked, workbench.session, *STACK)
    same_as_pasted(workbench.session)
    stacked.get_by_test_id("undo").click()
    stack_is(stacked, workbench.session, SCALE)
    stacked.get_by_test_id("stacks").click()
    stacked.get_by_role("button", name="Rename three").click()
    stacked.get_by_test_id("stack-to").fill("all of them")
    stacked.keyboard.press("Enter")
    expect(stacked.locator("[data-stack='all of them']")).to_be_visible()
    stacked.get_by_role("button", name="Delete all of them").click()
    expect(stacked.locator("[data-stack]")).to_have_count(0)
    stacked.get_by_role("button", name="Bring it back").click()
    settled(stacked)
    assert [stack["name"] for stack in workbench.session.snapshot()[1]["stacks"]] == ["all of them"]


def test_it_is_a_file_that_python_reads_and_a_link(stacked: Page, workbench: Any, tmp_path: Path) -> None:
    session = workbench.session
    stacked.context.grant_permissions(["clipboard-read", "clipboard-write"])
    session.intent("save_stack", {"name": "three"})
    stacked.get_by_test_id("stacks").click()
    with stacked.expect_download() as loading:
        stacked.get_by_role("button", name="Save three as JSON").click()
    path = tmp_path / loading.value.suggested_filename
    loading.value.save_as(path)
    assert path.name == "three.json"
    assert session.wait(60)
    run = session.state.run(session.state.edited)
    again = session.model.run(session.state.prompt.text, edits=edits.from_json(path.read_text()))
    assert (again.logits[0, -1] - run.last).abs().max() < 2e-4
    stacked.get_by_role("button", name="Link to three").click()
    expect(stacked.get_by_text("Link copied")).to_be_visible()
    link = stacked.evaluate("navigator.clipboard.readText()")
    session.intent("set_edits", {"edits": []})
    stacked.keyboard.press("Escape")
    stack_is(stacked, session)
    stacked.get_by_test_id("stacks").click()
    stacked.get_by_test_id("stack-file").set_input_files(path)
    expect(stacked.locator("[data-edit]")).to_have_count(3)
    settled(stacked)
    assert session.wait(60)
    back = session.state.run(session.state.edited)
    assert (back.last - run.last).abs().max() < 2e-4
    session.intent("set_edits", {"edits": []})
    stacked.goto(link)
    stacked.reload()
    stack_is(stacked, session, *STACK)
