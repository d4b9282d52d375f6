"""A mix slider dragged in Chromium: what a frame costs the page's main thread, against the sixtieth of a second it has."""

import json
import math
import statistics
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import residscope as rs
from bench.harness import Row
from bench.page import FLAGS

FRAME = 1 / 60
TOKENS = 64
TEXT = "When John and Mary went to the store, John gave a bottle of milk to Mary. " * 8
CATEGORIES = ["devtools.timeline", "toplevel", "blink.user_timing"]


def rows(*, quick: bool = False) -> Iterator[Row]:
    """The median and the 95th percentile frame of a drag over 30 layers and 64 tokens, a mix of two dictionaries.

    A frame's cost is the time the page's main thread ran for it: scripts, layout, paint (of the thread itself, so that
    what else the machine does is left out). Raises RuntimeError where the drag asked the
    server for anything.
    """
    from playwright.sync_api import sync_playwright

    from residscope.server import Server
    from residscope.session import Session

    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    with Server(session, port=0) as server, sync_playwright() as play:
        session.wait(120)
        session.intent("set_prompt", {"text": model.tokenizer.decode(model.tokens(TEXT)[0, :TOKENS].tolist())})
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(server.url)
        page.wait_for_selector('[data-testid="next-token"]', timeout=120_000)
        page.get_by_test_id("say-direction").click()
        page.get_by_test_id("pick-component").select_option("7")
        page.keyboard.press("Escape")
        page.get_by_test_id("mix-fold").click()
        page.get_by_test_id("mix-add").select_option("pca@resid_post.10")
        page.wait_for_timeout(2000)
        grid = page.get_by_test_id("stream-grid")
        shape = grid.get_attribute("data-rows"), grid.get_attribute("data-cols")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        costs = _drag(browser, page, asked, moves=60 if quick else 300)
        browser.close()
    low, _, high = statistics.quantiles(costs, n=4)
    most = statistics.quantiles(costs, n=20)[-1]
    note = f"{shape[0]} rows x {shape[1]} tokens, two dictionaries, no request, main thread"
    for name, cost in (
        ("a slider's frame, median", statistics.median(costs)),
        ("a slider's frame, 95th percentile", most),
    ):
        yield Row(name, cost, FRAME, cost / FRAME, low / FRAME, high / FRAME, 1.0, len(costs), note)


def _drag(browser: Any, page: Any, asked: list[str], *, moves: int) -> list[float]:
    """Seconds of the main thread in each frame that painted the mix, while one slider goes to and fro."""
    slider = page.get_by_test_id("mix-slider-1")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle, y)
    page.mouse.down()
    asked.clear()
    browser.start_tracing(page=page, categories=CATEGORIES)
    for i in range(moves):
        page.mouse.move(middle + 0.45 * box["width"] * math.sin(i / 7), y)
        page.wait_for_timeout(1000 * FRAME / 2)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    if asked:
        raise RuntimeError(f"the drag asked the server for {len(asked)} things: {asked[:3]}")
    page.mouse.up()
    page.wait_for_timeout(1000)
    if not asked:
        raise RuntimeError("the release asked for nothing either, so the count proves nothing")
    return _frames(events)


def _frames(events: list[dict[str, Any]]) -> list[float]:
    painted = [e for e in events if e["name"] == "residscope:mix-painted"]
    if not painted:
        raise RuntimeError("no frame painted the mix")
    thread = painted[0]["pid"], painted[0]["tid"]
    whole = [e for e in events if e["ph"] == "X" and "dur" in e and (e["pid"], e["tid"]) == thread]
    tasks: list[tuple[int, int, int]] = []  # begin, end, time the thread ran; what is inside another is counted with it
    for event in sorted(whole, key=lambda e: (e["ts"], -e["dur"])):
        if not tasks or event["ts"] >= tasks[-1][1]:
            tasks.append((event["ts"], event["ts"] + event["dur"], event.get("tdur", event["dur"])))
    marks = sorted(e["ts"] for e in painted)
    return [
        # from the task that painted up to the next one that does: its scripts, its layout, its paint
        sum(ran for start, end, ran in tasks if start <= mark <= end or (mark < start and end < following)) / 1e6
        for mark, following in pairwise(marks)
    ]
