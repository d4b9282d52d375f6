"""From a prompt typed into the page to the coloured stream, end to end in Chromium, against the plain forward itself."""

import statistics
from collections.abc import Iterator
from typing import Any

import torch

import residscope as rs
from bench.harness import Row, _seconds

WORDS = (
    "water",
    "bread",
    "wine",
    "tea",
    "soup",
    "rice",
    "fish",
    "salt",
    "corn",
    "cake",
    "fruit",
    "meat",
    "oil",
    "jam",
    "beer",
    "ham",
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LATENCY = """prompt => {  // until the first picture of this prompt: what is drawn after it (coordinates to mix) is not waited for
  const sent = performance.getEntriesByName("residscope:prompt-sent").at(-1)?.startTime ?? 0;
  const drawn = performance.getEntriesByName("residscope:stream-painted");
  return drawn.find(entry => entry.startTime > sent && entry.detail.prompt === prompt).startTime - sent;
}"""

PAINTED = """([before, prompt]) => {
  const sent = performance.getEntriesByName("residscope:prompt-sent").at(-1)?.startTime ?? 0;
  const drawn = performance.getEntriesByName("residscope:stream-painted");
  return sent > before && drawn.some(entry => entry.startTime > sent && entry.detail.prompt === prompt);
}"""


def rows(*, quick: bool = False) -> Iterator[Row]:
    from playwright.sync_api import sync_playwright

    from residscope.server import Server
    from residscope.session import Session

    model = rs.load("smollm2-135m")
    words = WORDS[:5] if quick else WORDS
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    with Server(session, port=0) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(server.url)
        page.wait_for_selector('[data-testid="next-token"]', timeout=120_000)
        page.wait_for_timeout(2000)
        times: list[tuple[float, float]] = []
        for word in words:
            prompt = f"When John and Mary went to the store, John gave a bottle of {word} to"
            ids = model.tokens(prompt)
            before = page.evaluate("() => performance.now()")
            page.get_by_test_id("prompt-edit").click()
            page.get_by_test_id("prompt-input").fill(prompt)
            page.get_by_test_id("prompt-input").press("Enter")
            for _ in range(
                40
            ):  # seldom, as the server runs in this process; what fills in afterwards is done by then too
                page.wait_for_timeout(700)
                if page.evaluate(PAINTED, [before, prompt]):
                    break
            ours = page.evaluate(LATENCY, prompt) / 1e3
            times.append((ours, statistics.median(_seconds(lambda ids=ids: _plain(model, ids)) for _ in range(3))))
        yield from _first_paints(browser, server.url, 4 if quick else 10)
        browser.close()
    times = times[2:]
    ratios = [a / b for a, b in times]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    note = "typed in Chromium, against plain HF (sdpa) alone"
    yield Row("prompt to coloured stream, 16 tokens", ours, theirs, ratio, low, high, 1.5, len(times), note)


def _first_paints(browser: Any, url: str, n: int) -> Iterator[Row]:
    """From opening the page, each time in a browser that knows nothing of it, to the coloured stream."""
    seconds = []
    for _ in range(n):
        context = browser.new_context(viewport={"width": 1600, "height": 1000})
        page = context.new_page()
        page.goto(url)
        for _ in range(1000):
            if page.evaluate("() => performance.getEntriesByName('residscope:stream-painted').length"):
                break
            page.wait_for_timeout(25)
        seconds.append(
            page.evaluate("() => performance.getEntriesByName('residscope:stream-painted')[0].startTime") / 1e3
        )
        context.close()
    low, middle, high = statistics.quantiles(seconds, n=4)
    note = "from opening the address to the coloured stream, nothing cached, against one second"
    yield Row("first paint, server warm", middle, 1.0, middle, low, high, 1.0, n, note)


def _plain(model: rs.Model, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model.hf(ids, use_cache=False)
