"""The corrupted companion on the page: written, swapped, compared, patched from; every number is Python's."""

import re
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, metric, settled
from residscope import edits

pytestmark = pytest.mark.browser

OTHER = "When John and Mary went to the store, Mary gave a bottle of milk to"
LONGER = "When John and Mary went to the big store, Mary gave a bottle of milk to"


def write(page: Page, text: str) -> None:
    page.get_by_test_id("companion-add").or_(page.get_by_test_id("companion-edit")).click()
    page.get_by_test_id("companion-input").fill(text)
    page.get_by_test_id("companion-input").press("Enter")
    expect(page.get_by_test_id("companion-input")).to_have_count(0)


def difference(model: Any, text: str) -> float:
    """The logit difference by the model's own forward."""
    with torch.no_grad():
        logits = model.hf(torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0, -1]
    return float(logits[model.token_id(" Mary")] - logits[model.token_id(" John")])


def kinds(page: Page, side: str) -> list[str]:
    chips = page.get_by_test_id(f"chips-{side}").locator("[data-kind]")
    return [str(chip.get_attribute("data-kind")) for chip in chips.all()]


def test_it_stands_in_the_prompts_columns_with_what_comes_out_of_it(bench: Page, workbench: Any) -> None:
    write(bench, OTHER)
    expect(bench.get_by_test_id("companion-differs")).to_have_text("1 differs")
    assert kinds(bench, "own") == kinds(bench, "live") == ["same"] * 9 + ["exchanged"] + ["same"] * 6
    shown = bench.get_by_test_id("companion-metric")
    expect(shown).to_have_attribute("data-value", re.compile(r"-\d"), timeout=30_000)
    assert float(shown.get_attribute("data-value") or "nan") == pytest.approx(
        difference(workbench.session.model, OTHER), abs=2e-3
    )
    expect(bench.get_by_test_id("companion-outcome")).to_contain_text("flips")
    write(bench, LONGER)
    expect(bench.get_by_test_id("companion-differs")).to_have_text("2 differ")
    lefts = [
        bench.get_by_test_id(f"chips-{side}").locator("[data-kind]").evaluate_all(
            "all => all.map(one => [one.getBoundingClientRect().left, one.getBoundingClientRect().width])"
        )
        for side in ("live", "own")
    ]  # fmt: skip
    assert lefts[0] == lefts[1]
    assert kinds(bench, "own").count("added") == 1
    bench.locator("[data-own='3']").click()
    expect(bench.locator("[data-pos='3']")).to_have_attribute("aria-pressed", "true")


def test_it_is_swapped_and_taken_off(bench: Page, workbench: Any) -> None:
    write(bench, OTHER)
    settled(bench)
    before = metric(bench, "a")
    bench.get_by_test_id("companion-swap").click()
    expect(bench.locator("[data-pos='9']")).to_contain_text("Mary")
    expect(bench.locator("[data-own='9']")).to_contain_text("John")
    settled(bench)
    assert metric(bench, "a") == pytest.approx(difference(workbench.session.model, OTHER), abs=2e-3)
    assert float(bench.get_by_test_id("companion-metric").get_attribute("data-value") or 0) == pytest.approx(
        before, abs=1e-6
    )
    bench.get_by_test_id("companion-swap").click()
    settled(bench)
    bench.get_by_test_id("companion-remove").click()
    expect(bench.get_by_test_id("companion-add")).to_be_visible()


@pytest.mark.parametrize("text", [OTHER, LONGER])
def test_a_patch_from_it_is_pythons(bench: Page, workbench: Any, text: str) -> None:
    write(bench, text)
    bench.get_by_test_id("add-edit").click()
    bench.get_by_test_id("edit-kind").select_option("patch")
    bench.get_by_test_id("field-site").select_option("resid_pre")
    bench.get_by_test_id("field-site-layer").fill("12")
    expect(bench.get_by_test_id("field-source")).to_have_value("companion")
    expect(bench.get_by_test_id("field-align")).to_have_value("tokens")
    bench.get_by_test_id("edit-submit").click()
    settled(bench)
    model = workbench.session.model
    run = model.run(IOI, edits=[edits.patch("resid_pre.12", text, align="tokens")])
    assert metric(bench, "b") == pytest.approx(float(rs.logit_diff(" Mary", " John")(run)), abs=1e-5)
    pairs = {i: i if i < 7 or text == OTHER else i + 1 for i in range(16)}
    by_hand = model.run(IOI, edits=[edits.patch("resid_pre.12", text, align=pairs)])
    assert torch.equal(run.logits, by_hand.logits)


def test_it_is_compared_as_run_a_and_says_where_it_cannot_be(bench: Page) -> None:
    write(bench, OTHER)
    bench.get_by_test_id("companion-compare").click()
    expect(bench.get_by_test_id("companion-compare")).to_have_attribute("aria-pressed", "true")
    expect(bench.get_by_test_id("view-delta")).to_be_enabled()
    bench.get_by_test_id("companion-compare").click()
    expect(bench.get_by_test_id("companion-compare")).to_have_attribute("aria-pressed", "false")
    write(bench, LONGER)
    bench.get_by_test_id("companion-compare").click()
    expect(bench.get_by_test_id("not-comparable")).to_contain_text("17 tokens")
    bench.get_by_test_id("companion-compare").click()


def test_a_link_brings_it_back(bench: Page, workbench: Any) -> None:
    write(bench, OTHER)
    bench.context.grant_permissions(["clipboard-read", "clipboard-write"])
    bench.get_by_test_id("share").click()
    link = bench.evaluate("navigator.clipboard.readText()")
    workbench.session.intent("set_companion", {})
    bench.goto("about:blank")
    bench.goto(link)
    expect(bench.locator("[data-own='9']")).to_contain_text("Mary", timeout=30_000)


def test_of_a_long_prompt_the_places_where_they_differ(bench: Page, workbench: Any) -> None:
    text = " ".join(f"word number {i} stands here." for i in range(60))
    workbench.session.intent("set_prompt", {"text": text})
    workbench.session.intent("set_companion", {"text": text.replace("number 30", "letter 30")})
    places = bench.get_by_test_id("companion-places")
    expect(places).to_contain_text("letter")
    assert places.locator(".place").count() == 1
    places.get_by_role("button").click()
    settled(bench)


def test_a_counterfactual_is_made_and_put_in(bench: Page, workbench: Any) -> None:
    bench.get_by_test_id("companion-make").click()
    found = bench.get_by_test_id("counterfactuals")
    first = found.get_by_role("listitem").first
    expect(first).to_contain_text("John → Mary", timeout=60_000)
    model = workbench.session.model
    made = rs.counterfactuals(model, IOI, rs.logit_diff(" Mary", " John"))
    assert found.get_by_role("listitem").count() == len(made.proposals)
    expect(first).to_contain_text(f"→ {made.best.after:+.2f}".replace("-", "−"))
    first.get_by_role("button").click()
    expect(bench.locator("[data-own='9']")).to_contain_text("Mary")
    assert workbench.session.state.companion.prompt.text == made.best.text
    assert [name for name, item in workbench.session.items.items() if item == made] == ["Counterfactuals"]
