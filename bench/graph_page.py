"""The Graph tab in Chromium: how soon a graph of 300 nodes is there, how it moves, and what a step of a slider costs."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import residscope as rs
from bench.harness import Row
from bench.map import _frames, _row
from bench.page import FLAGS

LEVELS, WIDTH, EDGES = 10, 30, 850  # of 900 that a picture draws at most
OPENED = """() => {  // from the click to the frame that shows the graph's own picture
  const began = performance.now();
  document.querySelector("#tab-graph").click();
  return new Promise(done => {
    const look = () => performance.getEntriesByName("residscope:graph-painted").at(-1)?.startTime > began
      ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - began))) : requestAnimationFrame(look);
    look();
  });
}"""
PANNED = """async frames => {  // by dragging's own means: the room is scrolled, and the time between frames is taken
  const room = document.querySelector("[data-testid=graph-picture] .room"), at = [];
  const [most, high] = [room.scrollWidth - room.clientWidth, room.scrollHeight - room.clientHeight];
  for (let i = 0; i < frames; i++) {
    at.push(await new Promise(requestAnimationFrame));
    room.scrollLeft = most * (1 - Math.cos(i / 25)) / 2;
    room.scrollTop = high * (1 - Math.cos(i / 40)) / 2;
  }
  return [most, high, at.slice(1).map((t, i) => t - at[i])];
}"""
SLID = """place => {  // from the slider's step to the frame that shows what it leaves
  const began = performance.now(), input = document.querySelector("[data-testid=graph-least]");
  input.value = place;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  return new Promise(done => {
    const look = () => performance.getEntriesByName("residscope:graph-painted").at(-1)?.startTime > began
      ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - began))) : requestAnimationFrame(look);
    look();
  });
}"""


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Opening against a second, frames against the sixtieth of one that each has. Raises RuntimeError where nothing moved."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        with _page(browser) as page:
            opened = [_opened(page) for _ in range(3 if quick else 9)]
            nodes = page.get_by_test_id("graph-counts").get_attribute("data-nodes")
            if nodes != str(LEVELS * WIDTH):
                raise RuntimeError(f"{nodes} nodes were drawn")
            yield _row("graph open 300 nodes", opened, 1.0, f"tab click to drawn, {EDGES} edges")
            page.get_by_test_id("graph-picture").get_by_role("application").focus()
            for _ in range(3):
                page.keyboard.press("+")
            page.wait_for_timeout(1000)
            most, high, frames = page.evaluate(PANNED, 60 if quick else 300)
            if most < 100 or high < 100:
                raise RuntimeError(f"there was nothing to move over: {most} by {high} px")
            told = f"between frames, over {most} by {high} px"
            yield from _frames("graph pan 300 nodes", [ms / 1e3 for ms in frames], told)
            steps = [page.evaluate(SLID, 0.3 + 0.02 * i) / 1e3 for i in range(5 if quick else 20)]
            yield _row(
                "graph slider 300 nodes", steps, 0.25, f"a step to drawn, median {statistics.median(steps):.3f} s"
            )
        browser.close()


def graph() -> Any:
    """A random graph of so many nodes in so many levels."""
    import torch

    from residscope.graph.graph import Graph, Placed
    from residscope.graph.nodes import Node

    draw = torch.Generator().manual_seed(0)
    ids = [f"sae@resid_post.{level}" for level in range(LEVELS)]
    nodes = [Node(f"{id}/{i}", id, i, None, 1.0, f"sae {i}") for id in ids for i in range(WIDTH)]
    low = torch.randint(0, (LEVELS - 1) * WIDTH, (EDGES,), generator=draw)
    low[: (LEVELS - 1) * WIDTH] = torch.arange((LEVELS - 1) * WIDTH)
    high = (low // WIDTH + 1) * WIDTH + torch.randint(0, WIDTH, (EDGES,), generator=draw)
    high[: (LEVELS - 1) * WIDTH] = torch.arange(WIDTH, LEVELS * WIDTH)
    weight = torch.randn(EDGES, generator=draw)
    order = weight.abs().argsort(descending=True)
    return Graph(
        prompt=("a", " b"), nodes=tuple(nodes), source=low[order], target=high[order], weight=weight[order],
        of=torch.ones(EDGES, dtype=torch.int64),
        placed=tuple(Placed(id, "", id[4:], id[4:], WIDTH, WIDTH, 0.1) for id in ids),
        tokens=(" x",), base=torch.tensor([-1.0]), logits=torch.randn(len(nodes), 1, generator=draw),
    )  # fmt: skip


@contextmanager
def _page(browser: Any) -> Iterator[Any]:
    from residscope.server import Server
    from residscope.session import Session

    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    with Server(session, port=0) as server:
        session.wait(240)
        session.keep("random", graph())
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(server.url)
        page.wait_for_selector('[data-testid="next-token"]', timeout=120_000)
        page.wait_for_timeout(3000)
        page.locator("#tab-graph").click()
        page.get_by_test_id("graph-all").click()
        page.wait_for_timeout(1000)
        yield page
        page.close()
    session.close()


def _opened(page: Any) -> float:
    page.locator("#tab-stream").click()
    page.wait_for_timeout(500)
    return float(page.evaluate(OPENED)) / 1e3
