"""The Heads tab: every number on it is Python's, of the same model, and a pattern is read token by token."""

import re
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import IOI, LOAD_MS, Traffic, settled

pytestmark = pytest.mark.browser
LAYER, HEAD, END, IO = 23, 3, 15, 3
METRIC = rs.logit_diff(" Mary", " John")


@pytest.fixture(scope="module")
def model(workbench: Any) -> Any:
    assert workbench.session.wait(LOAD_MS / 1000)
    return rs.load("smollm2-135m")


@pytest.fixture(scope="module")
def rec(model: Any) -> Any:
    return model.run(IOI, capture=["pattern", "v"])


def open_heads(page: Page) -> None:
    page.get_by_role("tab", name="Heads", exact=True).click()
    expect(page.get_by_test_id("heads-tab")).to_be_visible()
    drawn(page)


def drawn(page: Page) -> None:
    expect(page.get_by_test_id("heads-left")).to_be_visible(timeout=20_000)  # until all are read, any head's is shown
    expect(page.locator("[data-testid=heads-pattern]:not([data-behind])")).to_be_visible(timeout=20_000)
    settled(page)


def told(page: Page, way: str) -> dict[int, float]:
    rows = page.get_by_test_id(f"heads-{way}-list").locator("[data-token]")
    return dict(rows.evaluate_all("all => all.map(row => [+row.dataset.token, +row.dataset.value])"))


def five(values: torch.Tensor) -> dict[int, float]:
    best = values.topk(min(5, int((values > 0).sum())))
    return dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def table(matrix: Locator) -> list[list[float]]:
    """The values of a picture of all heads, from the table beside it: the last layer first, each row its layer's name first."""
    matrix.get_by_test_id("view-table").click()
    rows = matrix.locator("tbody tr").evaluate_all(
        "all => all.map(row => [...row.cells].map(td => td.dataset.value === undefined ? NaN : +td.dataset.value))"
    )
    matrix.get_by_test_id("view-table").click()
    return [list(map(float, row)) for row in rows]


def cell(page: Page, layer: int, head: int) -> None:
    """Picks a head where it is drawn."""
    box = page.get_by_test_id("heads-left").locator("rect.out").first.bounding_box()
    assert box is not None
    at = page.get_by_test_id("heads-picked").inner_text().split(".")
    w, h = box["width"] - 4, box["height"] - 4  # a cell, with the gap beside it
    page.mouse.click(
        box["x"] + box["width"] / 2 + (head - int(at[1])) * w, box["y"] + box["height"] / 2 + (int(at[0]) - layer) * h
    )
    expect(page.get_by_test_id("heads-picked")).to_have_text(f"{layer}.{head}")


def test_every_head_and_mlp_has_its_direct_effect_and_a_click_picks_it(bench: Page, model: Any) -> None:
    open_heads(bench)
    found = rs.direct_attribution(model, IOI, METRIC, progress=False)
    heads, mlp = found.heads.values, found.components.select(component=[f"mlp_out.{n}" for n in range(30)]).values
    rows = table(bench.get_by_test_id("heads-left"))
    assert len(rows) == 30
    for layer, *values in rows:
        want = [*heads[int(layer)].tolist(), float(mlp[int(layer)])]
        assert values == pytest.approx(want, abs=2e-4)
    expect(bench.get_by_test_id("heads-picked")).to_have_text("23.3")
    expect(bench.get_by_test_id("heads-worth")).to_contain_text(f"+{float(heads[LAYER, HEAD]):.2f}")
    cell(bench, 24, 4)
    drawn(bench)
    expect(bench.get_by_test_id("heads-worth")).to_contain_text(f"−{abs(float(heads[24, 4])):.2f}")


def test_a_pattern_is_told_token_by_token_plain_and_weighted(bench: Page, model: Any, rec: Any) -> None:
    open_heads(bench)
    pattern = rec["pattern", LAYER][0, HEAD]
    assert told(bench, "out") == pytest.approx(five(pattern[END]), abs=1e-5)
    grid = bench.get_by_test_id("heads-grid-picture")
    left, top, size = (float(grid.get_attribute(f"data-{name}") or 0) for name in ("left", "top", "cell"))
    grid.hover(position={"x": left + 9.5 * size, "y": top + 10.5 * size})
    expect(bench.get_by_test_id("heads-inout")).to_have_attribute("data-token", "10")
    assert told(bench, "out") == pytest.approx(five(pattern[10]), abs=1e-5)
    assert told(bench, "in") == pytest.approx(five(pattern[:, 10]), abs=1e-5)
    expect(bench.get_by_test_id("tip")).to_contain_text(f"{float(pattern[10, 9]):.3f}")
    bench.get_by_test_id("heads-weighted").check()
    drawn(bench)
    attention = model.hf.model.layers[LAYER].self_attn
    W_O = attention.o_proj.weight[:, HEAD * 64 : (HEAD + 1) * 64].detach()
    weighted = pattern * (rec["v", LAYER][0, :, HEAD // 3] @ W_O.T).norm(dim=-1)
    bench.mouse.move(0, 0)
    expect(bench.get_by_test_id("heads-inout")).to_have_attribute("data-token", str(END))
    assert told(bench, "out") == pytest.approx(five(weighted[END]), rel=1e-4)


def test_a_token_of_the_text_and_of_the_lines_shows_who_attends_to_it(bench: Page, rec: Any) -> None:
    open_heads(bench)
    pattern = rec["pattern", LAYER][0, HEAD]
    bench.get_by_test_id("heads-text").click()
    bench.get_by_test_id("heads-in").click()
    token = bench.locator("[data-testid=heads-text-tokens] [data-pos='9']")
    token.click()
    expect(bench.get_by_test_id("heads-inout")).to_have_attribute("data-token", "9")
    shades = bench.locator("[data-testid=heads-text-tokens] [data-pos]").evaluate_all(
        "all => all.map(span => !!span.style.background)"
    )
    assert shades == [query >= 9 for query in range(16)], "only what comes after attends to it"
    bench.get_by_test_id("heads-lines").click()
    lines = bench.get_by_test_id("heads-lines-picture")
    bench.locator("[data-testid=heads-lines-picture] [data-pos='9'][data-way='in']").hover()
    expect(lines).to_have_attribute("data-drawn", str(int((pattern[:, 9] >= 0.004).sum())))
    bench.get_by_test_id("heads-unlock").click()
    bench.locator(f"[data-testid=heads-lines-picture] [data-pos='{END}'][data-way='out']").hover()
    expect(lines).to_have_attribute("data-drawn", str(int((pattern[END] >= 0.004).sum())))


def test_heads_that_look_from_one_token_to_another_are_found_and_looked_at_together(bench: Page, rec: Any) -> None:
    open_heads(bench)
    patterns = torch.stack([rec["pattern", layer][0] for layer in range(30)])

    def found(query: int, key: int) -> None:
        best = patterns[:, :, query, key].flatten().topk(10)
        rows = bench.get_by_test_id("heads-found").locator("button")
        expect(rows).to_have_count(10)
        names = [f"{i // 9}.{i % 9}" for i in best.indices.tolist()]
        expect(rows.first).to_have_attribute("data-head", names[0], timeout=20_000)
        got = rows.evaluate_all("all => all.map(row => [row.dataset.head, +row.dataset.value])")
        assert [name for name, _ in got] == names
        assert [value for _, value in got] == pytest.approx(best.values.tolist(), abs=1e-5)

    found(END, IO)
    bench.get_by_test_id("heads-from").select_option("9")
    bench.get_by_test_id("heads-to").select_option("1")
    found(9, 1)
    rows = bench.get_by_test_id("heads-found").locator("button")
    names = [tuple(map(int, rows.nth(i).inner_text().split()[0].split("."))) for i in range(2)]
    rows.nth(0).click()
    rows.nth(1).click(modifiers=["Shift"])
    expect(bench.get_by_test_id("heads-picked")).to_have_text("Mean of 2 heads")
    drawn(bench)
    both = torch.stack([patterns[layer, head] for layer, head in names])
    assert told(bench, "out") == pytest.approx(five(both.mean(0)[END]), abs=1e-5)
    bench.get_by_test_id("heads-max").click()
    drawn(bench)
    assert told(bench, "out") == pytest.approx(five(both.amax(0)[END]), abs=1e-5)


def test_an_edited_run_has_its_own_pattern_and_the_difference(
    bench: Page, workbench: Any, model: Any, rec: Any
) -> None:
    open_heads(bench)
    bench.get_by_test_id("heads-found").locator("button").first.click()
    name = bench.get_by_test_id("heads-picked").inner_text()
    layer, head = map(int, name.split("."))
    workbench.session.intent(
        "set_edits", {"edits": [{"kind": "ablate", "site": f"resid_pre.{layer}", "to": "zero", "pos": [IO]}]}
    )
    expect(bench.get_by_test_id("heads-of")).to_have_text("of edited", timeout=30_000)
    drawn(bench)
    cut = model.run(IOI, capture=[f"pattern.{layer}"], edits=[rs.edits.ablate(f"resid_pre.{layer}", pos=IO)])
    after, before = cut["pattern", layer][0, head], rec["pattern", layer][0, head]
    assert told(bench, "out") == pytest.approx(five(after[END]), abs=1e-4)
    bench.get_by_test_id("view-delta").click()
    drawn(bench)
    change = (after - before)[END]
    assert told(bench, "out")[IO] == pytest.approx(float(change[IO]), abs=1e-4)


def test_jobs_fill_what_they_measure_and_any_two_measures_make_a_scatter(bare: Page, bare_server: Any) -> None:
    open_heads(bare)
    model, metric = rs.load(bare_server.session.snapshot()[1]["model"]["name"]), bare_server.session.state.metric
    diff = rs.logit_diff(metric.positive.text, metric.negative.text)
    bare.get_by_test_id("heads-right-ask").click()
    right = bare.get_by_test_id("heads-right")
    expect(right.locator(".picture")).to_be_visible(timeout=60_000)
    expect(right.locator(".job button")).to_have_count(0, timeout=60_000)
    settled(bare)
    want = rs.ablation_sweep(model, "hello world", diff, relative=True, progress=False).values
    mlp = rs.ablation_sweep(model, "hello world", diff, site="mlp_out", relative=True, progress=False).values
    for layer, *values in table(right):
        assert values == pytest.approx([*want[int(layer)].tolist(), float(mlp[int(layer)])], abs=1e-5)
    bare.get_by_test_id("heads-scatter").click()
    expect(bare.get_by_test_id("heads-cloud").locator(".picture")).to_be_visible()
    bare.get_by_test_id("heads-cloud").get_by_test_id("view-table").click()
    rows = bare.get_by_test_id("heads-cloud").locator("tbody tr")
    expect(rows).to_have_count(16)
    cells = rows.evaluate_all("all => all.map(row => [...row.cells].map(td => td.dataset.value))")
    by_name = {next(text for text in row if text.count(".") == 1 and len(text) == 3): row for row in cells}
    for layer in range(4):
        for head in range(4):
            ups = [float(text) for text in by_name[f"{layer}.{head}"]]
            assert any(value == pytest.approx(float(want[layer, head]), abs=1e-5) for value in ups)


def test_what_fails_says_so_and_is_tried_again_and_an_mlp_has_no_pattern(bench: Page, traffic: Traffic) -> None:
    refusal = {"type": "UnknownHead", "message": "no such head at all", "received": None, "allowed": None, "fix": None}
    bench.route("**/queries/attention", lambda route: route.fulfill(status=422, json={"error": refusal}))
    bench.get_by_role("tab", name="Heads", exact=True).click()
    expect(bench.get_by_test_id("heads-refused")).to_contain_text("no such head at all", timeout=20_000)
    bench.unroute("**/queries/attention")
    bench.get_by_test_id("heads-refused").get_by_role("button").click()
    drawn(bench)
    traffic.complaints = [said for said in traffic.complaints if "422" not in said]
    bench.get_by_test_id("heads-left").locator(".picture").focus()
    for key in ("ArrowRight",) * 10 + ("Enter",):
        bench.keyboard.press(key)
    expect(bench.get_by_test_id("heads-mlp")).to_be_visible()
    expect(bench.get_by_test_id("heads-picked")).to_have_text("mlp 29")


def test_nothing_is_cut_and_everything_is_reached(bench: Page) -> None:
    open_heads(bench)
    for how in ("text", "lines", "grid"):
        bench.get_by_test_id(f"heads-{how}").click()
        for width in (1440, 390):
            bench.set_viewport_size({"width": width, "height": 800})
            bench.wait_for_timeout(150)
            assert faults(bench) == []
        bench.set_viewport_size({"width": 1280, "height": 720})
        bench.wait_for_timeout(100)
        assert violations(bench) == []


def test_the_pattern_does_not_wait_for_the_whole_map_and_the_link_keeps_the_tab(
    bench: Page, workbench: Any, traffic: Traffic
) -> None:
    bench.goto(f"{workbench.url.split('#')[0]}#tab=heads&node=7.2&heads=attention.direct,,text,mean,weighted,in,9,,3")
    sent = len(traffic.urls)
    bench.reload()
    settled(bench)
    expect(bench.get_by_test_id("heads-picked")).to_have_text("7.2")
    expect(bench.get_by_test_id("heads-worth")).to_contain_text("direct", timeout=60_000)  # the map is here
    asked = [url.rsplit("/", 1)[-1] for url in traffic.urls[sent:]]
    assert asked.index("attention") < asked.index("map")
    expect(bench.get_by_test_id("heads-text")).to_have_attribute("aria-pressed", "true")
    expect(bench.get_by_test_id("heads-weighted")).to_be_checked()
    expect(bench.get_by_test_id("heads-inout")).to_have_attribute("data-token", "9")
    expect(bench.get_by_test_id("heads-to")).to_have_value("3", timeout=20_000)
    bench.get_by_test_id("heads-grid").click()
    expect(bench).to_have_url(re.compile(r"heads=attention\.direct(,|%2C){2}grid"))
