"""What the browser tests do and look at again and again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page, expect

IOI = "When John and Mary went to the store, John gave a bottle of milk to"
LOAD_MS = 240_000
ROWS, LAST = 31, 15


@dataclass
class Traffic:
    """What the page asked for and complained about."""

    urls: list[str] = field(default_factory=list)
    sent: list[str | bytes] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.urls) + len(self.sent)

    def forgive_prices(self) -> None:
        """What was asked to be priced, and refused as it should be, is complained of by the browser alone."""
        self.complaints = [said for said in self.complaints if not ("422" in said and said.endswith("/queries/cost"))]


SERVED: dict[str, Any] = {}
"""The session behind each `:PORT/`."""


def settled(page: Page) -> None:
    """Until the page has asked all that it was told to, has heard all that its session says, and waits for nothing more."""
    session = next((one for port, one in SERVED.items() if port in page.url), None)
    for _ in range(2):  # what the session says of the answers is news too
        page.wait_for_function(
            "least => { const { phase, heard, asking } = document.querySelector('[data-testid=status]')?.dataset ?? {};"
            " return phase === 'idle' && asking === '0' && Number(heard) >= least; }",
            arg=session.snapshot()[0] if session else 0,
            timeout=60_000,
        )


def quiet(page: Page, traffic: Traffic) -> None:
    """Until nothing has been asked for a while: what other tabs are made of comes two seconds after the picture."""
    for _ in range(60):
        count = traffic.count
        page.wait_for_timeout(2500)
        if traffic.count == count:
            return
    raise AssertionError(f"the page goes on asking: {traffic.urls[-3:]}")


def type_prompt(page: Page, text: str, *, refused: bool = False) -> None:
    page.get_by_test_id("prompt-edit").click()
    page.get_by_test_id("prompt-input").fill(text)
    page.get_by_test_id("prompt-input").press("Enter")
    if not refused:
        expect(page.get_by_test_id("prompt-input")).to_have_count(0)  # accepted: the run that is asked for is this one


def show_table(page: Page) -> None:
    if page.get_by_test_id("table-toggle").get_attribute("aria-pressed") != "true":
        page.get_by_test_id("table-toggle").click()
    expect(page.locator("[data-testid=stream-grid] td").first).to_be_visible()


def cells(page: Page, *, n_pos: int) -> list[list[float]]:
    """Every cell's value of the default model, by row and column, from the table beside the picture."""
    return grid(page, rows=ROWS, n_pos=n_pos)


def metric(page: Page, which: str) -> float:
    return float(page.get_by_test_id(f"result-{which}").get_attribute("data-value", timeout=20_000) or "nan")


def grid(page: Page, *, rows: int, n_pos: int) -> list[list[float]]:
    """Every cell's value, by row and column, of a picture with any number of rows."""
    show_table(page)
    table = page.get_by_test_id("stream-grid")
    expect(table).to_have_attribute("aria-busy", "false", timeout=20_000)  # else still the numbers before
    expect(table.locator("td")).to_have_count(rows * n_pos, timeout=20_000)
    found = table.locator("td").evaluate_all(
        "all => all.map(td => [+td.dataset.row, +td.dataset.col, +td.dataset.value])"
    )
    values = {(row, col): value for row, col, value in found}
    return [[values[row, col] for col in range(n_pos)] for row in range(rows)]


@contextmanager
def opened(page: Page, part: str) -> Iterator[None]:
    """The picker of a part of the sentence, open."""
    button = page.get_by_test_id(f"say-{part}")
    button.click()
    yield
    page.keyboard.press("Escape")
    expect(button).to_have_attribute("aria-expanded", "false")


def choose(
    page: Page,
    *,
    kind: str = "",
    place: str = "",
    direction: str | int | None = None,
    row: int | None = None,
    unit: str = "",
) -> None:
    """By the sentence's pickers. direction: `"logit"`, `"mix"`, or a component's number; unit: as in `unit-raw`, `logits-raw`."""

    if kind or place or direction is not None:
        with opened(page, "direction"):
            if kind:
                page.get_by_test_id("pick-kind").select_option(kind)
            if place:
                page.get_by_test_id("pick-place").select_option(place)
            if direction in ("logit", "mix"):
                page.get_by_test_id(f"dir-chip-{direction}").click()
            elif direction is not None and page.get_by_test_id("pick-number").count():
                page.get_by_test_id("pick-number").fill(str(direction))
                page.get_by_test_id("pick-number").press("Enter")
            elif direction is not None:
                page.get_by_test_id("pick-component").select_option(str(direction))
    if row is not None:
        with opened(page, "row"):
            page.get_by_test_id("pick-row").select_option(str(row))
    if unit:
        with opened(page, "unit"):
            page.get_by_test_id(unit).click()


def open_mix(page: Page) -> None:
    """The sliders, which are folded while only one direction is looked at."""
    fold = page.get_by_test_id("mix-fold")
    if fold.get_attribute("aria-expanded") != "true":
        fold.click()
    expect(fold).to_have_attribute("aria-expanded", "true")


def said(page: Page, part: str, value: str | re.Pattern[str]) -> None:
    """What a part of the sentence has chosen: a dictionary's id, a component's number or `logit`, a unit's name."""
    expect(page.get_by_test_id(f"say-{part}")).to_have_attribute("data-value", value, timeout=20_000)


def drag(page: Page, test_id: str, to: float) -> None:
    """Takes hold of a slider in the middle and moves it to a share of its width, in ten steps; it is still held."""
    slider = page.get_by_test_id(test_id)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for step in range(1, 11):
        page.mouse.move(box["x"] + box["width"] * (0.5 + (to - 0.5) * step / 10), y)
        page.wait_for_timeout(20)
