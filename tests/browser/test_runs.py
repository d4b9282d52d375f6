"""The result of an edit is in view where the edit is made, and every number stands under what it is of."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser.steps import IOI, settled, type_prompt

pytestmark = pytest.mark.browser

STEER = {
    "kind": "steer", "site": "resid_post.9", "strength": 4, "unit": "sd",
    "direction": {"kind": "pca", "site": "resid_post.9", "weights": {"3": 1}},
}  # fmt: skip
OTHER = "When Tom and James went to the park, James handed a ball to"
LONG = " ".join(f"On day {i} the keeper of the lighthouse wrote down the wind and the tide." for i in range(60))


def answers(workbench: Any, run: str) -> tuple[str, str, float]:
    """What Python says of a run of the history: its two answers, and their logit difference."""
    held = workbench.session.state.run(run)
    logits = held.last
    return (
        held.metric.positive.text,
        held.metric.negative.text,
        float(logits[held.metric.positive.id] - logits[held.metric.negative.id]),
    )


def test_the_first_edit_is_looked_at_and_its_result_is_in_view(bench: Page, workbench: Any) -> None:
    expect(bench.get_by_test_id("view-base")).to_have_attribute("aria-pressed", "true")
    workbench.session.intent("add_edit", {"edit": STEER})
    expect(bench.get_by_test_id("view-edit")).to_have_attribute("aria-pressed", "true", timeout=20_000)
    expect(bench.get_by_test_id("result-b")).to_be_in_viewport(ratio=1)
    expect(bench.locator("[data-edit]")).to_be_in_viewport(ratio=1)
    bench.get_by_test_id("view-base").click()
    workbench.session.intent("add_edit", {"edit": {"kind": "ablate", "site": "z.23", "head": 3}})
    settled(bench)
    (
        expect(bench.get_by_test_id("view-base")).to_have_attribute("aria-pressed", "true"),
        "a later edit leaves the choice",
    )


def test_an_edit_names_its_direction_and_how_far(bench: Page, workbench: Any) -> None:
    workbench.session.intent("add_edit", {"edit": STEER})
    expect(bench.locator("[data-edit]")).to_have_count(1)
    expect(bench.locator("[data-edit] .nm")).to_contain_text("steer PC 3 of resid_post.9, +4σ")
    settled(bench)
    run = bench.locator("[data-run].cur")
    expect(run).to_contain_text("steer PC 3 of resid_post.9, +4σ")


def test_runs_stand_under_their_prompt_each_with_its_own_metric(bench: Page, workbench: Any) -> None:
    session = workbench.session
    session.intent("set_metric", {"positive": " Mary", "negative": " John"})
    session.intent("add_edit", {"edit": {"kind": "ablate", "site": "z.23", "head": 3}})
    settled(bench)
    session.intent("set_prompt", {"text": OTHER})
    session.intent("set_metric", {"positive": " Tom", "negative": " James"})
    settled(bench)
    groups = bench.get_by_test_id("runs-of")
    ours = {prompt: groups.filter(has_text=prompt) for prompt in (IOI, OTHER)}
    expect(groups.first).to_contain_text(OTHER)
    for prompt, group in ours.items():
        expect(group).to_have_count(1)
        rows = group.locator("[data-run]")
        assert rows.count() >= 2, prompt
        for row in rows.all():
            positive, negative, value = answers(workbench, row.get_attribute("data-run") or "")
            shown = float(row.get_by_test_id("run-metric").get_attribute("data-value") or "nan")
            assert shown == pytest.approx(value, abs=1e-5)
            own = row.locator(".answers")
            words = (own if own.count() else group.locator(".answers").first).inner_text()
            assert positive.strip() in words
            assert negative.strip() in words


def test_a_long_run_greys_what_was_says_how_far_it_is_and_can_be_left(bench: Page, workbench: Any) -> None:
    expect(bench.get_by_test_id("answers-value")).to_have_text(re.compile(r"^[+−]\d+\.\d+$"), timeout=20_000)
    before = bench.get_by_test_id("answers-value").inner_text()
    type_prompt(bench, LONG)
    expect(bench.get_by_test_id("answers-value")).to_have_text("…")
    expect(bench.get_by_test_id("result-card")).to_have_attribute("aria-busy", "true")
    expect(bench.get_by_test_id("status")).to_contain_text("%", timeout=20_000)
    bench.get_by_test_id("run-cancel").click(timeout=20_000)
    settled(bench)
    expect(bench.get_by_test_id("answers-value")).to_have_text(before)
    assert workbench.session.state.prompt.text == IOI
    expect(bench.get_by_test_id("result-card")).to_have_attribute("aria-busy", "false")
    assert LONG not in [run.prompt.text for run in workbench.session.state.runs]
