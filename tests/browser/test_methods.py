"""Every method on the page: its form, its price, its job, its picture; and the shelf that keeps what it makes."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, Traffic, settled
from browser.test_edits import fill
from residscope.manifest import all_methods

pytestmark = pytest.mark.browser


def open_method(page: Page, id: str) -> None:
    page.get_by_role("tab", name="Methods").click()
    page.get_by_test_id(f"method-{id}").click()
    expect(page.get_by_test_id("method-form")).to_contain_text(id)


def run(page: Page) -> None:
    expect(page.get_by_test_id("method-run")).to_be_enabled()
    page.get_by_test_id("method-run").click()


def empty_shelf(workbench: Any) -> None:
    for kept in [*workbench.session.state.items["items"]]:
        workbench.session.intent("delete_item", {"name": kept["name"]})


@pytest.fixture(autouse=True)
def clean(workbench: Any) -> Any:
    yield
    for job in workbench.session.state.jobs:
        if not job.ended:
            workbench.session.intent("cancel", {"job": job.id})
    workbench.session.wait(60)
    empty_shelf(workbench)


def test_every_method_is_listed_and_has_a_form(bench: Page) -> None:
    bench.get_by_role("tab", name="Methods").click()
    for method in all_methods().values():
        bench.get_by_test_id(f"method-{method.id}").click()
        expect(bench.get_by_test_id("method-form")).to_contain_text(method.title)
        asked = bench.get_by_test_id("method-form").locator("label").count()
        assert (asked > 0) == bool(method.arguments), method.id


def test_a_sweep_shows_pythons_numbers_and_stays_on_the_shelf(bench: Page, workbench: Any) -> None:
    open_method(bench, "ablation-sweep")
    fill(bench, {"site": "z", "layers": "22-24"})
    expect(bench.get_by_test_id("method-cost")).to_contain_text("about", timeout=20_000)
    run(bench)
    expect(bench.get_by_test_id("item")).to_have_attribute("data-name", "Ablate everything once", timeout=120_000)
    bench.get_by_test_id("item-table").click()
    shown = (
        bench.get_by_test_id("view-values")
        .locator("tbody tr")
        .evaluate_all("rows => rows.map(row => [...row.cells].map(cell => Number(cell.dataset.value)))")
    )
    model = workbench.session.model
    expected = rs.ablation_sweep(model, IOI, rs.logit_diff(" Mary", " John"), site="z", layers=[22, 23, 24])
    assert len(shown) == 3 * model.n_heads
    for layer, head, value in shown:
        assert value == pytest.approx(float(expected.values[int(layer) - 22, int(head)]), abs=1e-3)
    bench.get_by_test_id("item-python").click()
    expect(bench.get_by_text("rs.ablation_sweep(model")).to_be_visible()
    bench.keyboard.press("Escape")
    bench.reload()
    settled(bench)
    bench.get_by_role("tab", name="Methods").click()
    bench.get_by_test_id("shelf").get_by_role("button", name="Ablate everything once").click()
    expect(bench.get_by_test_id("item").locator("canvas").first).to_be_visible()


def test_a_difference_of_logits_is_taken_apart_and_a_log_probability_is_refused_at_once(
    bench: Page, workbench: Any
) -> None:
    open_method(bench, "direct-attribution")
    expect(bench.get_by_test_id("method-cost")).to_contain_text("about", timeout=20_000)
    run(bench)
    item = bench.get_by_test_id("item")
    expect(item).to_have_attribute("data-name", "Direct logit attribution", timeout=60_000)
    expect(item.locator("canvas").first).to_be_visible()
    expect(item).to_contain_text("sum of all")
    bench.get_by_test_id("item-table").click()
    rows = bench.get_by_test_id("view-values").locator("tbody tr")
    shown = rows.evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.dataset.value ?? cell.textContent))"
    )
    found = rs.direct_attribution(workbench.session.model, IOI, rs.logit_diff(" Mary", " John"), progress=False)
    assert len(shown) == 100  # a page of the table
    for layer, head, value in shown:
        assert float(value) == pytest.approx(float(found.heads.values[int(layer), int(head)]), abs=1e-3)
    fill(bench, {"metric": "log_prob"})
    fill(bench, {"metric-positive": " Mary"})
    run(bench)
    expect(bench.get_by_text("this metric is no sum of logits").first).to_be_visible()
    expect(bench.get_by_text("choose a logit difference").first).to_be_visible()


def test_the_shelf_renames_deletes_and_brings_back(bench: Page, workbench: Any) -> None:
    open_method(bench, "draw-prompts")
    fill(bench, {"n": "4", "length": "12"})
    run(bench)
    expect(bench.get_by_test_id("item")).to_be_visible(timeout=60_000)
    bench.get_by_test_id("item-name").click()
    bench.get_by_test_id("item-rename").fill("four windows")
    bench.get_by_test_id("item-rename").press("Enter")
    expect(bench.get_by_test_id("item")).to_have_attribute("data-name", "four windows")
    with bench.expect_download() as saved:
        bench.get_by_test_id("item").get_by_role("link", name="safetensors").click()
    drawn = rs.load_item(saved.value.path())
    assert drawn.texts == rs.draw_prompts(workbench.session.model, "python-docs", 4, length=12).texts
    bench.get_by_test_id("item-delete").click()
    expect(bench.get_by_test_id("item")).to_have_count(0)
    bench.get_by_test_id("shelf-undo").click()
    expect(bench.get_by_test_id("shelf")).to_contain_text("four windows")


def test_a_job_is_cancelled_and_what_it_had_stays(bench: Page, workbench: Any) -> None:
    open_method(bench, "activation-patching")
    fill(bench, {"corrupted": "typed", "corrupted-text": IOI.replace("John gave", "Mary gave"), "site": "resid_pre"})
    run(bench)
    line = bench.get_by_test_id("jobs").locator("li").first
    expect(line).to_have_attribute("data-phase", "running", timeout=60_000)
    expect(line).to_contain_text(re.compile(r"\d+ %"), timeout=60_000)
    line.get_by_test_id("job-cancel").click()
    expect(line).to_have_attribute("data-phase", "cancelled", timeout=60_000)
    expect(bench.get_by_test_id("shelf")).to_contain_text("cut short")


def test_what_is_wrong_is_said_where_it_is_asked(bench: Page, traffic: Traffic) -> None:
    open_method(bench, "pca")
    fill(bench, {"site": "z", "tokens": "1000"})
    expect(bench.get_by_test_id("method-cost")).to_contain_text("a vector for every head", timeout=20_000)
    fill(bench, {"site": "resid_post", "n": "900"})
    expect(bench.get_by_test_id("method-cost")).to_contain_text("1 to 576", timeout=20_000)
    traffic.forgive_prices()


def test_the_palette_knows_methods_and_edits(bench: Page) -> None:
    bench.keyboard.press("/")
    bench.get_by_label("Command", exact=True).fill("no such command")
    bench.keyboard.press("Enter")  # which has nothing to choose
    bench.get_by_label("Command", exact=True).fill("principal comp")
    expect(bench.get_by_role("option", name="Principal components").first).to_be_visible()
    bench.keyboard.press("Enter")
    expect(bench.get_by_test_id("method-form")).to_contain_text("Principal components")
    bench.keyboard.press("/")
    bench.get_by_label("Command", exact=True).fill("edit: add noise")
    bench.keyboard.press("Enter")
    expect(bench.get_by_test_id("edit-kind")).to_have_value("noise")


def test_a_file_comes_back_onto_the_shelf(bench: Page, workbench: Any, tmp_path: Path) -> None:
    session = workbench.session
    text = {"kind": "typed", "name": "t.txt", "text": "The cat sat on the mat. The dog lay on the rug."}
    session.intent("start", {"method": "draw-prompts", "args": {"text": text, "n": 2, "length": 5}, "name": "sent out"})
    assert session.wait(60)
    made = session.state.items["items"][0]["name"]
    file = tmp_path / "come back.safetensors"
    file.write_bytes(session.reads.item_file(made, ".safetensors")[1])
    bench.get_by_role("tab", name="Methods").click()
    bench.get_by_test_id("shelf-import").set_input_files(file)
    expect(bench.get_by_test_id("item")).to_have_attribute("data-name", "come back")
    assert session.reads.item("come back")["table"] == session.reads.item(made)["table"]
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    bench.get_by_test_id("shelf-import").set_input_files(damaged)
    expect(bench.get_by_role("alert").last).to_contain_text("damaged")
