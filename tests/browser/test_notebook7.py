"""The workbench in a real Notebook 7: the same session for code and page, and the last picture in what is saved."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser.lab import Notebook, jupyter_lab
from browser.test_notebook import MS, SET_UP, idle, rows

pytestmark = pytest.mark.browser


def test_code_and_page_share_one_session(browser: Browser, tmp_path: Path) -> None:
    with jupyter_lab(tmp_path, "notebook") as lab:
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        notebook = Notebook(page, lab, tmp_path, "a.ipynb", at="notebooks")
        assert notebook.run(SET_UP) == ""
        notebook.run("wb")
        idle(page)
        notebook.run("wb.edits = (edits.ablate('z.23', head=3),)")
        expect(page.locator("[data-edit]")).to_have_count(1, timeout=MS)
        assert "ablate z.23 head 3" in rows(page)[0]
        idle(page)
        shown = page.get_by_test_id("result-card").inner_text()
        told = float(notebook.run("wb.wait(); print(float(wb.metric(model.run(wb.prompt, edits=wb.edits))))"))
        assert f"{told:+.2f}".replace("-", "−") in shown
        page.get_by_role("switch").first.click()
        expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", "false")
        assert notebook.run("print(wb.edits)") == "()"
        idle(page)
        notebook.save()
        page.wait_for_timeout(1000)
        kept = json.loads((tmp_path / "a.ipynb").read_text())
        pictures = [
            out["data"] for cell in kept["cells"] for out in cell["outputs"] if "text/html" in out.get("data", {})
        ]
        assert pictures
        assert "data-residscope-still" in "".join(pictures[0]["text/html"])
        page.close()
