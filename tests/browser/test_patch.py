"""The Patch tab on the real model: its cells are those of `rs.activation_patching`, fill in, and one can be kept as an edit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.acting import MARY, same_as_pasted, stack_is
from browser.steps import IOI, grid, settled

pytestmark = pytest.mark.browser
LAYERS, TOKENS, HEADS = 30, 16, 9
RUN_MS = 120_000


@pytest.fixture
def beside(bench: Page, workbench: Any) -> Iterator[Page]:
    workbench.session.intent("set_companion", {"text": MARY})
    bench.locator("#tab-patch").click()
    expect(bench.get_by_test_id("patch-run")).to_be_visible(timeout=20_000)
    yield bench
    workbench.session.intent("set_companion", {"text": None})
    workbench.session.intent("set_edits", {"edits": []})


def choose(page: Page, part: str, what: str) -> None:
    page.get_by_test_id(f"say-{part}").click()
    page.get_by_test_id(f"say-{part}-{what}").click()


def ran(page: Page, session: Any, *, cols: int) -> torch.Tensor:
    """Every cell, once the sweep is whole."""
    expect(page.get_by_test_id("patch-run")).to_contain_text("about", timeout=20_000)
    page.get_by_test_id("patch-run").click()
    expect(page.get_by_test_id("stream-grid")).to_be_visible(timeout=RUN_MS)
    expect(page.get_by_test_id("patch-progress")).to_have_count(0, timeout=RUN_MS)
    settled(page)
    page.wait_for_timeout(400)
    return torch.tensor(grid(page, rows=LAYERS, n_pos=cols))


def test_without_a_companion_it_says_what_to_do(bench: Page) -> None:
    bench.locator("#tab-patch").click()
    expect(bench.get_by_test_id("patch-none")).to_contain_text("Write a companion")
    bench.get_by_test_id("patch-companion").click()
    expect(bench.get_by_test_id("companion-input")).to_be_visible()


def test_heads_are_patched_exactly_and_one_is_kept(beside: Page, workbench: Any) -> None:
    choose(beside, "site", "z")
    choose(beside, "way", "noise-prompt")
    found = ran(beside, workbench.session, cols=HEADS)
    model = rs.load("smollm2-135m")
    metric = rs.logit_diff(" Mary", " John")
    exact = rs.activation_patching(model, IOI, MARY, metric, site="z", mode="noise", normalize=True)
    torch.testing.assert_close(found, exact.values.to(found), atol=2e-4, rtol=0)

    choose(beside, "sweep", "attribution-patching")
    estimate = ran(beside, workbench.session, cols=HEADS)
    wanted = rs.attribution_patching(model, IOI, MARY, metric, site="z", mode="noise", normalize=True, sample=0)
    torch.testing.assert_close(estimate, wanted.values.to(found), atol=2e-4, rtol=0)
    readout = beside.get_by_test_id("patch-readout")
    beside.locator("td[data-row='23'][data-col='3'] button").click()
    expect(readout).to_have_attribute("data-row", "23")
    expect(beside.get_by_test_id("patch-beside")).to_have_text(f"{float(exact.values[23, 3]):.2f}".replace("-", "−"))

    beside.get_by_test_id("patch-keep").click()
    stack_is(beside, workbench.session, {"kind": "patch", "site": "z.23", "head": 3})
    edited = same_as_pasted(workbench.session)["edited"]
    gap = metric(model.run(IOI)) - metric(model.run(MARY))
    share = (metric(edited) - metric(model.run(MARY))) / gap
    assert float(share) == pytest.approx(float(exact.values[23, 3]), abs=1e-3), "the edit does what its cell says"


def test_the_companions_run_is_patched_by_changing_places(beside: Page, workbench: Any) -> None:
    choose(beside, "site", "attn_out")
    choose(beside, "sweep", "attribution-patching")
    beside.get_by_test_id("patch-run").click()
    expect(beside.get_by_test_id("patch-readout")).to_be_visible(timeout=RUN_MS)
    expect(beside.get_by_test_id("patch-progress")).to_have_count(0, timeout=RUN_MS)
    keep = beside.get_by_test_id("patch-keep")
    expect(keep).to_have_text("Swap and keep this cell")
    keep.click()
    stack_is(beside, workbench.session, {"kind": "patch", "site": "attn_out.29", "pos": [15]})
    assert workbench.session.state.prompt.text == MARY
    expect(beside.get_by_test_id("stream-grid")).to_be_visible()
    expect(keep).to_have_text("Keep this cell")
    workbench.session.intent("swap_companion", {})


def test_noise_hides_a_subject(beside: Page, workbench: Any) -> None:
    choose(beside, "sweep", "causal-tracing")
    expect(beside.get_by_test_id("say-subject")).to_have_attribute("data-value", "9")
    expect(beside.get_by_test_id("patch-run")).to_contain_text("about", timeout=20_000)
    beside.get_by_test_id("say-subject").click()
    beside.get_by_test_id("subject-3").click()
    expect(beside.get_by_test_id("say-subject")).to_have_attribute("data-value", "3,9")
    beside.keyboard.press("Escape")
    beside.get_by_test_id("patch-run").click()
    beside.get_by_test_id("patch-cancel").click()
    expect(beside.get_by_test_id("patch-progress")).to_have_count(0, timeout=30_000)
    expect(beside.get_by_test_id("patch-run")).to_be_visible()


def test_a_tasks_average_stands_in_place_of_one_pair(bench: Page, workbench: Any) -> None:
    bench.locator("#tab-patch").click()
    choose(bench, "prompts", "task")
    bench.get_by_test_id("say-task").click()
    bench.get_by_test_id("task-n").fill("3")
    bench.get_by_test_id("task-n").press("Enter")
    expect(bench.get_by_test_id("say-task")).to_have_attribute("data-value", "ioi.3")
    choose(bench, "site", "z")
    found = ran(bench, workbench.session, cols=HEADS)
    model = rs.load("smollm2-135m")
    exact = rs.task_average(model, rs.tasks.ioi(model, 3, prefixes=False), of="patch", site="z")
    torch.testing.assert_close(found, exact.values.to(found), atol=2e-4, rtol=0)
    assert exact.low is not None
    expect(bench.get_by_test_id("patch-check")).to_contain_text("Task check")
    expect(bench.get_by_test_id("patch-check")).to_contain_text("of 3 prompts answered right")
    row, col = divmod(int(exact.values.argmax()), HEADS)
    bench.locator(f"[data-testid=stream-grid] [data-row='{row}'][data-col='{col}']").click()
    readout = bench.get_by_test_id("patch-readout")
    expect(readout).to_have_attribute("data-row", str(row))
    expect(readout).to_contain_text("of the mean gap")
    expect(bench.get_by_test_id("patch-interval")).to_contain_text(f"{100 * float(exact.low[row, col]):.0f} %")
    expect(bench.get_by_test_id("patch-keep")).to_have_count(0)
    assert "patch-of=task" in bench.evaluate("location.hash")
    choose(bench, "prompts", "pair")
    expect(bench.get_by_test_id("patch-none")).to_contain_text("two prompts")
