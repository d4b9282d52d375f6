"""A notebook in a real JupyterLab: how soon the map in the cell shows the edits that code set, once their run has ended."""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Row
from bench.page import FLAGS

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
SET_UP = """
import time
import residscope as rs
from residscope import edits
model = rs.load("smollm2-135m")
wb = rs.workbench(model)
ended = []
def hear(seq, patch):
    if patch.get("status", {}).get("phase") == "idle" and "runs" in patch:
        ended.append(time.time())
wb.session.subscribe(hear)
"""
WATCH = """() => {  // the clock of this machine, which the kernel reads too, at the frame after the map shows another run
  const map = document.querySelector("[data-testid=map]");
  window.drawn = [];
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => window.drawn.push(Date.now() / 1000))))
    .observe(map, { attributes: true, attributeFilter: ["data-run"] });
}"""
WITHIN = 0.3


def rows(*, quick: bool = False) -> Iterator[Row]:
    from playwright.sync_api import sync_playwright

    from browser.lab import Notebook, jupyter_lab

    with tempfile.TemporaryDirectory() as made, jupyter_lab(Path(made)) as lab, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1900, "height": 1300})
        notebook = Notebook(page, lab, Path(made), "a.ipynb")
        notebook.run(SET_UP)
        notebook.run("wb")
        page.locator("#tab-map").click()
        page.get_by_test_id("map").locator("canvas").wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        page.evaluate(WATCH)
        waited = []
        for n in range(4 if quick else 12):
            page.evaluate("() => { window.drawn = []; }")
            cell = f"ended.clear(); wb.edits = (edits.ablate('z.{10 + n}', head={n % 9}),); wb.wait(); print(ended[0])"
            ended = float(notebook.run(cell))
            page.wait_for_function("() => window.drawn.length > 0", timeout=20_000)
            page.wait_for_timeout(500)
            waited.append(float(page.evaluate("() => window.drawn.at(-1)")) - ended)
        browser.close()
    ratios = [seconds / WITHIN for seconds in waited]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    note = f"JupyterLab, {len(waited)} edits set in cells, 16 tokens; longest {max(waited) * 1e3:.0f} ms"
    yield Row(
        "map in a cell, after the run", statistics.median(waited), WITHIN, ratio, low, high, 1.0, len(waited), note
    )
