"""From a prompt typed into the page to the coloured stream, end to end in Chromium, against the plain forward itself."""

import statistics
from collections.abc import Iterator
from typing import Any

import torch

import residscope as rs
from bench.harness import Row, _seconds
from residscope.corpus.text import python_docs

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
LONG = (295, 1077, 2278)
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
        times = [
            _typed(page, model, f"When John and Mary went to the store, John gave a bottle of {word} to", plain=3)
            for word in words
        ]
        yield _row("prompt to coloured stream, 16 tokens", times[2:])
        for tokens in LONG[:2] if quick else LONG:
            texts = [prose(model, tokens, start) for start in range(0, 60, 20 if quick else 10)]
            yield _row(
                f"prompt to coloured stream, {tokens:,} tokens", [_typed(page, model, text) for text in texts][1:]
            )
        yield from _first_paints(browser, server.url, 4 if quick else 10)
        browser.close()


def prose(model: rs.Model, tokens: int, start: int = 0) -> str:
    """English prose of so many tokens, or a few less, from a token of it on."""
    ids = model.tokens("\n\n".join(list(python_docs())[:40])[:20_000])[0].tolist()
    return model.text(ids[start : start + tokens])


def _typed(page: Any, model: rs.Model, prompt: str, *, plain: int = 1) -> tuple[float, float]:
    """Seconds from Enter to the first picture of a prompt, and those of the plain forward, timed before and after it."""
    ids = model.tokens(prompt)
    beside = [_seconds(lambda: _plain(model, ids)) for _ in range(plain)]
    before = page.evaluate("() => performance.now()")
    page.get_by_test_id("prompt-edit").click()
    page.get_by_test_id("prompt-input").fill(prompt)
    page.get_by_test_id("prompt-input").press("Enter")
    for _ in range(200):  # seldom, as the server runs in this process; what fills in afterwards is done by then too
        page.wait_for_timeout(700)
        if page.evaluate(PAINTED, [before, prompt]):
            break
    ours = page.evaluate(LATENCY, prompt) / 1e3
    page.wait_for_timeout(700 if plain > 1 else 2000)
    return ours, statistics.median([*beside, *(_seconds(lambda: _plain(model, ids)) for _ in range(plain))])


def _row(name: str, times: list[tuple[float, float]]) -> Row:
    low, ratio, high = statistics.quantiles([a / b for a, b in times], n=4)
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(
        name, ours, theirs, ratio, low, high, 1.5, len(times), "typed in Chromium, against plain HF (sdpa) alone"
    )


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
