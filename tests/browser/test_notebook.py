"""The workbench in a real JupyterLab: code and page share one session, through a busy kernel, a restart, a saved notebook."""

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from browser.lab import Notebook, jupyter_lab

pytestmark = pytest.mark.browser

MS = 20_000
SET_UP = """
import time
import residscope as rs
from residscope import edits
model = rs.load("smollm2-135m")
wb = rs.workbench(model)
"""
EXPECTED = (  # of the browser, where the kernel it was connected to is gone
    "Connection lost, reconnecting",
    "widget model not found",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    return []


@pytest.fixture(scope="module")
def notebook(browser: Browser, folder: Path, complaints: list[str]) -> Iterator[Notebook]:
    """One Lab and one notebook for the file; its tests follow one another, as a person's cells do."""

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(words in message.text for words in EXPECTED):
            complaints.append(f"{message.text} {message.location.get('url', '')}")

    with jupyter_lab(folder) as lab:
        page = browser.new_page(viewport={"width": 1900, "height": 1300})
        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        made = Notebook(page, lab, folder, "a.ipynb")
        assert made.run(SET_UP) == ""
        made.run("wb")
        idle(page)
        yield made
        page.close()
        assert [url for url in urls if not re.match(rf"({lab}/|data:|blob:|about:|file:)", url)] == []


def idle(page: Page) -> None:
    expect(page.get_by_test_id("status").first).to_have_attribute("data-phase", "idle", timeout=MS)


def rows(page: Page) -> list[str]:
    return page.locator("[data-edit] .nm").all_inner_texts()


def test_an_edit_of_code_s_is_on_the_page(notebook: Notebook) -> None:
    page = notebook.page
    notebook.run("wb.edits = (edits.ablate('z.23', head=3),)")
    expect(page.locator("[data-edit]")).to_have_count(1, timeout=MS)
    assert "ablate z.23 head 3" in rows(page)[0]
    idle(page)
    shown = page.get_by_test_id("result-card").inner_text()
    told = float(notebook.run("wb.wait(); print(float(wb.metric(model.run(wb.prompt, edits=wb.edits))))"))
    assert f"{told:+.2f}".replace("-", "−") in shown


def test_what_is_done_on_the_page_the_next_cell_reads(notebook: Notebook) -> None:
    page = notebook.page
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "false")
    assert notebook.run("print(wb.edits)") == "()"
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "true")
    assert notebook.run("print(wb.edits, wb.history()[-2])") == (
        "(<ablate z.23 head 3>,) stack = [edits.ablate('z.23', head=3)]"
    )
    page.get_by_test_id("prompt-edit").click()
    page.get_by_test_id("prompt-input").fill("The Eiffel Tower is in the city of")
    page.get_by_test_id("prompt-input").press("Enter")
    expect(page.get_by_test_id("prompt-input")).to_have_count(0)
    assert notebook.run("print(wb.prompt)") == "The Eiffel Tower is in the city of"
    notebook.run("wb.prompt = 'When John and Mary went to the store, John gave a bottle of milk to'")
    idle(page)


def test_its_keys_are_the_page_s_and_not_the_notebook_s(notebook: Notebook) -> None:
    page = notebook.page
    before = page.locator(".jp-Cell").count()
    page.get_by_test_id("stream-grid").first.click()
    page.keyboard.press("b")  # in a notebook: a cell below
    expect(page.get_by_test_id("library")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("library")).to_have_count(0)
    assert page.locator(".jp-Cell").count() == before


def test_the_page_lives_while_a_cell_runs(notebook: Notebook) -> None:
    page = notebook.page
    notebook.start("end = time.time() + 6\nwhile time.time() < end: model.run('The cat sat on the')\nprint(wb.edits)")
    time.sleep(0.5)
    began = time.monotonic()
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "false", timeout=4000)
    idle(page)
    assert time.monotonic() - began < 5
    expect(page.get_by_test_id("kernel-busy")).to_have_count(0)
    assert notebook.finish() == "()"
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "true")
    idle(page)
    same = notebook.run(
        "wb.wait(); state = wb.session.state; ran = state.run(state.edited).last\n"
        "print((ran == model.run(wb.prompt, edits=wb.edits).logits_at(-1)[0]).all().item())"
    )
    assert same == "True"


def test_a_second_view_is_the_same_session(notebook: Notebook) -> None:
    page = notebook.page
    notebook.run("wb")
    expect(page.get_by_test_id("status")).to_have_count(2, timeout=MS)
    notebook.run("wb.edits = (edits.scale('mlp_out.3', 0.5),)")
    expect(page.locator("[data-edit]")).to_have_count(2, timeout=MS)
    page.locator("[data-edit] .x").last.click()
    expect(page.locator("[data-edit]")).to_have_count(0, timeout=MS)
    page.evaluate(
        "() => { const notebook = window.jupyterapp.shell.currentWidget.content;"
        " notebook.model.sharedModel.deleteCell(notebook.model.sharedModel.cells.length - 2); }"
    )
    expect(page.get_by_test_id("status")).to_have_count(1, timeout=MS)
    assert notebook.run("print(wb.edits)") == "()"


def test_ten_tabs_and_a_cell_that_edit_at_once_come_to_one_stack(notebook: Notebook, browser: Browser) -> None:
    """Each tab ablates a head of its own while the cell changes the stack as well; afterwards all show the same, which ran."""
    url = notebook.run("print(wb.url)")
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    tabs = [context.new_page() for _ in range(10)]
    for tab in tabs:
        tab.goto(url)
        idle(tab)
        tab.locator("#tab-map").click()
        expect(tab.get_by_test_id("map").locator("canvas")).to_be_visible(timeout=60_000)
    for n, tab in enumerate(tabs):
        tab.evaluate(
            """n => { document.activeElement.blur();
              window.pressing = setInterval(() => {
                const key = ["ArrowUp", "a", "ArrowLeft", "a", "]"][window.pressed = ((window.pressed ?? n) + 1) % 5];
                document.querySelector("[data-testid=map] [role=application]").dispatchEvent(
                  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
              }, 150); }""",
            n,
        )
    notebook.run(
        "for n in range(12):\n    wb.edits = (*wb.edits[-6:], edits.scale(f'mlp_out.{n}', 0.5 + n / 20)); time.sleep(0.1)"
    )
    for tab in tabs:
        tab.evaluate("() => clearInterval(window.pressing)")
    notebook.page.wait_for_timeout(1500)
    told = notebook.run("print(wb.wait(60)); print([e['label'] for e in wb.session.snapshot()[1]['edits']])")
    assert told.startswith("True")
    stack = ast.literal_eval(told.removeprefix("True").strip())
    assert stack
    value = float(notebook.run("print(float(wb.metric(model.run(wb.prompt, edits=wb.edits))))"))
    for shown in (notebook.page, *tabs):
        idle(shown)
        expect(shown.locator("[data-edit]")).to_have_count(len(stack), timeout=MS)
        said = shown.locator("[data-edit] .nm").all_inner_texts()
        names = [re.sub(r"^\W(?=\w)", "", " ".join(one.split())) for one in said]  # without the glyph
        assert names == [" ".join(one.split()) for one in stack]
        expect(shown.get_by_test_id("result-card")).to_contain_text(f"{value:+.2f}".replace("-", "−"))
    context.close()
    notebook.run("wb.edits = ()")
    idle(notebook.page)


def test_a_method_is_a_job_in_both(notebook: Notebook) -> None:
    page = notebook.page
    notebook.run("found = wb.run('ablation-sweep', site='mlp_out', name='every MLP')")
    page.get_by_role("tab", name="Methods").first.click()
    page.get_by_text("every MLP").first.click()
    with page.expect_download() as saved:
        page.locator("[data-testid=item] .files a", has_text="csv").click()
    assert saved.value.suggested_filename.endswith(".csv")
    page.get_by_role("tab", name="Stream").first.click()


def test_a_changed_model_is_drawn_again(notebook: Notebook) -> None:
    page = notebook.page
    before = page.get_by_test_id("result-card").inner_text()
    notebook.run(
        "import torch\nweight = model.hf.model.layers[20].mlp.down_proj.weight\n"
        "with torch.no_grad(): weight.mul_(0.5)\nwb.refresh(); wb.wait()"
    )
    idle(page)
    assert page.get_by_test_id("result-card").inner_text() != before
    notebook.run("with torch.no_grad(): weight.mul_(2)\nwb.refresh(); wb.wait()")
    idle(page)
    assert page.get_by_test_id("result-card").inner_text() == before


def test_a_kernel_started_again_is_found_again(notebook: Notebook) -> None:
    page = notebook.page
    notebook.run("wb.edits = (edits.ablate('z.23', head=3),); wb.wait(); time.sleep(0.5)")
    idle(page)
    notebook.restart()
    expect(page.get_by_test_id("disconnected")).to_contain_text("Run the cell", timeout=MS)
    notebook.run(SET_UP)
    assert notebook.run("print(wb.edits)") == "(<ablate z.23 head 3>,)"
    notebook.run("wb.widget;")  # the old page goes on over it
    expect(page.get_by_test_id("disconnected")).to_have_count(0, timeout=MS)
    idle(page)
    expect(page.locator("[data-edit]")).to_have_count(1, timeout=MS)
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "false")
    assert notebook.run("print(wb.edits)") == "()"


def test_what_is_saved_shows_the_last_picture(notebook: Notebook, folder: Path) -> None:
    page = notebook.page
    notebook.command("notebook:clear-all-cell-outputs")
    notebook.run("wb")
    idle(page)
    notebook.run("wb.prompt = 'The Eiffel Tower is in the city of'; wb.wait(); time.sleep(2.5)")
    expect(page.locator("[data-residscope-still]")).to_be_hidden()
    notebook.save()
    file = folder / "a.ipynb"
    saved = json.loads(file.read_text())
    kinds = [[*output["data"]] for cell in saved["cells"] for output in cell.get("outputs", []) if "data" in output]
    assert kinds == [["application/vnd.jupyter.widget-view+json"], ["text/html", "text/plain"]]
    assert 50 * file.stat().st_size < 10_000_000
    notebook.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.goto("about:blank")
    notebook.open()
    still = page.locator("[data-residscope-still]")
    expect(still).to_be_visible(timeout=MS)
    still.scroll_into_view_if_needed()  # a frame out of sight is not drawn
    expect(still.frame_locator("iframe").get_by_text("Tower").first).to_be_visible(timeout=MS)
    expect(still).to_contain_text("The Eiffel Tower is in the city of")  # in words, where the frame is taken out
    expect(page.get_by_text("model not found")).to_be_hidden()
    without = ["--HTMLExporter.mathjax_url=", "--HTMLExporter.require_js_url="]  # both from elsewhere
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", *without, file.name],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    page.goto(file.with_suffix(".html").as_uri())
    page.locator("iframe").scroll_into_view_if_needed()
    expect(page.frame_locator("iframe").get_by_text("Tower").first).to_be_visible(timeout=MS)


def test_nothing_was_complained_of(notebook: Notebook, complaints: list[str]) -> None:
    assert complaints == []
