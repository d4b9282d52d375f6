"""The Probe tab's study, on the real model: the edit over every held-out prompt, with its controls, in Python's own numbers."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

import residscope as rs
from browser.steps import settled
from residscope.methods.patching.mediation import mediated
from residscope.methods.probes.downstream import downstream
from residscope.methods.probes.intervention import METHODS, Intervention, intervene

pytestmark = pytest.mark.browser
N, WAIT_MS = 48, 180_000


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at: two sizes, two themes."""
    if folder := os.environ.get("SHOTS"):
        for theme in ("light", "dark"):
            for width, height in ((1440, 900), (1280, 720)):
                page.set_viewport_size({"width": width, "height": height})
                page.wait_for_timeout(300)
                page.screenshot(path=Path(folder) / f"{name}-{theme}-{width}.png")
            page.get_by_test_id("theme-toggle").click()
        page.set_viewport_size({"width": 1280, "height": 720})


@pytest.fixture
def fitted(bench: Page, workbench: Any) -> Page:
    """The Probe tab with the order at S2 fitted, and its map filled."""
    bench.get_by_role("tab", name="Probe").click()
    bench.get_by_test_id("probe-n").fill(str(N))
    bench.get_by_test_id("probe-fit").click()
    expect(bench.get_by_test_id("probe-accuracy")).to_be_visible(timeout=WAIT_MS)
    expect(bench.get_by_test_id("probe-progress")).to_have_count(0, timeout=WAIT_MS)
    settled(bench)
    return bench


@pytest.fixture(scope="module")
def study(workbench: Any) -> Any:
    """The same by the library alone: the probe, the held-out half, and what an edit does to it."""
    assert workbench.session.wait(WAIT_MS / 1000)
    model = workbench.session.model
    data = rs.tasks.ioi(model, N, prefixes=False)
    train, test = data.split(by="order")
    probe = rs.fit_probe(model, train, held_out=test, site="resid_mid.18", position="S2", label="order")
    return model, test, probe


def table(view: Locator) -> dict[str, list[str]]:
    """The cells of a table by the first of each row."""
    rows = view.locator("tbody tr").evaluate_all("all => all.map(tr => [...tr.cells].map(td => td.textContent.trim()))")
    return {row[0]: row[1:] for row in rows}


def drawn(view: Locator) -> list[list[str]]:
    """What a picture draws, as the table beside it has it."""
    view.get_by_test_id("view-table").click()
    rows: list[list[str]] = view.locator("tbody tr").evaluate_all(
        "all => all.map(tr => [...tr.cells].map(td => td.dataset.value ?? td.textContent.trim()))"
    )
    view.get_by_test_id("view-table").click()
    return rows


def measure(page: Page) -> None:
    page.get_by_test_id("held-out-ask").click()
    expect(page.get_by_test_id("held-out-head").locator("progress")).to_have_count(1)
    expect(page.get_by_test_id("held-out-head").locator("progress")).to_have_count(0, timeout=WAIT_MS)
    expect(page.get_by_test_id("held-out-stale")).to_have_count(0)
    expect(page.get_by_test_id("held-out-flips")).to_be_visible(timeout=WAIT_MS)


def agree(page: Page, expected: Intervention) -> None:
    """Headline, table and both pictures say what the library says."""
    headline, told = page.get_by_test_id("held-out-flips"), expected.flips()
    assert [int(headline.get_attribute(f"data-{what}") or -1) for what in ("flips", "of")] == [told.flipped, told.right]
    expect(headline).to_contain_text(f"{100 * told.rate:.1f}%")
    expect(headline).to_contain_text(f"{100 * told.interval[0]:.1f}% to {100 * told.interval[1]:.1f}%")
    rows = table(page.get_by_test_id("held-out-outcomes"))
    for arm in ("control", "counterfactual", "random direction"):
        flips = expected.flips(arm)
        assert [int(cell) for cell in rows[arm][:2]] == [flips.flipped, flips.right]
    points = drawn(page.get_by_test_id("held-out-scatter"))
    clean = expected.arms["clean"].diff.tolist()
    edited = [*expected.arms["control"].diff.tolist(), *expected.arms["counterfactual"].diff.tolist()]
    assert len(points) == 2 * len(clean)
    for (x, y, arm, text), before, after in zip(points, [*clean, *clean], edited, strict=True):
        assert number(x) == pytest.approx(before, abs=2e-2)
        assert number(y) == pytest.approx(after, abs=2e-2)
        assert arm in ("control", "counterfactual")
        assert text
    histogram = page.get_by_test_id("held-out-histogram")
    for arm in ("clean", "control", "counterfactual"):
        expect(histogram).to_contain_text(arm)


def number(text: str) -> float:
    return float(re.sub(r"[^\d.e+-]", "", text.replace("−", "-")))


def value(page: Page, test_id: str, name: str = "data-value") -> float:
    return float(page.get_by_test_id(test_id).get_attribute(name) or "nan")


def token(page: Page, pos: int) -> Locator:
    return page.get_by_test_id("probe-tokens").get_by_role("button", name=re.compile(rf"^Token {pos}:"))


def test_the_position_is_the_probe_s_own_or_is_asked_for(fitted: Page, workbench: Any, study: Any) -> None:
    """Of a prompt that is none of its own nothing is read or edited until a person says which token is S2."""
    model, _, probe = study
    expect(fitted.get_by_test_id("probe-asks")).to_contain_text("Which token is S2 here?", timeout=30_000)
    expect(fitted.get_by_test_id("probe-reads")).to_have_count(0)
    expect(fitted.get_by_test_id("probe-slider")).to_be_disabled()
    shot(fitted, "asks")
    tokens = [tok.text for tok in workbench.session.state.prompt.tokens]
    second = max(i for i, text in enumerate(tokens) if text == " John")
    token(fitted, second).click()
    expect(fitted.get_by_test_id("probe-foreign")).to_be_visible(timeout=30_000)
    x = model.run(workbench.session.state.prompt.text, ["resid_mid.18"])["resid_mid.18"][0, second]
    log_prob = probe.log_prob(x)
    odds = float(log_prob[1] - log_prob[0])
    assert value(fitted, "probe-reads") == pytest.approx(odds, abs=0.05)

    # the handle stands at the prompt's own value, and goes from there
    slider = fitted.get_by_test_id("probe-slider")
    assert float(slider.input_value()) == pytest.approx(odds, abs=0.05)
    other = "ABBA" if odds > 0 else "BABA"
    fitted.get_by_test_id(f"probe-to-{other}").click()
    expect(fitted.get_by_test_id("probe-answer")).not_to_contain_text("…", timeout=30_000)
    (edit,) = workbench.session.snapshot()[1]["edits"]
    assert (edit["pos"], edit["to"]) == ([second], other)
    assert edit["log_alpha"] == pytest.approx(max(10, abs(odds)), abs=0.05)

    # of another token nothing is said of that edit, but that it is not there
    token(fitted, second - 3).click()
    expect(fitted.get_by_test_id("probe-stray")).to_contain_text(f"at token {second}")
    expect(fitted.get_by_test_id("probe-answer")).to_have_count(0)
    expect(fitted.get_by_test_id("probe-lands")).to_have_count(0)
    token(fitted, second).click()
    expect(fitted.get_by_test_id("probe-answer")).to_be_visible(timeout=30_000)
    workbench.session.intent("set_edits", {"edits": [{**bare(edit), "enabled": False}]})
    expect(fitted.get_by_test_id("probe-off")).to_be_visible(timeout=30_000)
    expect(fitted.get_by_test_id("probe-answer")).to_have_count(0)
    shot(fitted, "switched-off")

    # one of the task's form has its S2, though it is none of the probe's prompts
    workbench.session.intent("set_edits", {"edits": []})
    workbench.session.intent("set_prompt", {"text": "Then, Mary and John went to the store. John gave a drink to"})
    expect(fitted.get_by_test_id("probe-form")).to_be_visible(timeout=30_000)
    at = int(value(fitted, "probe-pos", "data-pos"))
    texts = [tok.text for tok in workbench.session.state.prompt.tokens]
    assert (texts[at], at) == (" John", max(i for i, text in enumerate(texts) if text == " John"))
    expect(fitted.get_by_test_id("probe-asks")).to_have_count(0)

    # of one of its own prompts it is S2 by itself, and another token is warned of
    workbench.session.intent("set_edits", {"edits": []})
    fitted.get_by_test_id("probe-try").click()
    expect(fitted.get_by_test_id("probe-reads")).to_contain_text("labelled", timeout=30_000)
    own = int(value(fitted, "probe-pos", "data-pos"))
    token(fitted, own - 1).click()
    expect(fitted.get_by_test_id("probe-astray")).to_contain_text("This is not S2")
    fitted.get_by_test_id("probe-back").click()
    expect(fitted.get_by_test_id("probe-pos")).to_have_attribute("data-pos", str(own))


def bare(edit: dict[str, Any]) -> dict[str, Any]:
    kept = ("id", "kind", "probe", "to", "log_alpha", "covariance", "site", "pos")
    return {name: edit[name] for name in kept}


def test_an_edit_over_every_held_out_prompt_is_what_intervene_says(fitted: Page, workbench: Any, study: Any) -> None:
    model, test, probe = study
    expect(fitted.get_by_test_id("held-out-edit")).to_contain_text("as sure as it was of its own")
    measure(fitted)
    (expected,) = intervene(model, test, [probe], {"LRQP": METHODS["LRQP"]})
    assert expected.flips().flipped > 5, "the edit flips answers, or nothing is compared"
    agree(fitted, expected)
    shot(fitted, "held-out")

    # a point of the picture is one of the prompts: it opens, with its own answers, read at the probe's own position
    view = fitted.get_by_test_id("held-out-scatter").locator(".picture")
    view.focus()
    view.press("ArrowRight")
    view.press("Enter")
    expect(fitted.get_by_test_id("probe-reads")).to_contain_text("labelled", timeout=30_000)
    prompt = workbench.session.state.prompt
    row = test.prompts.index(tuple(prompt.ids))
    metric = workbench.session.state.metric
    assert (metric.positive.text, metric.negative.text) == test.answers[row]
    expect(fitted.get_by_test_id("probe-pos")).to_have_attribute("data-pos", str(test.at("S2")[row]))
    assert workbench.session.snapshot()[1]["edits"] == []

    # another edit greys that answer; its own is another
    now = value(fitted, "probe-reads")
    wanted = "ABBA" if now > 0 else "BABA"
    log_alpha = 2.5
    spec = {
        "kind": "lrqp",
        "probe": fitted_name(workbench),
        "to": wanted,
        "log_alpha": log_alpha,
        "covariance": "within",
    }
    workbench.session.intent("add_edit", {"edit": {**spec, "pos": [test.at("S2")[row]]}})
    expect(fitted.get_by_test_id("held-out-stale")).to_be_visible(timeout=30_000)
    expect(fitted.get_by_test_id("held-out-edit")).to_contain_text("log-odds of at least 2.5")
    measure(fitted)
    (weaker,) = intervene(
        model, test, [probe], edits=[rs.lrqp(probe, "other", log_alpha=log_alpha, covariance="within")]
    )
    assert weaker.flips().mean_shift != pytest.approx(expected.flips().mean_shift, abs=0.05)
    agree(fitted, weaker)

    # what made it is under Methods, and its form opens as it was asked
    fitted.get_by_test_id("held-out-item").click()
    methods = fitted.get_by_test_id("methods-tab")
    expect(methods).to_contain_text("Interventions beside each other")
    methods.get_by_role("button", name="Again").click()
    expect(fitted.get_by_test_id("field-data")).to_have_value("probe")
    expect(fitted.get_by_test_id("field-data-probe")).to_have_value(fitted_name(workbench))
    expect(fitted.get_by_test_id("field-edits")).to_have_value("given")


def fitted_name(workbench: Any) -> str:
    (name,) = [name for name, one in workbench.session.state.probes.items() if one.probe.site == "resid_mid.18"]
    return str(name)


def test_the_cloud_of_every_layer_is_what_look_says(fitted: Page, workbench: Any, study: Any) -> None:
    """Small multiples: a probe's share read right beside each layer; a point opens its prompt, a layer fits the probe there."""
    model, *_ = study
    data = rs.tasks.ioi(model, N, prefixes=False)
    fitted.get_by_test_id("clouds-ask").click()
    clouds = fitted.get_by_test_id("probe-clouds")
    expect(clouds.get_by_role("img")).to_have_count(model.n_layers, timeout=WAIT_MS)
    expect(fitted.get_by_test_id("clouds-head").locator("progress")).to_have_count(0)
    expected = rs.look(model, data, label="order", position="S2")
    names = clouds.get_by_role("button", name=re.compile(r"^\d+ · ")).all_inner_texts()
    assert names == [f"{i} · {p.probe.accuracy:.0%}" for i, p in enumerate(expected.projections)]
    assert len({name.split(" · ")[1] for name in names}) > 2, "the layers differ"
    fitted.get_by_test_id("probe-clouds").scroll_into_view_if_needed()
    shot(fitted, "clouds")

    # the prompt that lies furthest from all others in layer 12 is the one that opens
    shown, image = expected.projections[12].shown, clouds.get_by_role("img").nth(12)
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box is not None
    low, span = shown.amin(0), shown.amax(0) - shown.amin(0)
    drawn_at = (shown - low) / span * torch.tensor([box["width"] - 12, 80.0]) * torch.tensor([1.0, -1.0])
    row = int(torch.cdist(drawn_at, drawn_at).fill_diagonal_(torch.inf).amin(0).argmax())
    at = {"x": 6 + float(drawn_at[row, 0]), "y": 92 - 6 + float(drawn_at[row, 1])}
    image.hover(position=at)
    expect(fitted.get_by_test_id("tip")).to_contain_text(str(data.label("order")[row]))
    image.click(position=at)
    for _ in range(100):
        if tuple(workbench.session.state.prompt.ids) == data.prompts[row]:
            break
        fitted.wait_for_timeout(100)
    assert tuple(workbench.session.state.prompt.ids) == data.prompts[row]
    expect(fitted.get_by_test_id("probe-pos")).to_have_attribute("data-pos", str(data.at("S2")[row]), timeout=30_000)
    clouds.get_by_role("button", name=re.compile(r"^12 · ")).click()
    expect(fitted.get_by_test_id("probe-numbers")).to_contain_text("order at S2, resid_mid.12", timeout=WAIT_MS)


def test_what_later_heads_make_of_it_is_what_the_methods_say(fitted: Page, workbench: Any, study: Any) -> None:
    """The heads, found on other prompts; what they report and where they look; how much runs through the movers' attention."""
    model, test, probe = study
    if len(workbench.session.state.probes) > 1:
        own = fitted.get_by_test_id("probe-choice").locator("option").filter(has_text="resid_mid.18").first
        fitted.get_by_test_id("probe-choice").select_option(own.inner_text())
    expect(fitted.get_by_test_id("probe-numbers")).to_contain_text("resid_mid.18")
    train = rs.tasks.ioi(model, N, prefixes=False).split(by="order")[0]
    expect(fitted.get_by_test_id("later-ask")).to_have_count(0)
    fitted.get_by_test_id("roles-ask").click()
    expect(fitted.get_by_test_id("role-name")).not_to_be_empty(timeout=WAIT_MS)
    (kept,) = [one for one in workbench.session._items.items.values() if one.method == "head-roles"]
    roles = kept.item
    assert kept.args["data"] == {"kind": "task", "task": "ioi", "n": 48, "seed": 1, "prefixes": False}, (
        "none of its own"
    )
    assert roles.name_movers
    assert roles.s_inhibition
    for role, heads in (("name", roles.name_movers), ("S-inhibition", roles.s_inhibition)):
        expect(fitted.get_by_test_id(f"role-{role}")).to_have_text(
            ", ".join(f"{layer}.{head}" for layer, head in heads)
        )

    arms = {"clean": [], "control": [rs.lrqp(probe, "true")], "counterfactual": [rs.lrqp(probe, "other")]}
    groups = {"these heads": roles.name_movers}
    expected = downstream(model, train, test, arms, label="order", readers=roles.s_inhibition, movers=groups)
    fitted.get_by_test_id("later-ask").click()
    views = fitted.get_by_test_id("later-views")
    expect(views.get_by_test_id("view-curve")).to_have_count(2, timeout=WAIT_MS)
    reports = drawn(views.get_by_test_id("view-curve").nth(0))
    for i, (layer, head) in enumerate(roles.s_inhibition):
        assert reports[i][0] == f"{layer}.{head}"
    shown = [[number(cell) for cell in row[1:]] for row in reports]
    for i, row in enumerate(shown):
        for value in expected.reports.values[i].tolist():
            assert any(cell == pytest.approx(value, abs=1e-3) for cell in row), (value, row)

    fitted.get_by_test_id("mediated-ask").click()
    share = fitted.get_by_test_id("mediated-share")
    expect(share).to_be_visible(timeout=WAIT_MS)
    held = mediated(model, test, [rs.lrqp(probe, "other")], groups)
    assert float(share.get_attribute("data-share") or "nan") == pytest.approx(float(held.through.values[0]), abs=0.02)
    expect(share).to_contain_text("random heads")
    fitted.get_by_test_id("probe-later").scroll_into_view_if_needed()
    shot(fitted, "later")


def test_roles_are_not_asked_of_prompts_without_their_positions(bench: Page) -> None:
    bench.get_by_role("tab", name="Probe").click()
    bench.get_by_test_id("probe-source").select_option("gender")
    bench.get_by_test_id("probe-n").fill("40")
    bench.get_by_test_id("probe-fit").click()
    expect(bench.get_by_test_id("probe-numbers")).to_contain_text("gender", timeout=WAIT_MS)
    expect(bench.get_by_test_id("probe-progress")).to_have_count(0, timeout=WAIT_MS)
    expect(bench.get_by_test_id("roles-refused")).to_contain_text("IO, S1, S2, END")
    expect(bench.get_by_test_id("roles-ask")).to_be_disabled()
