"""The tour of docs/ioi.md, step by step on the page: who reads the name, what cutting it does, what frozen attention changes."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.acting import MARY, open_map, pick, same_as_pasted, spot
from browser.steps import IOI, metric, settled
from residscope import edits

pytestmark = pytest.mark.browser

READERS = [(24, 4), (21, 8), (22, 4)]
"""The heads that attend most to " Mary" from the end."""

Step = Callable[[Page, Any], None]


def find(page: Page, session: Any) -> None:
    """Colour is attention to the answer; the strongest are where it is darkest."""
    open_map(page)
    page.get_by_test_id("map-tint").select_option("attention")
    expect(page.get_by_test_id("map-attended")).to_have_value("3")
    pick(page, *READERS[0])


def cut(page: Page, session: Any) -> None:
    """The head that raises Mary most is cut."""
    page.get_by_test_id("map-tint").select_option("direct")
    pick(page, 23, 3)
    page.keyboard.press("a")
    expect(page.locator("[data-edit]")).to_have_count(1)
    settled(page)


def cut_movers(page: Page, session: Any) -> None:
    """The four that carry the name to the end, as a rectangle and one more: others make up for them."""
    session.intent("set_edits", {"edits": []})
    settled(page)
    pick(page, 23, 0)
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("a")
    expect(page.locator("[data-edit]")).to_have_count(1)
    pick(page, 23, 7)
    page.keyboard.press("a")
    expect(page.locator("[data-edit]")).to_have_count(2)
    settled(page)


def freeze(page: Page, session: Any) -> None:
    """With every pattern as it was, nothing can look elsewhere instead."""
    session.intent("add_edit", {"edit": {"kind": "freeze", "site": "patterns"}})
    settled(page)


def patch(page: Page, session: Any) -> None:
    """Beside a prompt in which Mary gives: the head's value is taken from there."""
    session.intent("set_edits", {"edits": []})
    session.intent("set_companion", {"text": MARY})
    settled(page)
    pick(page, 23, 3)
    page.keyboard.press("p")
    expect(page.locator("[data-edit]")).to_have_count(1)
    settled(page)


def path(page: Page, session: Any) -> None:
    """Dragged: only what the later head's query reads of the earlier one is taken from there."""
    session.intent("set_edits", {"edits": []})
    settled(page)
    start, end = spot(page, 20, 0), spot(page, 23, 1)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 8, start[1] - 3)
    page.mouse.move(*end, steps=5)
    expect(page.get_by_test_id("path-target")).to_have_attribute("data-possible", "true")
    page.mouse.up()
    page.get_by_test_id("path-q").click()
    expect(page.locator("[data-edit]")).to_have_count(1)
    settled(page)


MOVERS = [edits.ablate("z.23", head=[0, 1, 2]), edits.ablate("z.23", head=7)]
STEPS: dict[str, tuple[Step, list[Any]]] = {
    "find": (find, []),
    "cut": (cut, [edits.ablate("z.23", head=3)]),
    "cut-movers": (cut_movers, MOVERS),
    "freeze": (freeze, [*MOVERS, edits.freeze("patterns")]),
    "patch": (patch, [edits.patch("z.23", MARY, head=3)]),
    "path": (path, [edits.path("z.20", "q.23", MARY, sender_head=0, head=1)]),
}
"""In the order of the tour, each with the edits that stand at its end."""

SAID = {"find": 4.26, "cut": 1.81, "cut-movers": 3.76, "freeze": 0.81, "patch": -0.85, "path": 4.04}
"""The logit differences that docs/ioi.md tells."""


def test_the_tour(bench: Page, workbench: Any) -> None:
    session = workbench.session
    model = rs.load("smollm2-135m")
    try:
        for name, (step, stack) in STEPS.items():
            step(bench, session)
            want = float(rs.logit_diff(" Mary", " John")(model.run(IOI, edits=stack)))
            assert metric(bench, "b" if stack else "a") == pytest.approx(want, abs=6e-3), name
            assert want == pytest.approx(SAID[name], abs=6e-3), name
            same_as_pasted(session)
    finally:
        session.intent("set_edits", {"edits": []})
        session.intent("set_companion", {"text": None})


def test_the_finder_s_heads_are_those_that_attend_most(bench: Page, workbench: Any) -> None:
    find(bench, workbench.session)
    run = rs.load("smollm2-135m").run(IOI, ["pattern"])
    weights = {
        (layer, head): float(run[f"pattern.{layer}"][0, head, -1, 3]) for layer in range(30) for head in range(9)
    }
    assert sorted(weights, key=weights.__getitem__, reverse=True)[:3] == READERS
    for layer, head in [*READERS, (3, 1)]:
        pick(bench, layer, head)
        shown = bench.get_by_test_id("map-tinted").inner_text()
        assert float(shown.replace("−", "-")) == pytest.approx(weights[layer, head], abs=6e-4)
    expect(bench.get_by_test_id("map-readout")).to_contain_text("attention to 3 ·Mary")
