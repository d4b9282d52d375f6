"""What a person waits for on the page of a server just started: the first drawn prompts, and both badges of evidence."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.harness import Row
from bench.page import FLAGS

DRAWN = """() => {
  const started = performance.now();
  document.querySelector("#tab-prompts").click();
  return new Promise(done => {
    const drawn = () => document.querySelector('[data-testid^="prompt-"][data-own="false"]');
    const look = () => drawn() ? done(performance.now() - started) : requestAnimationFrame(look);
    look();
  });
}"""
BADGES = """() => {
  const started = performance.now();
  document.querySelector('[data-testid="evidence-gather"]').click();
  const known = which => document.querySelector(`[data-testid="badge-${which}"]`)?.dataset.shown ?? "null";
  return new Promise(done => {
    const both = () => known("correlates") !== "null" && known("used") !== "null";
    const look = () => both() ? done(performance.now() - started) : setTimeout(look, 20);
    look();
  });
}"""


def rows(*, quick: bool = False) -> Iterator[Row]:
    from playwright.sync_api import sync_playwright

    n = 1 if quick else 3
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        yield _row("first drawn prompts", [_waited(browser, _drawn) for _ in range(n)], 1.5)
        yield _row("evidence, both badges", [_waited(browser, _badges) for _ in range(n)], 20.0)
        browser.close()


def _drawn(page: Any) -> float:
    return float(page.evaluate(DRAWN)) / 1e3


def _badges(page: Any) -> float:
    page.evaluate("() => { location.hash = 'dir=mix&w=3%3A1'; }")
    page.wait_for_timeout(2000)
    return float(page.evaluate(BADGES)) / 1e3


def _waited(browser: Any, act: Callable[[Any], float]) -> float:
    """Seconds, on a server and in a browser that have done nothing but show the first picture."""
    with _server() as address:
        context = browser.new_context(viewport={"width": 1600, "height": 1000})
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.goto(address)
        page.wait_for_selector('[data-testid="next-token"]')
        page.wait_for_timeout(5000)  # somebody looks at it
        seconds = act(page)
        context.close()
    return seconds


@contextmanager
def _server() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "-m", "residscope", "open", "smollm2-135m", "--no-browser", "--port", "0"]
        env = {**os.environ, "RESIDSCOPE_DATA": folder}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as server:
            try:
                for line in server.stdout or ():
                    if found := re.search(r"http://\S+", line):
                        yield found[0]
                        break
            finally:
                server.terminate()


def _row(name: str, seconds: list[float], target: float) -> Row:
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [*seconds] * 3
    note = f"a server of its own, 5 s after its first picture, against {target:g} s"
    return Row(name, middle, target, middle / target, low / target, high / target, 1.0, len(seconds), note)
