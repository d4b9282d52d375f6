"""What goes wrong says so in words, where it happened, with the way out; and a server that is started again is no loss."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.steps import IOI, LOAD_MS, metric, settled, type_prompt

pytestmark = pytest.mark.browser


class Restarted:
    """A server on one port and one data folder that can be stopped and started again, as by a user."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.server: Any = None

    def start(self, model: str = "smollm2-135m") -> Any:
        from residscope.engine.loading import load
        from residscope.server import Server
        from residscope.server.listen import offers
        from residscope.session import Session
        from residscope.store import open_library

        session = Session(load=load, offers=offers, folder=self.folder, memory=self.folder / "sessions" / "here.json")
        self.server = Server(session, port=self.port, library=open_library(folder=self.folder))
        self.port = self.server.port
        session.load(model)
        return self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.server = None


@pytest.fixture
def restarted(tmp_path: Path) -> Iterator[Restarted]:
    one = Restarted(tmp_path)
    yield one
    one.stop()


def test_an_open_page_comes_back_with_prompt_edits_and_tab_and_no_number_of_before(
    page: Page, restarted: Restarted
) -> None:
    server = restarted.start()
    page.goto(server.url)
    expect(page.get_by_test_id("status")).to_have_attribute("data-phase", "idle", timeout=LOAD_MS)
    type_prompt(page, "When Tom and James went to the park, James handed a ball to")
    settled(page)
    server.session.intent("add_edit", {"edit": {"kind": "ablate", "site": "z.23", "head": 3}})
    settled(page)
    before = metric(page, "b")
    type_prompt(page, IOI)  # another run takes another name: the names of the next session mean others
    settled(page)
    page.get_by_test_id("undo").click()
    settled(page)
    page.get_by_test_id("redo").click()
    type_prompt(page, "When Tom and James went to the park, James handed a ball to")
    settled(page)
    page.get_by_role("tab", name="Prompts").click()
    expect(page).to_have_url(re.compile("tab=prompts"))
    restarted.stop()
    expect(page.get_by_test_id("disconnected")).to_be_visible(timeout=20_000)
    restarted.start()
    expect(page.get_by_test_id("disconnected")).to_have_count(0, timeout=30_000)
    settled(page)
    expect(page.get_by_role("tab", name="Prompts")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_test_id("notice").filter(has_text="started again")).to_contain_text("the prompt and 1 edit")
    expect(page.locator("[data-edit]")).to_have_count(1)
    expect(page.get_by_test_id("result-b")).to_have_attribute("data-value", re.compile(r"\d"))
    assert metric(page, "b") == pytest.approx(before, abs=1e-4)
    assert "token" not in page.url


def test_an_address_without_its_link_is_answered_in_words(page: Page, workbench: Any) -> None:
    page.goto(workbench.base)
    expect(page.get_by_role("heading")).to_contain_text("This page needs the token of this server")
    assert "{" not in page.locator("body").inner_text()
    assert page.evaluate("getComputedStyle(document.body).maxWidth") != "none", "the policy lets its style in"


def test_a_model_that_does_not_load_says_why_and_the_old_one_can_be_kept(bench: Page, workbench: Any) -> None:
    expect(bench.get_by_test_id("certificate-badge")).to_be_visible()
    bench.get_by_test_id("model-picker").click()
    bench.get_by_label("Hub id or folder").fill("/nowhere/at/all")
    bench.get_by_role("button", name="Load", exact=True).click()
    failed = bench.get_by_test_id("failed")
    expect(failed).to_contain_text("/nowhere/at/all could not be loaded.", timeout=30_000)
    expect(failed).to_contain_text(workbench.session.state.status.error["message"])
    expect(bench.get_by_test_id("certificate-badge")).to_have_count(0)
    failed.get_by_role("button", name="Keep smollm2-135m").click()
    expect(failed).to_have_count(0)
    expect(bench.get_by_test_id("certificate-badge")).to_be_visible()
    expect(bench.get_by_test_id("status")).to_have_attribute("data-phase", "idle")


def test_picking_the_model_that_is_loaded_does_nothing(bench: Page, workbench: Any) -> None:
    model, seq = workbench.session.state.model, workbench.session.snapshot()[0]
    bench.get_by_test_id("model-picker").click()
    bench.locator(".offer.cur").click()
    bench.wait_for_timeout(300)
    assert workbench.session.state.model is model
    assert workbench.session.snapshot()[0] == seq


def test_back_walks_tabs_and_directions(bench: Page) -> None:
    bench.evaluate("location.hash = 'dir=mix&w=0:1'")
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 0")
    bench.get_by_role("tab", name="Prompts").click()
    expect(bench).to_have_url(re.compile("tab=prompts"))
    bench.evaluate("location.hash = 'tab=prompts&dir=mix&w=1:1'")
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 1")
    bench.go_back()
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 0")
    expect(bench.get_by_role("tab", name="Prompts")).to_have_attribute("aria-selected", "true")
    bench.go_back()
    expect(bench.get_by_role("tab", name="Stream")).to_have_attribute("aria-selected", "true")
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 0")
    bench.go_forward()
    expect(bench.get_by_role("tab", name="Prompts")).to_have_attribute("aria-selected", "true")


def test_a_share_link_put_into_an_open_tab_opens(bench: Page, workbench: Any) -> None:
    workbench.session.intent("set_edits", {"edits": [{"kind": "ablate", "site": "z.23", "head": 3}]})
    settled(bench)
    bench.evaluate("navigator.clipboard.writeText = (text) => (window.copied = text, Promise.resolve())")
    bench.get_by_test_id("share").click()
    expect(bench.get_by_test_id("notice")).to_contain_text("Link copied")
    link = bench.evaluate("window.copied")
    workbench.session.intent("set_edits", {"edits": []})
    type_prompt(bench, "Something else entirely")
    settled(bench)
    bench.evaluate("link => { location.href = link }", link)
    bench.get_by_test_id("link-open").click()
    expect(bench.locator("[data-edit]")).to_have_count(1, timeout=20_000)
    settled(bench)
    assert workbench.session.state.prompt.text == IOI
    expect(bench).not_to_have_url(re.compile("share="))
