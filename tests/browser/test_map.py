"""The map of the default model: every number on it is Python's, and what is done on it is an edit of the stack."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, LOAD_MS, Traffic, metric, settled
from browser.test_exports import opens, saved, text_of
from residscope import edits

pytestmark = pytest.mark.browser

HEADS, LAYERS = 9, 30


@pytest.fixture(scope="module")
def model(workbench: Any) -> Any:
    assert workbench.session.wait(LOAD_MS / 1000)  # two loads at once, in one process, are not for transformers
    return rs.load("smollm2-135m")


def open_map(page: Page) -> None:
    page.locator("#tab-map").click()
    expect(page.get_by_test_id("map").locator("canvas")).to_be_visible(timeout=30_000)


def node(page: Page, layer: int, head: int | str) -> tuple[float, float]:
    """Where a node stands: read from the frame that selecting it draws."""
    while page.get_by_test_id("map-readout").get_attribute("data-node") != (name := name_of(layer, head)):
        now = str(page.get_by_test_id("map-readout").get_attribute("data-node"))
        at = (int(now[4:]), HEADS) if now.startswith("mlp") else tuple(map(int, now.split(".")))
        want = (layer, HEADS if head == "mlp" else int(head))
        page.keyboard.press("k" if want[0] > at[0] else "j" if want[0] < at[0] else "l" if want[1] > at[1] else "h")
        page.wait_for_timeout(5)
        assert name
    box = page.locator("[data-testid=map] svg .on").first.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def name_of(layer: int, head: int | str) -> str:
    return f"mlp {layer}" if head == "mlp" else f"{layer}.{head}"


def table(page: Page) -> dict[tuple[str, str], float]:
    toggle = page.get_by_test_id("map-table-toggle")
    if toggle.get_attribute("aria-pressed") != "true":
        toggle.click()
    expect(page.get_by_test_id("map-table").locator("td").first).to_be_visible()
    found = page.locator("[data-testid=map-table] td[data-layer]").evaluate_all(
        "all => all.map(td => [td.dataset.layer, td.dataset.head, +td.dataset.value])"
    )
    toggle.click()
    return {(layer, head): value for layer, head, value in found}


def pythons(model: Any, *stack: Any) -> dict[tuple[str, str], float]:
    found = rs.direct_attribution(model, IOI, rs.logit_diff(" Mary", " John"), by="head", background=stack)
    assert found.heads is not None
    values = {
        (str(layer), str(head)): float(found.heads.values[layer, head])
        for layer in range(LAYERS)
        for head in range(HEADS)
    }
    return values | {
        (str(layer), "mlp"): float(found.components.select(component=f"mlp_out.{layer}").values)
        for layer in range(LAYERS)
    }


def test_every_number_is_python_s(bench: Page, model: Any) -> None:
    open_map(bench)
    want = pythons(model)
    shown = table(bench)
    assert shown.keys() == want.keys()
    assert shown == pytest.approx(want, abs=1e-4)
    texts = bench.locator("[data-testid=map] svg text").all_text_contents()
    signed = {f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}" for value in want.values() for digits in (1, 2)}
    neurons = {text for text in texts if text[0] in "+−"} - signed
    assert len([text for text in texts if text in signed]) > 30
    assert len(neurons) <= 9, "only the metric, what attention adds in all, and six neurons are no part's direct effect"


def test_a_click_and_a_key_put_an_edit_on_the_stack(bench: Page, workbench: Any, model: Any) -> None:
    open_map(bench)
    bench.mouse.click(*node(bench, 23, 3))
    expect(bench.get_by_test_id("map-selected")).to_have_text("23.3")
    bench.keyboard.press("a")
    expect(bench.locator("[data-edit]")).to_have_count(1)
    settled(bench)
    (spec,) = workbench.session.state.edits
    assert (spec.kind, spec.site, spec.head) == ("ablate", "z.23", 3) or spec.head == (3,) or spec.head == [3]
    stack = [edits.ablate("z.23", head=3)]
    after = rs.logit_diff(" Mary", " John")(model.run(IOI, edits=stack))
    assert metric(bench, "b") == pytest.approx(float(after), abs=1e-3)
    expect(bench.get_by_test_id("map")).not_to_have_attribute(
        "data-run", workbench.session.snapshot()[1]["current"]["a"]
    )
    assert table(bench) == pytest.approx(pythons(model, *stack), abs=1e-4)
    expect(bench.get_by_test_id("map-ablate")).to_have_attribute("aria-pressed", "true")
    bench.keyboard.press("a")
    expect(bench.locator("[data-edit]")).to_have_count(0)


def test_a_rectangle_is_edited_as_one(bench: Page, workbench: Any, model: Any) -> None:
    open_map(bench)
    bench.mouse.click(*node(bench, 9, 1))
    bench.keyboard.press("Shift+ArrowRight")
    bench.keyboard.press("Shift+ArrowDown")
    expect(bench.get_by_test_id("map-selected")).to_have_text("4 parts")
    bench.get_by_test_id("map-freeze").click()
    expect(bench.locator("[data-edit]")).to_have_count(2)
    bench.keyboard.press("[")
    expect(bench.locator("[data-edit]")).to_have_count(4)
    settled(bench)
    stack = [
        *(edits.freeze(f"pattern.{layer}", head=[1, 2]) for layer in (8, 9)),
        *(edits.scale(f"z.{layer}", 0.75, head=[1, 2]) for layer in (8, 9)),
    ]
    after = rs.logit_diff(" Mary", " John")(model.run(IOI, edits=stack))
    assert metric(bench, "b") == pytest.approx(float(after), abs=1e-3)
    bench.keyboard.press("]")
    expect(bench.locator("[data-edit]")).to_have_count(2)


def test_isolating_keeps_one_head_of_its_layer(bench: Page, model: Any) -> None:
    open_map(bench)
    node(bench, 23, 3)
    bench.keyboard.press("i")
    expect(bench.locator("[data-edit]")).to_have_count(1)
    settled(bench)
    after = rs.logit_diff(" Mary", " John")(model.run(IOI, edits=[edits.isolate("z.23", head=3)]))
    assert metric(bench, "b") == pytest.approx(float(after), abs=1e-3)


def test_a_drag_with_shift_takes_what_lies_between(bench: Page) -> None:
    open_map(bench)
    x, y = node(bench, 20, 2)
    box = bench.locator("[data-testid=map] svg .on").first.bounding_box()
    assert box is not None
    bench.mouse.click(x, y)
    bench.keyboard.down("Shift")
    bench.mouse.move(x, y)
    bench.mouse.down()
    bench.mouse.move(x + 2 * box["width"], y, steps=6)
    bench.mouse.up()
    bench.keyboard.up("Shift")
    expect(bench.get_by_test_id("map-selected")).to_have_text("3 parts")


def test_ablation_tints_the_heads_as_python_ablates_them(bench: Page, model: Any) -> None:
    open_map(bench)
    bench.get_by_test_id("map-tint").select_option("ablation")
    bench.get_by_test_id("map-measure").click()
    expect(bench.get_by_test_id("map-cancel")).to_be_visible()
    expect(bench.get_by_test_id("map-cancel")).to_have_count(0, timeout=120_000)
    want = rs.ablation_sweep(model, IOI, rs.logit_diff(" Mary", " John"), site="z", relative=True).values
    node(bench, 23, 3)
    shown = bench.get_by_test_id("map-tinted")
    expect(shown).to_have_text(f"{float(want[23, 3]):+.3f}".replace("-", "−"))
    bench.get_by_test_id("map-tint").select_option("direct")


def test_a_head_score_tints_them_too(bench: Page, model: Any) -> None:
    open_map(bench)
    bench.get_by_test_id("map-tint").select_option("induction")
    bench.get_by_test_id("map-measure").click()
    expect(bench.get_by_test_id("map-tinted")).to_be_visible(timeout=120_000)
    expect(bench.get_by_test_id("map-cancel")).to_have_count(0, timeout=120_000)
    want = rs.head_scores(model).select(score="induction").values
    node(bench, 23, 3)
    text = bench.get_by_test_id("map-tinted").inner_text()
    assert float(text.replace("−", "-")) == pytest.approx(float(want[23, 3]), abs=6e-4)


def test_it_is_saved_whole_in_every_ending(bench: Page, model: Any, tmp_path: Path) -> None:
    open_map(bench)
    expect(bench.locator("[data-testid=map] svg text").filter(has_text="0.93")).to_have_count(1)  # the lens is there
    files = saved(bench, bench.get_by_test_id("export"), "export", tmp_path)
    rows = opens(files)
    want = pythons(model)
    found = {(row["layer"], row["head"] or "mlp"): float(row["direct effect (logits)"]) for row in rows if row["layer"]}
    assert found == pytest.approx(want, abs=1e-4)
    words = text_of(files["svg"])
    for said in ("H8", "lens top-1", "+4.26", "embed −0.04", "Mary", "direct effect"):
        assert said in words
    assert len(files["svg"]) < 2_500_000


def test_a_pattern_and_the_sites_of_its_layer_are_shown_in_full(bench: Page, model: Any) -> None:
    open_map(bench)
    node(bench, 23, 3)
    bench.get_by_test_id("map-pattern").click()
    expect(bench.get_by_text("pattern.23 head 3")).to_be_visible()
    bench.keyboard.press("Escape")
    bench.get_by_test_id("map-sites").click()
    row = bench.get_by_role("row", name="k.23", exact=False).filter(has_text="kv_head 3 × d_head 64")
    expect(row).to_have_count(1)
    norm = float(model.run(IOI, ["k.23"])["k.23"][0, -1].norm())
    expect(row.locator("td").last).to_have_text(f"{norm:.3g}")
    bench.keyboard.press("Escape")


def test_what_cannot_be_shared_out_is_said_and_the_baseline_stays(
    bench: Page, workbench: Any, traffic: Traffic
) -> None:
    open_map(bench)
    workbench.session.intent("add_edit", {"edit": {"kind": "ablate", "site": "logits", "pos": [15], "to": "zero"}})
    expect(bench.get_by_test_id("map-refused")).to_contain_text("the logits themselves are edited")
    expect(bench.get_by_test_id("map")).to_be_visible()
    workbench.session.intent("set_edits", {"edits": []})
    expect(bench.get_by_test_id("map-refused")).to_have_count(0)
    traffic.complaints = [said for said in traffic.complaints if not ("422" in said and said.endswith("/queries/map"))]
