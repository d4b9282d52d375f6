"""Any number opens into its exact sum, and turns into a mean over many prompts: the metric, a lens cell, a head's effect."""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

import residscope as rs
from browser.steps import IOI, LAST, ROWS, settled

pytestmark = pytest.mark.browser
LAYER, HEAD, JOHN = 23, 3, 9
RUN_MS = 60_000


@pytest.fixture(scope="module")
def model() -> Any:
    return rs.load("smollm2-135m")


def summed(page: Page) -> tuple[float, float]:
    """What the panel that is open says: the sum, and the number that it is the sum of."""
    found = page.get_by_test_id("number-sum")
    expect(found).to_be_visible(timeout=20_000)
    total, own = (float(found.get_attribute(f"data-{name}") or "nan") for name in ("total", "own"))
    assert total == pytest.approx(own, abs=1e-3)
    return total, own


def terms(page: Page) -> dict[str, float]:
    rows: dict[str, float] = page.get_by_test_id("number-panel").evaluate(
        "panel => Object.fromEntries([...panel.querySelectorAll('.name')]"
        ".map(name => [name.title, Number(name.nextElementSibling.nextElementSibling.dataset.value)]))"
    )
    return rows


def few(page: Page) -> None:
    page.get_by_test_id("say-task").click()
    page.get_by_test_id("task-n").fill("3")
    page.get_by_test_id("task-n").press("Enter")
    expect(page.get_by_test_id("say-task")).to_have_attribute("data-value", "ioi.3")


def mean(page: Page) -> Locator:
    page.get_by_test_id("number-run").click()
    found = page.get_by_test_id("number-average")
    expect(found).to_be_visible(timeout=RUN_MS)
    return found


def number(found: Locator, name: str) -> float:
    return float(found.get_attribute(f"data-{name}") or "nan")


def test_the_metric_opens_and_turns_into_a_mean(bench: Page, model: Any) -> None:
    card = bench.get_by_test_id("result-card")
    card.get_by_test_id("number-logit").click()
    exact = rs.attribute_logits(model.run(IOI), rs.logit_diff(" Mary", " John"), by="head")
    assert summed(bench)[1] == pytest.approx(float(exact.metric.values), abs=1e-3)
    assert terms(bench)[f"head {LAYER}.{HEAD}"] == pytest.approx(float(exact.heads.values[LAYER, HEAD]), abs=1e-3)
    few(bench)
    found = mean(bench)
    wanted = rs.task_average(model, rs.tasks.ioi(model, 3, prefixes=False))
    assert number(found, "mean") == pytest.approx(float(wanted.values), abs=1e-3)
    assert wanted.low is not None
    assert number(found, "low") == pytest.approx(float(wanted.low), abs=1e-3)
    expect(found).to_contain_text("n = 3")
    expect(bench.get_by_test_id("number-check")).to_contain_text("Task check")
    bench.get_by_test_id("number-close").click()
    expect(bench.get_by_test_id("number-panel")).to_have_count(0)


def test_a_number_is_averaged_over_a_set_of_ones_own(bench: Page, workbench: Any, model: Any) -> None:
    mine = rs.tasks.ioi(model, 5, seed=8, prefixes=False)
    name = workbench.session.keep("my pairs: 5", mine)
    bench.get_by_test_id("result-card").get_by_test_id("number-logit").click()
    bench.get_by_test_id("say-task").click()
    bench.get_by_test_id("task-id").select_option(label=name)
    expect(bench.get_by_test_id("task-n")).to_have_count(0)
    bench.get_by_role("button", name="Done").click()
    expect(bench.get_by_test_id("say-task")).to_have_text(f"the set {name}")
    found = mean(bench)
    wanted = rs.task_average(model, mine)
    assert number(found, "mean") == pytest.approx(float(wanted.values), abs=1e-3)
    expect(bench.get_by_test_id("number-check")).to_contain_text("of 5 prompts")
    assert bench.evaluate("location.hash").count("set%3Amy") == 1


def test_a_cell_of_the_lens_opens(bench: Page, model: Any) -> None:
    bench.locator("#tab-lens").click()
    readout = bench.get_by_test_id("lens-readout")
    expect(readout).not_to_have_attribute("data-value", "NaN", timeout=30_000)
    cells = bench.locator("#grid-cells")
    cells.click(position={"x": 60, "y": 60})
    bench.mouse.move(5, 5)
    row, col = (int(readout.get_attribute(f"data-{name}") or -1) for name in ("row", "col"))
    assert 0 < row < ROWS - 1
    readout.get_by_test_id("number-logit").click()
    rec = model.run(IOI, capture=[f"resid_pre.{row}"])
    logits = model.lens(rec[f"resid_pre.{row}"][0, col][None])[0]
    assert summed(bench)[1] == pytest.approx(float(logits.max()), abs=1e-3)
    expect(bench.get_by_test_id("number-panel")).to_contain_text(f"resid_post.{row - 1}, position {col}")
    expect(bench.get_by_test_id("number-mean")).to_contain_text("the probability of the right answer")


def test_a_head_and_the_score_behind_its_attention_open(bench: Page, model: Any) -> None:
    bench.locator("#tab-heads").click()
    expect(bench.get_by_test_id("heads-picked")).to_have_text(f"{LAYER}.{HEAD}", timeout=30_000)
    bench.get_by_test_id("number-head").click()
    rec = model.run(IOI)
    exact = rs.attribute_logits(rec, rs.logit_diff(" Mary", " John"), by="source")
    assert summed(bench)[1] == pytest.approx(float(exact.heads.values[LAYER, HEAD]), abs=1e-3)
    assert terms(bench)[f"from {JOHN}  John"] == pytest.approx(float(exact.sources.values[LAYER, HEAD, JOHN]), abs=1e-3)
    bench.keyboard.press("Escape")
    expect(bench.get_by_test_id("number-panel")).to_have_count(0)
    settled(bench)
    first = bench.get_by_test_id("heads-out-list").locator(f"[data-token='{JOHN}']")
    first.get_by_test_id("number-score").click()
    score = rs.attribute_scores(rec, (LAYER, HEAD), LAST, JOHN)
    assert summed(bench)[1] == pytest.approx(score.score, abs=1e-3)
    few(bench)
    bench.get_by_test_id("number-from").select_option("END")
    bench.get_by_test_id("number-to").select_option("S2")
    found = mean(bench)
    wanted = rs.task_average(model, rs.tasks.ioi(model, 3, prefixes=False), of="attention", query="END", key="S2")
    assert number(found, "mean") == pytest.approx(float(wanted.values[LAYER, HEAD]), abs=1e-4)
