"""How smooth the page stays at 1,000 tokens: the main thread's time a step, in real Chromium on the real SmolLM2.

python -m bench.long_prompt            # prints a table; about a minute
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, quantiles

from playwright.sync_api import Browser, Page, sync_playwright

import residscope as rs
from bench.page import FLAGS, LATENCY, prose
from residscope.server import Server
from residscope.session import Session

TOKENS = 1000
CATEGORIES = ["toplevel", "blink.user_timing", "devtools.timeline", "disabled-by-default-devtools.timeline"]
PAINTED = """before => {
  const last = performance.getEntriesByName("residscope:stream-painted").at(-1);
  return (last?.startTime ?? 0) > before && document.querySelector('[data-testid="stream-grid"]')?.dataset.cols === "1000";
}"""
NODES = "() => document.getElementsByTagName('*').length"


@dataclass(frozen=True)
class Step:
    """The main thread's milliseconds of processor time: a step's mean and 95th percentile, and the longest single task of all."""

    name: str
    n: int
    mean: float
    p95: float
    longest: float


def prompt(model: rs.Model, tokens: int = TOKENS) -> str:
    """English prose of so many tokens, which types as the same ones."""
    text = prose(model, tokens)
    assert len(model.tokens(text)[0]) == tokens
    return text


def traced(browser: Browser, page: Page, name: str, actions: list[Callable[[], object]], *, pause: int = 40) -> Step:
    """Do each action and let its frame come; what the renderer's main thread spent, from Chromium's own trace."""
    page.wait_for_timeout(500)
    browser.start_tracing(page=page, categories=CATEGORIES)
    for i, action in enumerate(actions):
        page.evaluate("i => performance.mark(`bench:${i}`)", i)
        action()
        page.wait_for_timeout(pause)
    page.evaluate("() => performance.mark('bench:end')")
    events = json.loads(browser.stop_tracing())["traceEvents"]
    marks = sorted(e["ts"] for e in events if e["name"].startswith("bench:"))
    thread = next((e["pid"], e["tid"]) for e in events if e["name"].startswith("bench:"))
    tasks = [
        (e["ts"], e.get("tdur", e["dur"]) / 1e3)
        for e in events
        if e["name"].endswith("RunTask") and (e["pid"], e["tid"]) == thread and "dur" in e
    ]
    spans = list(zip(marks, [*marks[1:], float("inf")], strict=True))[: len(actions)]
    each = [sum(ms for at, ms in tasks if start <= at < end) for start, end in spans]
    during = [ms for at, ms in tasks if marks[0] <= at < marks[-1]]
    return Step(name, len(each), mean(each), quantiles(each, n=20)[-1], max(during))


def measure(browser: Browser, page: Page) -> list[Step]:
    move = page.mouse.move
    box = page.locator("[data-testid=stream-grid] .scroller").bounding_box()
    strip = page.locator(".reading .txt").bounding_box()
    chips = page.locator(".chips").bounding_box()
    assert box
    assert strip
    assert chips
    steps = []

    def over(x: float, y: float, w: float, h: float, n: int = 40) -> list[Callable[[], object]]:
        points = [(x + w * (0.05 + 0.9 * i / n), y + h * (0.1 + 0.8 * (i * 7 % n) / n)) for i in range(n)]
        return [lambda p=p: move(*p) for p in points]  # type: ignore[misc]

    def wheel(dx: float, dy: float, n: int = 30) -> list[Callable[[], object]]:
        return [lambda i=i: page.mouse.wheel(dx if i < n // 2 else -dx, dy if i < n // 2 else -dy) for i in range(n)]  # type: ignore[misc]

    steps.append(traced(browser, page, "hover over the grid", over(**_room(box))))
    steps.append(traced(browser, page, "hover over the token strip", over(**_room(strip))))
    move(box["x"] + 200, box["y"] + 100)
    steps.append(traced(browser, page, "scroll the grid", wheel(-400, 0)))
    move(strip["x"] + 200, strip["y"] + 20)
    steps.append(traced(browser, page, "scroll the token strip", wheel(0, -48)))
    move(chips["x"] + 60, chips["y"] + 60)
    steps.append(traced(browser, page, "scroll the prompt's chips", wheel(0, -60)))
    keys = ["j", "k", "j", "j", "k"] * 4
    steps.append(traced(browser, page, "another layer", [lambda k=k: page.keyboard.press(k) for k in keys]))  # type: ignore[misc]
    chip = page.get_by_test_id
    chip("say-direction").click()
    picks = [lambda i=i: chip("pick-component").select_option(str(i)) for i in (1, 2, 3, 4, 5, 6) * 2]  # type: ignore[misc]
    steps.append(traced(browser, page, "another component", picks, pause=80))
    page.keyboard.press("Escape")
    steps.append(_drag(browser, page, "drag a slider"))
    chip("fit").click()
    page.wait_for_timeout(300)
    steps.append(traced(browser, page, "hover, all tokens in view", over(**_room(box))))
    steps.append(_drag(browser, page, "drag a slider, all tokens in view"))
    chip("fit").click()
    return steps


def _room(box: object) -> dict[str, float]:
    assert isinstance(box, dict)
    return {"x": box["x"], "y": box["y"], "w": box["width"], "h": box["height"]}


def _drag(browser: Browser, page: Page, name: str) -> Step:
    slider = page.get_by_test_id("mix-slider-1")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    at = [box["x"] + box["width"] * (0.5 + 0.4 * (i % 20) / 20) for i in range(40)]
    step = traced(browser, page, name, [lambda x=x: page.mouse.move(x, y) for x in at])  # type: ignore[misc]
    page.mouse.up()
    page.wait_for_timeout(400)
    return step


def main() -> None:
    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    session.wait()
    session.intent("set_prompt", {"text": "The capital of France is"})
    with Server(session, port=0) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(server.url)
        page.wait_for_selector('[data-testid="next-token"]', timeout=120_000)
        before = page.evaluate("() => performance.now()")
        page.get_by_test_id("prompt-edit").click()
        page.get_by_test_id("prompt-input").fill(prompt(model))
        page.get_by_test_id("prompt-input").press("Enter")
        for _ in range(600):
            page.wait_for_timeout(100)
            if page.evaluate(PAINTED, before):
                break
        forward = session.state.status.forward_ms or 0
        print(f"typed to painted {page.evaluate(LATENCY):.0f} ms, of which the forward {forward:.0f} ms")
        page.get_by_test_id("say-direction").click()
        page.get_by_test_id("pick-component").select_option("0")
        page.keyboard.press("Escape")
        page.get_by_test_id("mix-fold").click()
        page.wait_for_selector('[data-testid="mix-slider-1"]', timeout=60_000)
        page.wait_for_timeout(1000)
        print(f"{TOKENS} tokens x {model.n_layers + 1} rows, {page.evaluate(NODES)} DOM nodes in the page")
        steps = measure(browser, page)
        if page.get_by_role("tab", name="Prompts").count():
            steps += _prompts(browser, page)
        print(
            f"\n{'step':<40} {'n':>3} {'mean':>8} {'p95':>8} {'longest task':>13}   ms of processor time, main thread"
        )
        for s in steps:
            print(f"{s.name:<40} {s.n:>3} {s.mean:>8.1f} {s.p95:>8.1f} {s.longest:>13.1f}")
        browser.close()


def _prompts(browser: Browser, page: Page) -> list[Step]:
    """The Prompts tab with the same prompt of 1,000 tokens, and 20 drawn ones, below each other."""
    page.get_by_role("tab", name="Prompts").click()
    page.wait_for_selector('[data-testid="prompts-new"]', timeout=60_000)
    page.wait_for_timeout(2000)
    box = page.get_by_test_id("prompt-list").bounding_box()
    assert box
    n = 40
    points = [(box["x"] + 60 + (box["width"] - 90) * i / n, box["y"] + 40 + 15 * (i * 7 % n)) for i in range(n)]
    hover = traced(browser, page, "Prompts tab: hover", [lambda p=p: page.mouse.move(*p) for p in points])  # type: ignore[misc]
    scroll = [lambda i=i: page.mouse.wheel(0, 200 if i < 15 else -200) for i in range(30)]  # type: ignore[misc]
    tokens = page.get_by_test_id("prompt-list").get_attribute("data-tokens")
    print(f"{page.evaluate(NODES)} DOM nodes on the Prompts tab, of {tokens} tokens")
    return [
        hover,
        traced(browser, page, "Prompts tab: scroll", scroll),
        _drag(browser, page, "Prompts tab: drag a slider"),
    ]


if __name__ == "__main__":
    main()
