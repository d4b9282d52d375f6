"""The Lens tab on the real model: its cells are those of `rs.logit_lens`, of either run; its pickers, keys and presses."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, LAST, ROWS, Traffic, grid, settled, show_table, type_prompt
from residscope import edits
from residscope.methods._lib.tuned import TunedLens

pytestmark = pytest.mark.browser
CUT = {"kind": "ablate", "site": "z.23", "head": 3, "to": "zero"}


def opened(page: Page, *, tokens: int = LAST + 1) -> None:
    page.locator("#tab-lens").click()
    expect(page.get_by_test_id("stream-grid")).to_have_attribute("data-cols", str(tokens), timeout=30_000)
    expect(page.get_by_test_id("lens-readout")).not_to_have_attribute("data-value", "NaN", timeout=30_000)


def show(page: Page, what: str, token: str = "") -> None:
    page.get_by_test_id("say-show").click()
    page.get_by_test_id(f"show-{what}").click()
    if token:
        page.get_by_test_id("say-token").click()
        page.get_by_test_id("lens-token").fill(token)
        page.get_by_test_id("lens-token").press("Enter")
        expect(page.get_by_test_id("say-token")).to_have_attribute("data-value", token.replace("·", " "))


def same(page: Page, wanted: torch.Tensor, atol: float = 2e-4) -> None:
    show_table(page)
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('[data-testid=stream-grid] td')];"
        " return all.length > 0 && all.every(td => td.dataset.value !== 'NaN'); }"
    )
    found = torch.tensor(grid(page, rows=ROWS, n_pos=LAST + 1))
    torch.testing.assert_close(found, wanted.to(found), atol=atol, rtol=1e-3)


@pytest.fixture(scope="module")
def model() -> Any:
    return rs.load("smollm2-135m")


def test_every_cell_is_pythons(bench: Page, workbench: Any, model: Any) -> None:
    opened(bench)
    plain = rs.logit_lens(model, IOI, token=" Mary")
    first = rs.logit_lens(model, IOI)
    same(bench, plain.probability[..., 0])
    cell = bench.get_by_test_id("stream-grid").locator("td[data-row='23'][data-col='9']")
    expect(cell).to_contain_text(first.texts[int(first.top[23, 9, 0])].strip() or "·")
    show(bench, "kl")
    same(bench, plain.kl, atol=2e-3)
    readout = bench.get_by_test_id("lens-readout")
    show(bench, "rank", "·Mary")
    expect(readout).to_have_attribute("data-stale", "false", timeout=20_000)
    expect(readout).to_have_attribute("data-value", "0", timeout=20_000)
    show(bench, "chance")
    same(bench, plain.chance.values)
    expect(bench.get_by_test_id("lens-entropy")).to_have_text(f"{float(plain.entropy[-1, LAST]):.2f}")

    workbench.session.intent("set_edits", {"edits": [CUT]})
    settled(bench)
    edited = rs.logit_lens(model, IOI, token=" Mary", background=[edits.ablate("z.23", head=3, to="zero")])
    bench.get_by_test_id("view-edit").click()
    expect(readout).to_have_attribute("data-run", "edit", timeout=20_000)
    same(bench, edited.chance.values)
    bench.get_by_test_id("view-delta").click()
    same(bench, edited.chance.values - plain.chance.values)
    assert (edited.chance.values - plain.chance.values).abs().max() > 0.01
    bench.get_by_role("button", name="Copy as Python").click()
    expect(bench.get_by_role("dialog")).to_contain_text("edited_lens.chance.values - baseline_lens.chance.values")


def test_hover_lights_and_a_press_and_keys_move(bench: Page, model: Any) -> None:
    opened(bench)
    lens = rs.logit_lens(model, IOI)
    readout, cells = bench.get_by_test_id("lens-readout"), bench.locator("#grid-cells")
    cells.hover(position={"x": 60, "y": 60})
    row, col = (int(readout.get_attribute(f"data-{name}") or -1) for name in ("row", "col"))
    assert (row, col) != (ROWS - 1, LAST)
    assert float(readout.get_attribute("data-value") or "nan") == pytest.approx(
        float(lens.probability[row, col, 0]), abs=2e-4
    )
    expect(bench.get_by_test_id("token-tip")).to_contain_text("next")
    expect(bench.get_by_test_id("tip-next").locator("span.dim.num")).to_have_count(5)
    cells.click(position={"x": 60, "y": 60})
    bench.mouse.move(5, 5)
    expect(readout).to_have_attribute("data-row", str(row))
    bench.keyboard.press("j")
    expect(readout).to_have_attribute("data-row", str(row - 1))
    bench.keyboard.press("l")
    expect(readout).to_have_attribute("data-col", str(col + 1))
    bench.keyboard.press("Escape")
    expect(readout).to_have_attribute("data-col", str(LAST))


def test_two_tokens_are_not_followed_and_the_page_says_which(bench: Page) -> None:
    opened(bench)
    show(bench, "chance")
    bench.get_by_test_id("say-token").click()
    bench.get_by_test_id("lens-token").fill("·Mary·John")
    bench.get_by_test_id("lens-token-set").click()
    expect(bench.get_by_test_id("lens-token-wrong")).to_contain_text("2 tokens")
    bench.get_by_test_id("lens-token-own").click()
    expect(bench.get_by_test_id("say-token")).to_have_text("what the run says")


def test_a_long_prompt_fills_in_and_can_be_stopped(bench: Page, traffic: Traffic) -> None:
    opened(bench)
    type_prompt(bench, " ".join(["The cat sat on the mat, and then"] * 48))
    settled(bench)
    stop = bench.get_by_test_id("lens-stop")
    expect(bench.get_by_test_id("stream-grid")).to_have_attribute("data-cols", "432", timeout=30_000)
    go_on = bench.get_by_test_id("lens-go-on")
    expect(stop.or_(go_on)).to_be_visible(timeout=30_000)
    if stop.is_visible():  # else it is long enough here to be asked for first
        stop.click()
    expect(go_on).to_have_text(re.compile(r"Read \d+ more tokens"))
    asked = traffic.count
    bench.wait_for_timeout(1200)
    assert traffic.count <= asked + 1, "nothing more is read"
    bench.get_by_test_id("export").click()
    expect(bench.get_by_test_id("export-why")).to_contain_text("still being read")
    bench.keyboard.press("Escape")
    go_on.click()
    expect(stop).to_be_visible()


@pytest.fixture(scope="module")
def tuned(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A lens with small random translators, and the file that it is saved to."""
    drawn = torch.Generator().manual_seed(0)
    shape = (model.n_layers, model.d_model, model.d_model)
    lens = TunedLens(
        0.01 * torch.randn(shape, generator=drawn), 0.1 * torch.randn(shape[:2], generator=drawn), provenance={}
    )
    path = tmp_path_factory.mktemp("lens") / "mine.safetensors"
    lens.save(path)
    return lens, path


def test_the_grid_reads_through_a_tuned_lens_of_files(bench: Page, model: Any, tuned: tuple[Any, Path]) -> None:
    lens, path = tuned
    opened(bench)
    show(bench, "kl")
    bench.get_by_test_id("say-through").click()
    bench.get_by_test_id("through-source").fill(str(path.with_name("none")))
    bench.get_by_test_id("through-load").click()
    expect(bench.get_by_text("there is no tuned lens")).to_be_visible(timeout=20_000)
    bench.get_by_test_id("say-through").click()
    bench.get_by_test_id("through-source").fill(str(path))
    bench.get_by_test_id("through-load").click()
    chosen = bench.get_by_test_id("say-through")
    expect(chosen).to_have_attribute("data-value", "mine", timeout=30_000)
    expect(chosen).to_have_text("the tuned lens mine and the final norm")
    readout = bench.get_by_test_id("lens-readout")
    expect(readout).to_have_attribute("data-stale", "false", timeout=20_000)
    through, plain = rs.logit_lens(model, IOI, lens=lens), rs.logit_lens(model, IOI)
    assert (through.kl - plain.kl).abs().max() > 0.1, "the lens does something"
    same(bench, through.kl, atol=5e-3)
    expect(readout).to_contain_text("tuned\u00a0lens")
    bench.get_by_role("button", name="Copy as Python").click()
    expect(bench.get_by_role("dialog")).to_contain_text("lens=tuned")
    bench.keyboard.press("Escape")
    chosen.click()
    bench.get_by_test_id("through-none").click()
    same(bench, plain.kl, atol=2e-3)
    expect(chosen).to_have_text("the final norm")


def test_a_link_to_a_lens_that_is_not_here_says_so(bench: Page, workbench: Any) -> None:
    bench.goto(f"{workbench.url.split('#')[0]}#tab=lens&through=gone")
    bench.reload()
    settled(bench)
    expect(bench.get_by_test_id("lens-astray")).to_contain_text("no tuned lens “gone”")
    bench.get_by_test_id("say-through").click()
    bench.get_by_test_id("through-none").click()
    expect(bench.get_by_test_id("lens-astray")).to_have_count(0)
