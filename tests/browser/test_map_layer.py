"""The open layer of the map from within: each step is a site, and its value is Python's."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import IOI, LOAD_MS
from browser.test_map import node, open_map
from residscope import edits
from residscope.engine.flow import flow

pytestmark = pytest.mark.browser

HEADS, GROUP = 9, 3


@pytest.fixture(scope="module")
def model(workbench: Any) -> Any:
    assert workbench.session.wait(LOAD_MS / 1000)
    return rs.load("smollm2-135m")


def unfold(page: Page, layer: int, head: int | str) -> None:
    open_map(page)
    node(page, layer, head)
    if page.get_by_test_id("map-inside").get_attribute("aria-expanded") != "true":
        page.keyboard.press("w")
    drawn(page, layer)


def drawn(page: Page, layer: int) -> None:
    expect(page.get_by_test_id("map-flow")).to_have_attribute("data-layer", str(layer))
    expect(page.locator("[data-testid=map-flow] svg.behind")).to_have_count(0)


def steps(page: Page) -> dict[str, dict[str, str]]:
    found: list[dict[str, str]] = page.locator("[data-testid=map-flow] .hit").evaluate_all(
        "all => all.map(hit => ({...hit.dataset}))"
    )
    return {step["site"]: step for step in found}


def shown(text: str) -> float:
    return float(text.split()[0].replace("−", "-"))


def three(value: float) -> Any:
    return pytest.approx(value, rel=6e-3)


def lengths(rec: Any, layer: int, head: int, at: int) -> dict[str, float]:
    """What each site of a layer has at a position, for a head: by plain indexing of a recording."""
    found = {}
    for name in (
        "resid_pre",
        "attn_in",
        "resid_mid",
        "mlp_in",
        "mlp_pre",
        "mlp_gate",
        "mlp_post",
        "mlp_out",
        "resid_post",
    ):
        found[f"{name}.{layer}"] = float(rec[name, layer][0, at].norm())
    for name in ("q", "z", "result"):
        found[f"{name}.{layer}"] = float(rec[name, layer][0, at, head].norm())
    for name in ("k", "v"):
        found[f"{name}.{layer}"] = float(rec[name, layer][0, at, head // GROUP].norm())
    for name in ("scores", "pattern"):
        found[f"{name}.{layer}"] = float(rec[name, layer][0, head, at].max())
    return found


def test_each_step_has_its_site_its_equation_and_python_s_number(bench: Page, model: Any) -> None:
    rec = model.run(IOI, capture=model.sites.names)
    unfold(bench, 23, 3)
    found = steps(bench)
    want = {step.place: step for step in flow(model.layout, 23) if step.same is None}
    assert found.keys() == want.keys()
    assert {place: step["equation"] for place, step in found.items()} == {p: step.equation for p, step in want.items()}
    assert found["pattern.23"]["shape"] == "head 9 × query 16 × key 16"
    assert found["scores.23"]["equation"] == "q·k[h//3] / √64 + mask"
    for place, value in lengths(rec, 23, 3, -1).items():
        assert shown(found[place]["value"]) == three(value), place
    assert found["pattern.23"]["value"].endswith("John")
    bench.keyboard.press("l")
    expect(bench.locator("[data-site='z.23']")).to_have_attribute(
        "data-value", f"{lengths(rec, 23, 4, -1)['z.23']:.3g}"
    )
    bench.keyboard.press("k")
    drawn(bench, 24)
    for place, value in lengths(rec, 24, 4, -1).items():
        assert shown(steps(bench)[place]["value"]) == three(value), place


def test_another_position_and_an_edited_run(bench: Page, workbench: Any, model: Any) -> None:
    unfold(bench, 23, 3)
    bench.get_by_test_id("map-flow-pos").select_option("3")
    expect(bench.get_by_test_id("map-flow-pos")).to_have_value("3")
    plain = model.run(IOI, capture=model.sites.names)
    for place, value in lengths(plain, 23, 3, 3).items():
        expect(bench.locator(f"[data-site='{place}']")).not_to_have_attribute("data-value", "")
        assert shown(steps(bench)[place]["value"]) == three(value), place
    bench.get_by_test_id("map-flow-pos").select_option("15")
    workbench.session.intent("set_edits", {"edits": [{"kind": "scale", "site": "z.20", "factor": 2.0}]})
    edited = model.run(IOI, capture=model.sites.names, edits=[edits.scale("z.20", 2.0)])
    want = lengths(edited, 23, 3, -1)
    expect(bench.locator("[data-site='resid_pre.23']")).to_have_attribute("data-value", f"{want['resid_pre.23']:.3g}")
    drawn(bench, 23)
    for place, value in want.items():
        assert shown(steps(bench)[place]["value"]) == three(value), place


def test_pointing_says_it_in_full_and_folding_takes_it_away(bench: Page) -> None:
    unfold(bench, 23, 3)
    bench.locator("[data-site='k.23']").hover()
    expect(bench.get_by_text("KV 1 · heads 3–5")).to_have_count(2)  # under the patterns, and in the pop-up
    expect(bench.get_by_text("= rotate(x W_K)")).to_be_visible()
    bench.get_by_test_id("map-inside").click()
    expect(bench.get_by_test_id("map-flow")).to_have_count(0)
    expect(bench.get_by_test_id("map-inside")).to_have_attribute("aria-expanded", "false")


def test_the_sites_as_a_table_say_the_same(bench: Page, model: Any) -> None:
    unfold(bench, 23, 3)
    bench.get_by_test_id("map-sites").click()
    for step in flow(model.layout, 23):
        row = bench.get_by_role("row", name=step.place, exact=False).filter(
            has=bench.get_by_role("cell", name=step.place, exact=True)
        )
        expect(row).to_contain_text(f"= {step.same}" if step.same else step.equation)
    bench.keyboard.press("Escape")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_drawing_can_be_reached_and_read_in_either_theme(bench: Page, theme: str) -> None:
    unfold(bench, 23, 3)
    bench.evaluate("theme => { document.querySelector('.residscope').dataset.theme = theme; }", theme)
    bench.wait_for_timeout(300)
    assert violations(bench) == []
    assert faults(bench) == []
    bench.get_by_test_id("flow-save").click()
    assert violations(bench) == []
    bench.keyboard.press("Escape")
