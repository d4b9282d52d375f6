"""The glossary on the page: opened by its key, searched, followed to what shows a word, and opened from labels that are words."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import settled
from residscope.terms import headwords

pytestmark = pytest.mark.browser


def search(page: Page, words: str) -> Locator:
    """The entry that is found first."""
    if not page.get_by_test_id("help").count():
        page.keyboard.press("?")
    page.get_by_test_id("help-search").fill(words)
    return page.get_by_test_id("help-term")


def test_a_word_is_found_read_and_left_by_keys(bench: Page) -> None:
    bench.keyboard.press("?")
    expect(bench.get_by_test_id("help-search")).to_be_focused()
    bench.keyboard.type("K-composition")
    entry, known = bench.get_by_test_id("help-term"), rs.glossary("K-composition")
    expect(entry).to_have_attribute("data-term", known.term)
    for part in (known.what, known.formula, known.trap, known.source, *known.see):
        expect(entry).to_contain_text(part)
    entry.get_by_test_id("help-see").filter(has_text="composition score").click()
    expect(entry).to_have_attribute("data-term", "composition score")
    expect(bench.get_by_test_id("help-search")).to_have_value("")
    bench.get_by_test_id("help-all").click()
    expect(entry).to_have_count(0)
    bench.get_by_test_id("help-search").fill("zebra")
    expect(bench.get_by_test_id("help-none")).to_be_visible()
    bench.keyboard.press("Escape")
    expect(bench.get_by_test_id("help-search")).to_have_value("")
    bench.keyboard.press("Escape")
    expect(bench.get_by_test_id("help")).to_have_count(0)


def test_each_way_leads_to_what_it_names(bench: Page, workbench: Any) -> None:
    def follow(words: str, link: str) -> None:
        entry = search(bench, words)
        entry.locator(f'[data-show="{link}"]').click()

    chosen = re.compile("true")
    follow("K-composition", "tab:weights")
    expect(bench.locator("#tab-weights")).to_have_attribute("aria-selected", chosen)
    follow("K-composition", "method:attribute-scores")
    expect(bench.locator("#tab-methods")).to_have_attribute("aria-selected", chosen)
    expect(bench.get_by_test_id("method-form")).to_contain_text("attribute-scores")
    follow("greater-than task", "task:greater-than")
    expect(bench.get_by_test_id("method-form")).to_contain_text("task-check")
    expect(bench.get_by_label("Task", exact=True)).to_have_value("greater-than")
    follow("residual stream", "site:resid_pre")
    expect(bench.locator("#tab-stream")).to_have_attribute("aria-selected", chosen)
    bench.get_by_test_id("strip").locator('[data-token="5"]').click()
    follow("query", "site:q")
    expect(bench.locator("#tab-map")).to_have_attribute("aria-selected", chosen)
    expect(bench.get_by_test_id("map-inside")).to_have_attribute("aria-expanded", chosen)
    bench.get_by_test_id("map-inside").click()
    bench.locator("#tab-stream").click()
    follow("ablation", "edit:ablate")
    expect(bench.get_by_test_id("edit-kind")).to_have_value("ablate")
    bench.get_by_test_id("edit-submit").click()
    expect(bench.locator("[data-edit]")).to_have_count(1)
    (edit,) = workbench.session.snapshot()[1]["edits"]
    assert (edit["kind"], edit["pos"]) == ("ablate", [5])
    assert edit["site"].startswith("resid_")
    settled(bench)


def test_a_site_that_the_model_lacks_says_why(bench: Page) -> None:
    way = search(bench, "position embedding").locator('[data-show="site:pos_embed"]')
    expect(way).to_be_disabled()
    expect(way).to_have_attribute("title", re.compile("^not in this model: "))


def test_labels_that_are_words_open_their_entry(bench: Page) -> None:
    bench.locator("#tab-methods").click()
    bench.get_by_test_id("method-direct-attribution").click()
    bench.get_by_test_id("method-form").get_by_role("button", name="Direct logit attribution").click()
    expect(bench.get_by_test_id("help-term")).to_have_attribute("data-term", headwords()["method:direct-attribution"])
    bench.locator("#tab-lens").click()
    bench.get_by_test_id("lens-readout").get_by_role("button", name="KL to the end").click()
    expect(bench.get_by_test_id("help-term")).to_have_attribute("data-term", "KL divergence")
    bench.get_by_test_id("library-toggle").click()
    expect(bench.get_by_test_id("help")).to_have_count(0)
    bench.get_by_test_id("help-open").click()
    expect(bench.get_by_test_id("library")).to_have_count(0)
    bench.get_by_test_id("help-here").get_by_text("Words of the tab Lens").click()
    expect(bench.get_by_test_id("help-here").get_by_role("button", name="logit lens")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_or_hard_to_read(bench: Page, theme: str) -> None:
    if theme == "dark":
        bench.get_by_test_id("theme-toggle").click()
    bench.keyboard.press("?")
    expect(bench.get_by_test_id("help-here")).to_be_visible()
    wrong = {"help": violations(bench) + faults(bench)}
    for fold in bench.get_by_test_id("help").locator("summary").all():
        fold.click()
    wrong["all words"] = violations(bench) + faults(bench)
    search(bench, "activation patching")
    for width, height in ((1280, 720), (820, 1180), (390, 844), (640, 360)):
        bench.set_viewport_size({"width": width, "height": height})
        bench.wait_for_timeout(150)
        wrong[f"an entry at {width}"] = violations(bench) + faults(bench)
    assert {where: one for where, one in wrong.items() if one} == {}
