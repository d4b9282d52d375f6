"""Maps of other shapes: 80 layers by 64 heads opens at once and moves; 12 by 12 is readable at 1280 by 720."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from bench.map import OPENED, tall
from playwright.sync_api import Page, expect

from browser.conftest import byte_tokenizer
from browser.steps import LOAD_MS, SERVED, Traffic, settled

pytestmark = pytest.mark.browser

OPEN_MS = 3000  # the bench says 1 s of a machine that does nothing else


def served(model: Any) -> Iterator[Any]:
    from residscope.server import Server
    from residscope.session import Session

    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    with Server(session, port=0) as server:
        SERVED[f":{server.port}/"] = session
        assert session.wait(LOAD_MS / 1000)
        session.intent("set_prompt", {"text": "a small prompt"})
        yield server
        del SERVED[f":{server.port}/"]
    session.close()


@pytest.fixture(scope="module")
def large() -> Iterator[Any]:
    yield from served(tall())


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    import residscope as rs

    path: Path = tmp_path_factory.mktemp("twelve")
    alphabet = byte_tokenizer(path)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(alphabet), n_embd=96, n_layer=12, n_head=12, n_positions=128, bos_token_id=0, eos_token_id=1
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    yield from served(rs.load((GPT2LMHeadModel(config).eval(), tokenizer)))


def opened(page: Page, server: Any) -> float:
    page.goto(server.url)
    settled(page)
    page.wait_for_timeout(1000)
    return float(page.evaluate(OPENED))


def scrolled(page: Page) -> list[float]:
    found: list[float] = page.get_by_test_id("map").evaluate("room => [room.scrollLeft, room.scrollTop]")
    return found


def test_eighty_by_sixty_four_opens_at_once_in_bands(page: Page, large: Any, traffic: Traffic) -> None:
    assert opened(page, large) < OPEN_MS
    room = page.get_by_test_id("map")
    expect(room).to_have_attribute("data-layers", "80")
    names = room.locator("svg text").all_text_contents()
    assert "0–7" in names
    assert sum(name.isdigit() and int(name) < 80 for name in names) >= 7, "the band that is looked into is open"
    fits: list[bool] = room.evaluate("r => [r.scrollWidth <= r.clientWidth, r.scrollHeight <= r.clientHeight]")
    assert fits == [True, True], "the whole model is in view"
    assert traffic.complaints == []


def test_it_is_zoomed_and_moved_by_wheel_drag_and_keys(page: Page, large: Any, traffic: Traffic) -> None:
    opened(page, large)
    room = page.get_by_test_id("map")
    box = room.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 8, box["y"] + 100)  # beside the cells
    page.keyboard.down("Control")
    for _ in range(3):
        page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_timeout(300)
    width, height = room.evaluate("r => [r.scrollWidth / r.clientWidth, r.scrollHeight / r.clientHeight]")
    assert width > 1.5
    assert height > 1.5
    room.evaluate("r => { r.scrollLeft = 0; r.scrollTop = 0; }")
    page.mouse.wheel(120, 200)
    page.wait_for_timeout(300)
    assert scrolled(page) == [120, 200]
    room.evaluate("r => { r.scrollLeft = 0; r.scrollTop = 0; }")
    page.mouse.move(box["x"] + 8, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 8, box["y"] + 200, steps=4)
    page.mouse.up()
    assert scrolled(page)[1] == 100
    page.mouse.click(box["x"] + 8, box["y"] + 250)
    page.get_by_role("application").focus()
    before = page.get_by_test_id("map-readout").get_attribute("data-node")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert page.get_by_test_id("map-readout").get_attribute("data-node") != before
    page.wait_for_timeout(300)
    on = page.locator("[data-testid=map] svg .on").bounding_box()
    assert on is not None
    assert box["x"] <= on["x"] <= box["x"] + box["width"], "what is selected is brought into view"
    assert box["y"] <= on["y"] <= box["y"] + box["height"]
    page.keyboard.press("0")
    page.wait_for_timeout(300)
    assert room.evaluate("r => r.scrollWidth <= r.clientWidth")
    assert traffic.complaints == []


def test_twelve_by_twelve_is_readable(page: Page, twelve: Any, traffic: Traffic) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    opened(page, twelve)
    room = page.get_by_test_id("map")
    assert room.evaluate("r => r.scrollHeight <= r.clientHeight && r.scrollWidth <= r.clientWidth")
    page.wait_for_timeout(800)
    texts: list[list[Any]] = room.locator("svg text").evaluate_all(
        "all => all.map(text => { const b = text.getBBox(), size = +text.getAttribute('font-size');"
        " return [text.firstChild.textContent, b.x, b.y, b.width, b.height, size]; })"
    )
    assert min(text[5] for text in texts) >= 8
    on = page.locator("[data-testid=map] svg .on").evaluate(
        "r => [+r.getAttribute('x'), +r.getAttribute('y'), +r.getAttribute('width'), +r.getAttribute('height')]"
    )
    inside = [
        text
        for text in texts
        if on[1] <= text[2] <= on[1] + on[3] and text[1] < on[0] + 13 * on[2] and text[0][0] in "+−"
    ]
    assert len(inside) >= 12, "every head of the open layer has its number"
    for a, b in combinations(texts, 2):
        across = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        down = min(a[2] + a[4], b[2] + b[4]) - max(a[2], b[2])
        assert across <= 1.5 or down <= 2, f"{a[0]!r} stands on {b[0]!r}"
    assert traffic.complaints == []
