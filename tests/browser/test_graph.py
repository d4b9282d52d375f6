"""The Graph tab on the real model: a graph is read, thinned, named, run again and intervened on."""

from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import IOI, Traffic, settled, type_prompt
from residscope.directions import EncoderDictionary
from residscope.graph import Graph
from residscope.graph.pruning.prune import prune

pytestmark = pytest.mark.browser
SITES, WAIT = ("resid_post.8", "resid_post.9", "resid_post.10"), 60_000


def dictionary(model: Any, site: str, seed: int) -> EncoderDictionary:
    g = torch.Generator().manual_seed(seed)
    x = model.run(IOI, [site])[site][0, 1:]
    write = torch.nn.functional.normalize(torch.randn(48, 576, generator=g), dim=1)
    parts: dict[str, Any] = {"mean": x.mean(0), "bias": torch.zeros(48), "base": x.mean(0)}
    return EncoderDictionary("sae", site, write, write, **parts, activation="topk", k=4)


@pytest.fixture(scope="module")
def graph(workbench: Any) -> Graph:
    """Of three small random dictionaries, on the session's shelf with them."""
    session = workbench.session
    assert session.wait(240)
    made = [dictionary(session.model, site, i) for i, site in enumerate(SITES)]
    for one in made:
        session.keep(one.site, one)
    found = rs.causal_graph(session.model, IOI, made, tokens=3, edges=400, progress=False)
    session.keep("ioi", found)
    return found


@pytest.fixture
def tab(bench: Page, graph: Graph) -> Page:
    bench.get_by_role("tab", name="Graph").click()
    expect(bench.get_by_test_id("graph-tab")).to_have_attribute("data-item", "ioi", timeout=WAIT)
    return bench


def counts(page: Page) -> tuple[int, int]:
    told = page.get_by_test_id("graph-counts")
    return int(told.get_attribute("data-nodes") or 0), int(told.get_attribute("data-edges") or 0)


def number(page: Page, testid: str) -> float:
    return float(page.get_by_test_id(testid).get_attribute("data-value") or "nan")


def strongest(graph: Graph) -> tuple[str, str, float]:
    """Of a feature, not of an error."""
    for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True):
        if not graph.nodes[a].is_error:
            return graph.nodes[a].id, graph.nodes[b].id, w
    raise AssertionError


def sources(graph: Graph) -> list[str]:
    """Features with an edge among those that are shown first."""
    less = prune(graph, per_level=25)
    nodes = [less.nodes[a] for a in less.source.tolist()]
    return [*dict.fromkeys(node.id for node in nodes if not node.is_error)]


def run_edge(page: Page, source: str, target: str) -> None:
    if page.get_by_test_id("graph-table-toggle").get_attribute("aria-pressed") != "true":
        page.get_by_test_id("graph-table-toggle").click()
    page.locator(f"[data-testid=graph-row][data-source='{source}'][data-target='{target}']").get_by_role(
        "button"
    ).click()
    expect(page.get_by_test_id("graph-measured")).to_be_visible(timeout=WAIT)


def choose_node(page: Page, id: str) -> None:
    """By way of an edge that it is the source of."""
    if page.get_by_test_id("graph-table-toggle").get_attribute("aria-pressed") != "true":
        page.get_by_test_id("graph-table-toggle").click()
    page.locator(f"[data-testid=graph-row][data-source='{id}']").first.get_by_role("button").click()
    page.get_by_test_id("graph-edge").locator(".link").first.click()
    expect(page.get_by_test_id("graph-node")).to_have_attribute("data-node", id)
    expect(page.get_by_test_id("graph-node")).to_have_attribute("aria-busy", "false", timeout=WAIT)


def test_without_a_graph_it_says_what_one_is_and_opens_its_form(bench: Page) -> None:
    """First of the file: the shelf is empty."""
    bench.get_by_role("tab", name="Graph").click()
    expect(bench.get_by_test_id("graph-none")).to_contain_text("takes every active feature")
    assert violations(bench) == []
    bench.get_by_test_id("graph-form").click()
    expect(bench.get_by_test_id("method-form")).to_contain_text("Causal graph")


def test_it_opens_thins_and_counts_as_python_does(tab: Page, graph: Graph) -> None:
    less = prune(graph, per_level=25)
    assert counts(tab) == (len(less.nodes), len(less.weight))
    expect(tab.get_by_test_id("graph-how")).to_contain_text("measured, each by a run of its own")
    expect(tab.get_by_test_id("view-network")).to_be_visible()
    tab.get_by_test_id("graph-all").click()
    expect(tab.get_by_test_id("graph-counts")).to_have_attribute("data-edges", str(len(graph.weight)))
    slider = tab.get_by_test_id("graph-least")
    slider.evaluate("(input) => { input.value = 0.7; input.dispatchEvent(new Event('input', { bubbles: true })); }")
    least = float(slider.get_attribute("data-value") or 0)
    less = prune(graph, least=least)
    expect(tab.get_by_test_id("graph-counts")).to_have_attribute("data-edges", str(len(less.weight)), timeout=WAIT)
    tab.get_by_test_id("graph-influence").evaluate(
        "(input) => { input.value = 0.6; input.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    less = prune(graph, least=least, influence=0.6)
    expect(tab.get_by_test_id("graph-counts")).to_have_attribute("data-nodes", str(len(less.nodes)), timeout=WAIT)
    tab.get_by_test_id("graph-path").fill("100")
    tab.get_by_test_id("graph-path").press("Enter")
    expect(tab.get_by_test_id("graph-empty")).to_contain_text("No edge is left", timeout=WAIT)
    tab.get_by_test_id("graph-empty").get_by_role("button").click()
    expect(tab.get_by_test_id("graph-counts")).to_have_attribute("data-edges", str(len(graph.weight)), timeout=WAIT)


def test_any_node_is_found_drawn_or_not(tab: Page, graph: Graph) -> None:
    drawn = {node.id for node in prune(graph, per_level=25).nodes}
    away = next(node for node in graph.nodes if node.id not in drawn)
    tab.get_by_test_id("graph-find").fill(away.id)
    tab.get_by_test_id("graph-find").press("Enter")
    panel = tab.get_by_test_id("graph-node")
    expect(panel).to_have_attribute("data-node", away.id, timeout=WAIT)
    expect(panel).to_have_attribute("aria-busy", "false", timeout=WAIT)
    expect(tab.get_by_test_id("graph-undrawn")).to_be_visible()
    assert float(tab.get_by_test_id("graph-activation").get_attribute("data-value") or "nan") == away.activation
    tab.get_by_test_id("graph-find").fill("no such thing")
    expect(tab.get_by_test_id("graph-found")).to_have_text("no such node")


def test_pointing_previews_a_click_keeps_and_keys_go_along_edges(tab: Page) -> None:
    picture = tab.get_by_test_id("graph-picture").get_by_role("application")
    picture.focus()
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_test_id("tip")).to_contain_text("of sae@resid_post.")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    first = tab.get_by_test_id("graph-node").get_attribute("data-node")
    assert first
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    expect(tab.get_by_test_id("graph-node")).not_to_have_attribute("data-node", first)
    at = picture.locator("rect.at").bounding_box()
    tab.keyboard.press("Escape")
    expect(tab.get_by_test_id("graph-hint")).to_be_visible()
    assert at is not None
    tab.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    expect(tab.get_by_test_id("tip")).to_be_visible()
    tab.mouse.click(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    expect(tab.get_by_test_id("graph-node")).to_be_visible()
    box = picture.bounding_box()
    assert box is not None
    tab.mouse.click(box["x"] + 3, box["y"] + 60)
    expect(tab.get_by_test_id("graph-hint")).to_be_visible()


def test_an_edge_is_run_again_and_its_numbers_are_python_s(tab: Page, workbench: Any, graph: Graph) -> None:
    source, target, weight = strongest(graph)
    run_edge(tab, source, target)
    assert number(tab, "graph-weight") == pytest.approx(weight, rel=1e-5)
    assert number(tab, "graph-measured") == pytest.approx(weight, abs=1e-3)
    node = graph.nodes[graph.numbers[source]]
    model = workbench.session.model
    kept = workbench.session.state.model.dictionaries[node.dictionary]
    edit = rs.edits.feature(kept, node.index, 0.0, pos=graph.provenance["positions"])
    base, without = (model.run(IOI, edits=e).logits_at()[0].softmax(-1) for e in ((), (edit,)))
    rows = tab.get_by_test_id("graph-tokens").locator("tbody tr")
    for i in range(3):
        id = int(rows.nth(i).get_attribute("data-token") or -1)
        assert float(rows.nth(i).get_attribute("data-base") or "nan") == pytest.approx(float(base[id]), abs=1e-4)
        assert float(rows.nth(i).get_attribute("data-without") or "nan") == pytest.approx(float(without[id]), abs=1e-4)


def test_a_node_is_named_and_nodes_are_grouped_and_a_reload_has_them_still(
    tab: Page, workbench: Any, graph: Graph
) -> None:
    source, _, _ = strongest(graph)
    choose_node(tab, source)
    effects = tab.get_by_test_id("graph-effects").locator("[data-value]")
    shown = [float(effects.nth(i).get_attribute("data-value") or "nan") for i in range(3)]
    assert shown == pytest.approx(graph.logits[graph.numbers[source]].tolist(), abs=1e-5)
    tab.get_by_test_id("graph-name").click()
    tab.get_by_test_id("graph-name-input").fill("names of people")
    tab.get_by_test_id("graph-name-input").press("Enter")
    expect(tab.get_by_test_id("graph-name")).to_have_text("names of people")
    tab.reload()
    expect(tab.get_by_test_id("graph-tab")).to_have_attribute("data-item", "ioi", timeout=WAIT)
    choose_node(tab, source)
    expect(tab.get_by_test_id("graph-name")).to_have_text("names of people")
    tab.get_by_test_id("graph-take").click()
    other = next(id for id in sources(graph) if id != source and id.split("/")[0] == source.split("/")[0])
    choose_node(tab, other)
    tab.get_by_test_id("graph-take").click()
    tab.get_by_test_id("graph-group-as").fill("a pair")
    tab.get_by_test_id("graph-group-do").click()
    groups = tab.get_by_test_id("graph-groups")
    expect(groups).to_contain_text("a pair", timeout=WAIT)
    assert {*workbench.session.items["ioi"].groups[0].nodes} == {source, other}
    groups.get_by_role("button", name="a pair").click()
    expect(tab.get_by_test_id("graph-group")).to_contain_text("2 nodes taken as one")
    tab.get_by_test_id("graph-ungroup").click()
    expect(groups).not_to_contain_text("a pair")
    tab.get_by_test_id("graph-undo").click()
    expect(groups).to_contain_text("a pair")
    tab.get_by_test_id("graph-undo").click()
    tab.get_by_test_id("graph-undo").click()
    expect(tab.get_by_test_id("graph-undo")).to_be_disabled()
    assert workbench.session.items["ioi"].labels == {}
    tab.get_by_test_id("graph-propose").click()
    expect(tab.get_by_test_id("graph-rule")).to_contain_text("likeness is at least 0.6", timeout=WAIT)


def test_intervening_on_a_set_puts_edits_on_the_stack_and_u_takes_them_off(
    tab: Page, workbench: Any, graph: Graph
) -> None:
    session = workbench.session
    first = sources(graph)[0].split("/")[0]
    nodes = [graph.nodes[graph.numbers[id]] for id in sources(graph) if id.split("/")[0] == first][:2]
    for node in nodes:
        choose_node(tab, node.id)
        tab.get_by_test_id("graph-take").click()
    expect(tab.get_by_test_id("graph-set")).to_have_attribute("data-count", "2")
    tab.get_by_test_id("graph-intervene").click()
    expect(tab.locator("[data-edit]")).to_have_count(1)
    settled(tab)
    (edit,) = session.snapshot()[1]["edits"]
    assert (edit["kind"], edit["scale"]) == ("feature", 0)
    assert edit["index"] == sorted(node.index for node in nodes)
    assert edit["pos"] == graph.provenance["positions"]
    expect(tab.get_by_test_id("graph-intervene")).to_have_attribute("aria-pressed", "true")
    before, after = (
        float(tab.get_by_test_id(f"result-{which}").get_attribute("data-value") or "nan") for which in "ab"
    )
    assert before != after
    tab.get_by_test_id("graph-how").click()
    tab.keyboard.press("u")
    expect(tab.locator("[data-edit]")).to_have_count(0)
    expect(tab.get_by_test_id("graph-intervene")).to_have_attribute("aria-pressed", "false")


def test_another_prompt_is_said_and_the_graph_s_own_can_be_taken(tab: Page, workbench: Any) -> None:
    type_prompt(tab, "Something else")
    tab.get_by_test_id("graph-use-prompt").click()
    settled(tab)
    assert workbench.session.state.prompt.text == IOI
    expect(tab.get_by_test_id("graph-use-prompt")).to_have_count(0)


def test_it_fills_the_screen_is_saved_and_copied(tab: Page) -> None:
    tab.get_by_test_id("graph-full").click()
    expect(tab.get_by_test_id("prompt-edit")).to_be_hidden()
    box = tab.get_by_test_id("graph-tab").bounding_box()
    assert box is not None
    assert box["width"] == 1280
    tab.get_by_test_id("graph-full").click()
    expect(tab.get_by_test_id("prompt-edit")).to_be_visible()
    tab.get_by_test_id("view-save").click()
    with tab.expect_download() as saved:
        tab.get_by_test_id("save-svg").click()
    text = saved.value.path().read_text(encoding="utf-8")
    assert "raises: taking the source out lowers the target" in text
    tab.get_by_test_id("graph-python").click()
    expect(tab.get_by_role("dialog")).to_contain_text("prune(")
    tab.keyboard.press("Escape")


def test_what_is_astray_is_said(bench: Page, workbench: Any, graph: Graph, traffic: Traffic) -> None:
    bench.goto(workbench.url.split("?")[0] + "#tab=graph&graph=nonsense")
    bench.reload()
    expect(bench.get_by_test_id("graph-astray")).to_contain_text("no graph “nonsense”", timeout=WAIT)
    id = next(
        i for i, d in workbench.session.state.model.dictionaries.items() if d.site == SITES[0] and d.name == "sae"
    )
    workbench.session.intent("forget_dictionary", {"id": id})
    try:
        bench.get_by_role("button", name="Show the latest").click()
        expect(bench.get_by_test_id("graph-missing")).to_contain_text("is not loaded", timeout=WAIT)
        bench.get_by_test_id("graph-table-toggle").click()
        bench.get_by_test_id("graph-row").first.get_by_role("button").click()
        expect(bench.get_by_test_id("graph-edge-error")).to_contain_text("not loaded", timeout=WAIT)
    finally:
        workbench.session.intent("restore_item")
    expect(bench.get_by_test_id("graph-missing")).to_have_count(0)
    expect(bench.get_by_test_id("graph-measured")).to_be_visible(timeout=WAIT)
    traffic.complaints.clear()  # the browser's own, of the refusal


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_reached_by_keys_and_readers_in_either_theme(tab: Page, graph: Graph, scheme: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    choose_node(tab, strongest(graph)[0])
    assert violations(tab) == []
    for width, height in ((1280, 720), (820, 1180), (390, 844)):
        tab.set_viewport_size({"width": width, "height": height})
        assert faults(tab) == [], width
