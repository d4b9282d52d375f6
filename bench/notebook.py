"""The map in a notebook's cell: from the end of a run, on the kernel's clock, to its picture, on the page's; one machine."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser.lab import Notebook, jupyter_lab

from bench.harness import Row
from bench.page import FLAGS

REACH = 0.3
PROMPT = "When John and Mary went to the store, John gave a bottle of wine to"
SET_UP = f"""
import time
import residscope as rs
from residscope import edits
wb = rs.workbench(rs.load("smollm2-135m"))
wb.prompt = {PROMPT!r}
wb.metric = (" Mary", " John")
ended = []
def hear(seq, patch):  # in the thread that changes the state: the moment at which the run is told
    if (patch.get("status") or {{}}).get("phase") == "idle":
        ended.append(time.time())
_ = wb.session.subscribe(hear)
"""
CUT = """
ended.clear()
wb.edits = (edits.ablate("z.%d", head=%d),)
assert wb.wait(30)
print(ended[0])
"""
RUNS = "() => performance.getEntriesByName('residscope:map-painted').map(mark => mark.detail.run)"
PAINTED = """seen => {  // the first picture of a run that was not drawn before
  const mark = performance.getEntriesByName("residscope:map-painted").find(mark => !seen.includes(mark.detail.run));
  return mark ? (performance.timeOrigin + mark.startTime) / 1e3 : null;
}"""


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Each of several heads is cut in a cell of its own; the map shows it. Raises playwright's TimeoutError where it does not."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, jupyter_lab(Path(place)) as lab, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1900, "height": 1300})
        notebook = Notebook(page, lab, Path(place), "bench.ipynb")
        if said := notebook.run(SET_UP):
            raise RuntimeError(said)
        notebook.run("wb")
        page.locator('[data-testid="status"][data-phase="idle"]').first.wait_for(timeout=60_000)
        page.locator('[role=tab][id$="tab-map"]').first.click()
        page.get_by_test_id("map").first.wait_for()
        page.wait_for_timeout(2000)
        late = [_cut(page, notebook, i) for i in range(4 if quick else 17)][2:]
        browser.close()
    low, middle, high = statistics.quantiles(late, n=4)
    note = "JupyterLab, wb.edits set in a cell: from the run's end to the frame that draws the map"
    yield Row(
        "map in a cell, after the run", middle, REACH, middle / REACH, low / REACH, high / REACH, 1.0, len(late), note
    )


def _cut(page: Any, notebook: Notebook, i: int) -> float:
    seen = page.evaluate(RUNS)
    ended = float(notebook.run(CUT % (2 + i % 20, i % 9)))
    painted = page.wait_for_function(PAINTED, arg=seen, timeout=20_000).json_value()
    page.wait_for_timeout(700)
    return float(painted) - ended
