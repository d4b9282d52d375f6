"""The Heads tab in Chromium: from a new prompt's run to the first pattern of a head, on short and long prompts."""

import os
import statistics
from collections.abc import Iterator
from typing import Any

import residscope as rs
from bench.harness import Row
from bench.map import _page
from bench.page import FLAGS, prose

LENGTHS = (16, 64, 256, 1000)
REACH = 0.3
WAITED = """() => {  // times: when the run is there, and when a pattern of this run is drawn
  window.firstPattern = new Promise(done => {
    let ran = 0, behind = false;
    const look = () => {
      const idle = document.querySelector("[data-testid=status]")?.dataset.phase === "idle";
      const drawn = document.querySelector("[data-testid=heads-pattern]");
      behind ||= !idle;
      if (behind && idle && !ran) ran = performance.now();
      if (ran && drawn && !drawn.classList.contains("behind")) return requestAnimationFrame(() => done(performance.now() - ran));
      requestAnimationFrame(look);
    };
    look();
  });
}"""


def rows(*, quick: bool = False) -> Iterator[Row]:
    """The first picture after the run against 0.3 s. Beside other work it says how busy the machine was."""
    from playwright.sync_api import sync_playwright

    model = rs.load("smollm2-135m")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        for tokens in LENGTHS[:2] if quick else LENGTHS:
            with _page(browser, model, prose(model, tokens)) as page:
                page.locator("#tab-heads").click()
                page.wait_for_selector("[data-testid=heads-left]", timeout=240_000)
                page.locator("#tab-heads").click()
                took = [_waited(page, prose(model, tokens, 10 * (i + 1))) for i in range(3)]
                low, middle, high = min(took), statistics.median(took), max(took)
                note = f"run to one head's pattern; load {os.getloadavg()[0]:.1f}"
                ratios = middle / REACH, low / REACH, high / REACH
                yield Row(f"heads tab, first picture, {tokens:,} tokens", middle, REACH, *ratios, 1.0, len(took), note)
        browser.close()


def _waited(page: Any, text: str) -> float:
    page.evaluate(WAITED)
    page.get_by_test_id("prompt-edit").click()
    page.get_by_test_id("prompt-input").fill(text)
    page.get_by_test_id("prompt-input").press("Enter")
    seconds = float(page.evaluate("window.firstPattern")) / 1e3
    page.wait_for_function("document.querySelector('[data-testid=status]')?.dataset.asking === '0'", timeout=240_000)
    return seconds
