"""A link that is opened over somebody's work: shown, asked about, and taken back by one undo."""

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from browser.reaching import violations
from browser.steps import settled

pytestmark = pytest.mark.browser

MINE = [{"kind": "ablate", "site": "z.1", "head": 2}]
ITS = [{"kind": "scale", "site": "mlp_out.0", "factor": 0.5}, {"kind": "ablate", "site": "z.99"}]


def link(server: Any, **more: Any) -> str:
    model = server.session.model
    held = {
        "model": model.name,
        "hash": model.hash,
        "prompt": "of a link",
        "bos": False,
        "metric": None,
        "edits": ITS,
        "probes": [],
    }
    return f"{server.base}#tab=methods&share={quote(json.dumps(held | more))}"


def stands(server: Any) -> tuple[Any, ...]:
    assert server.session.wait(60)
    state = server.session.snapshot()[1]
    return state["prompt"]["text"], [edit["label"] for edit in state["edits"]], state["metric"], state["selection"]


@pytest.fixture
def at_work(bare: Page, bare_server: Any) -> Page:
    bare_server.session.intent("set_edits", {"edits": MINE})
    settled(bare)
    return bare


def test_what_is_here_is_kept(at_work: Page, bare_server: Any) -> None:
    before = stands(bare_server)
    for leave in ("button", "Escape", "Back"):
        at_work.goto(link(bare_server))
        expect(at_work.get_by_test_id("link-dialog")).to_be_visible()
        assert stands(bare_server) == before, "nothing changes until somebody says so"
        if leave == "button":
            at_work.get_by_test_id("link-keep").click()
        elif leave == "Escape":
            at_work.keyboard.press("Escape")
        else:
            at_work.go_back()
        expect(at_work.get_by_test_id("link-dialog")).to_have_count(0)
        settled(at_work)
        assert stands(bare_server) == before
        expect(at_work).not_to_have_url(re.compile("share="))


def test_it_is_opened_and_one_undo_brings_back_what_was_here(at_work: Page, bare_server: Any) -> None:
    before = stands(bare_server)
    other = at_work.context.new_page()
    other.goto(bare_server.base)
    settled(other)
    at_work.goto(link(bare_server))
    dialog = at_work.get_by_test_id("link-dialog")
    expect(dialog).to_contain_text("take the place of what is here: the prompt, the edits")
    expect(at_work.get_by_test_id("link-prompt")).to_have_text("of a link")
    expect(at_work.get_by_test_id("link-edits")).to_have_text("scale mlp_out.0, ×0.5")
    expect(at_work.get_by_test_id("link-model")).to_contain_text(bare_server.session.model.hash[:8])
    expect(at_work.get_by_test_id("link-left-out")).to_contain_text("edit 2, ablate z.99")
    expect(at_work.get_by_test_id("link-keep")).to_be_focused()
    at_work.keyboard.press("Tab")
    expect(at_work.get_by_test_id("link-open")).to_be_focused()
    at_work.keyboard.press("Enter")
    expect(at_work.locator("#tab-methods")).to_have_attribute("aria-selected", "true")
    expect(at_work.get_by_test_id("notice").first).to_contain_text("edit 2, ablate z.99 is left out")
    expect(at_work.get_by_test_id("notice").last).to_contain_text("Undo (u) brings back what was here")
    settled(at_work)
    assert stands(bare_server)[:2] == ("of a link", ["scale mlp_out.0, ×0.5"])
    expect(other.get_by_test_id("notice")).to_contain_text("A link was opened on another page of this session")
    for page in (at_work, other):
        expect(page.get_by_test_id("undo")).to_have_attribute("aria-label", "Undo: a link opened")
    other.keyboard.press("Control+z")
    settled(other)
    assert stands(bare_server) == before
    expect(at_work.get_by_test_id("edits-list")).to_contain_text("ablate z.1 head 2")
    other.keyboard.press("Control+Shift+z")
    settled(other)
    assert stands(bare_server)[0] == "of a link"
    other.close()


def test_where_nothing_would_be_lost_it_opens_at_once(bare: Page, bare_server: Any) -> None:
    bare_server.session.intent("set_prompt", {"text": "The"})
    settled(bare)
    bare.goto(link(bare_server, hash="0badc0de0badc0de", model="another"))
    expect(bare.get_by_test_id("notice").last).to_contain_text("made with another model: another (0badc0de)")
    settled(bare)
    assert stands(bare_server)[0] == "of a link"
    expect(bare.get_by_test_id("link-dialog")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_question_is_in_reach(at_work: Page, bare_server: Any, theme: Any) -> None:
    at_work.emulate_media(color_scheme=theme)
    long = "a line that goes on and on, and on, " * 40
    at_work.set_viewport_size({"width": 480, "height": 600})
    at_work.goto(
        link(
            bare_server,
            prompt=long[:200],
            hash="0badc0de0badc0de",
            model="<b>another</b>",
            metric={"positive": "a", "negative": " b"},
        )
    )
    dialog = at_work.get_by_test_id("link-dialog")
    expect(dialog).to_contain_text("<b>another</b> (0badc0de)")
    expect(dialog).to_contain_text("It is opened on")
    assert violations(at_work) == []
    assert dialog.evaluate("one => one.scrollWidth <= one.clientWidth")
    at_work.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
