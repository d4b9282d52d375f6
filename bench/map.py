"""The map in Chromium: how soon one of 80 layers by 64 heads is there, how it moves, and what a frame of a sweep costs."""

import json
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import residscope as rs
from bench.harness import Row
from bench.page import FLAGS, prose
from bench.slider import CATEGORIES

FRAME = 1 / 60
LAYERS, HEADS = 80, 64
OPENED = """() => {  // from the click to the frame that shows the map's own picture
  const began = performance.now();
  document.querySelector("#tab-map").click();
  return new Promise(done => {
    const look = () => performance.getEntriesByName("residscope:map-painted").at(-1)?.startTime > began
      ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - began))) : requestAnimationFrame(look);
    look();
  });
}"""
PANNED = """async frames => {  // by wheel's own means: the room is scrolled, and the time between frames is taken
  const room = document.querySelector("[data-testid=map]"), at = [];
  const [most, high] = [room.scrollWidth - room.clientWidth, room.scrollHeight - room.clientHeight];
  for (let i = 0; i < frames; i++) {
    at.push(await new Promise(requestAnimationFrame));
    room.scrollLeft = most * (1 - Math.cos(i / 25)) / 2;
    room.scrollTop = high * (1 - Math.cos(i / 40)) / 2;
  }
  return [most, high, at.slice(1).map((t, i) => t - at[i])];
}"""


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Opening against a second, frames against the sixtieth of one that each has. Raises RuntimeError where nothing moved."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        with _page(browser, tall(), "a small prompt") as page:
            opened = [_opened(page) for _ in range(3 if quick else 9)]
            yield _row("map open 80x64", opened, 1.0, "tab click to drawn, numbers held or read")
            for _ in range(3):
                page.keyboard.press("+")
            page.wait_for_timeout(1000)
            most, high, frames = page.evaluate(PANNED, 60 if quick else 300)
            if most < 100 or high < 100:
                raise RuntimeError(f"there was nothing to move over: {most} by {high} px")
            yield from _frames(
                "map pan 80x64", [ms / 1e3 for ms in frames], f"between frames, over {most} by {high} px"
            )
        model = rs.load("smollm2-135m")
        with _page(browser, model, prose(model, 128)) as page:
            _opened(page)
            page.wait_for_timeout(2000)
            tasks = _sweep(browser, page, 60 if quick else 240)
            yield from _frames("map sweep 30x9 at 128 tokens", tasks, "the main thread's longest task in a frame")
            tasks = _sweep(browser, page, 60 if quick else 240, dragged=True)
            yield from _frames("map drag 30x9 at 128 tokens", tasks, "the same while a path is drawn")
        browser.close()


def tall() -> Any:
    """A random model of 80 layers by 64 heads of two, which reads bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({text: i for i, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=2 * HEADS, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS // 8, max_position_embeddings=256,
    )  # fmt: skip
    return rs.load((LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=inner)))


@contextmanager
def _page(browser: Any, model: Any, text: str) -> Iterator[Any]:
    from residscope.server import Server
    from residscope.session import Session

    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    with Server(session, port=0) as server:
        session.wait(240)
        session.intent("set_prompt", {"text": text})
        session.wait(240)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(server.url)
        page.wait_for_selector('[data-testid="next-token"]', timeout=120_000)
        page.wait_for_timeout(3000)
        yield page
        page.close()
    session.close()


def _opened(page: Any) -> float:
    page.locator("#tab-stream").click()
    page.wait_for_timeout(500)
    return float(page.evaluate(OPENED)) / 1e3


def _sweep(browser: Any, page: Any, moves: int, *, dragged: bool = False) -> list[float]:
    """Seconds of the longest task of the page's main thread in each frame, while the pointer goes over every head; `dragged`:
    with a path from the lowest layer in hand."""
    box = page.get_by_test_id("map").locator("canvas").bounding_box()
    if dragged:
        page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] - 27)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] - 60)
        page.get_by_test_id("path-words").wait_for(timeout=5000)
    browser.start_tracing(page=page, categories=[*CATEGORIES, "devtools.timeline.frame"])
    for i in range(moves):
        x = box["x"] + box["width"] * (0.05 + 0.4 * (1 + math.sin(i / 5)) / 2)
        page.mouse.move(x, box["y"] + 30 + (box["height"] - 60) * i / moves)
        page.wait_for_timeout(1000 * FRAME)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    if dragged:
        page.keyboard.press("Escape")
        page.mouse.up()
    moved = [
        event for event in events if event["name"] == "EventDispatch" and event["args"]["data"]["type"] == "pointermove"
    ]
    if not moved:
        raise RuntimeError("the pointer was not seen to move")
    thread = moved[0]["pid"], moved[0]["tid"]
    whole = [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == thread]
    tasks = [(e["ts"], e.get("tdur", e.get("dur", 0))) for e in whole]
    marks = sorted(event["ts"] for event in moved)
    longest = [max((ran for at, ran in tasks if a <= at < b), default=0) / 1e6 for a, b in pairwise(marks)]
    return [seconds for seconds in longest if seconds]


def _row(name: str, seconds: list[float], reach: float, note: str) -> Row:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return Row(name, middle, reach, middle / reach, low / reach, high / reach, 1.0, len(seconds), note)


def _frames(name: str, seconds: list[float], note: str) -> Iterator[Row]:
    low, _, high = statistics.quantiles(seconds, n=4)
    most = statistics.quantiles(seconds, n=20)[-1]
    for which, cost in (("median", statistics.median(seconds)), ("95th frame", most)):
        # a frame of Chromium's clock is a sixtieth to within a tenth of a millisecond or so
        yield Row(f"{name}, {which}", cost, FRAME, cost / FRAME, low / FRAME, high / FRAME, 1.02, len(seconds), note)
