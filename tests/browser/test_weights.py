"""The Weights tab: each method's own numbers, of the head that is selected."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import settled

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def model(bare_server: Any) -> Any:
    assert bare_server.session.wait(240)
    return rs.load(bare_server.session.snapshot()[1]["model"]["name"])


def ask(page: Page, name: str) -> Any:
    """Presses its button, and waits for its pictures."""
    page.get_by_test_id(f"{name}-ask").click()
    views = page.get_by_test_id(f"{name}-views")
    expect(views).to_be_visible(timeout=60_000)
    expect(page.get_by_test_id(f"{name}-cancel")).to_have_count(0, timeout=60_000)
    settled(page)
    return views


def values(views: Any) -> list[float]:
    found: list[float] = views.locator("td[data-value]").evaluate_all(
        "all => all.map(td => Number(td.dataset.value)).filter(x => !Number.isNaN(x))"
    )
    return found


def near(wanted: float, found: list[float]) -> bool:
    return any(value == pytest.approx(wanted, rel=1e-5, abs=1e-7) for value in found)


def test_each_method_answers_of_the_selected_head(bare: Page, model: Any) -> None:
    bare.get_by_role("tab", name="Weights").click()
    bare.get_by_test_id("weights-layer").select_option("2")
    bare.get_by_test_id("weights-head").select_option("1")
    for circuit in ("OV", "QK"):
        expect(bare.get_by_test_id(f"weights-{circuit.lower()}-head")).to_contain_text("2.1")
        views = ask(bare, f"weights-{circuit.lower()}")
        want = rs.factored(model, 2, 1, circuit, progress=False)
        expect(views).to_contain_text(f"{want.norm:.4g}")
        found = values(views)
        assert all(near(value, found) for _, _, value in want.pairs)
    views = ask(bare, "weights-directions")
    directions = rs.weight_directions(model, 2, "OV", head=1, progress=False)
    found = values(views)
    assert all(near(float(value), found) for value in directions.singular.values[:10])
    tokens = [*dict.fromkeys(bare.locator("[data-testid=weights-sources]").input_value().split(","))]
    assert len(tokens) == len({*"hello world"})
    sources = [text.replace("·", " ") for text in tokens]
    views = ask(bare, "weights-trigrams")
    trigrams = rs.skip_trigrams(model, 2, 1, sources, progress=False)
    shown = trigrams.view().to_dict()["rows"][:20]
    assert shown, "there is something to compare with"
    found = values(views)
    assert all(near(value, found) for row in shown for value in row if isinstance(value, float))


def test_who_can_speak_to_whom_is_chosen_and_beside_random(bare: Page, model: Any) -> None:
    bare.get_by_role("tab", name="Weights").click()
    bare.get_by_test_id("weights-layer").select_option("3")
    bare.get_by_test_id("weights-from").select_option("1")
    bare.get_by_test_id("weights-reads").select_option("v")
    views = ask(bare, "weights-composition")
    want = rs.composition(model, ["result.1"], ["v.3"], progress=False)
    found = values(views)
    assert all(near(score, found) and near(mean, found) for _, _, score, mean, _ in want.top(5))
    bare.get_by_test_id("weights-reads").select_option("logits")
    expect(views).to_have_count(0)
    expect(bare.get_by_test_id("weights-composition-ask")).to_be_enabled()
    expect(bare.get_by_test_id("weights-into")).to_have_count(0)


def test_an_mlp_has_its_own_matrices_and_typed_tokens_are_kept(bare: Page, model: Any) -> None:
    bare.get_by_role("tab", name="Weights").click()
    bare.get_by_test_id("weights-head").select_option("mlp")
    expect(bare.get_by_test_id("weights-ov")).to_have_count(0)
    bare.get_by_test_id("weights-W_out").click()
    layer = int(bare.get_by_test_id("weights-layer").input_value())
    views = ask(bare, "weights-directions")
    want = rs.weight_directions(model, layer, "W_out", progress=False)
    assert near(float(want.singular.values[0]), values(views))
    bare.get_by_test_id("weights-tokens").fill("a,·")
    bare.get_by_test_id("weights-tokens").press("Enter")
    views = ask(bare, "weights-path")
    rows = rs.direct_path(model, ["a", " "], progress=False).view().to_dict()["views"][0]["rows"]
    found = values(views)
    assert all(near(value, found) for row in rows for value in row if isinstance(value, float))
