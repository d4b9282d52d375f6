"""Two models side by side on the page: the second's run is run A in every view, and every number is Python's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.reaching import faults, violations
from browser.steps import IOI, LAST, LOAD_MS, cells, choose, metric, settled
from browser.test_map import open_map, table
from residscope import edits

pytestmark = pytest.mark.browser

OTHER, CALLED = "smollm2-135m+repeated-name", "+repeated-name"
ABLATE = {"kind": "ablate", "site": "z.19", "head": 3}


@pytest.fixture(scope="module")
def models(workbench: Any) -> tuple[Any, Any]:
    assert workbench.session.wait(LOAD_MS / 1000)
    return rs.load("smollm2-135m"), rs.load(OTHER)


@pytest.fixture
def two(bench: Page, workbench: Any) -> Iterator[Page]:
    """The page with the adapter's model chosen as the other, by hand."""
    bench.get_by_test_id("model-picker").click()
    bench.locator(f"[data-other='{OTHER}']").click()
    expect(bench.get_by_test_id("other-model")).to_have_attribute("data-phase", "ready", timeout=60_000)
    assert workbench.session.wait(60)
    expect(bench.get_by_test_id("view-base")).to_have_text(CALLED)
    yield bench
    workbench.session.intent("set_other", {"model": None})
    assert workbench.session.wait(60)


def difference(model: Any, *stack: Any) -> float:
    return float(rs.logit_diff(" Mary", " John")(model.run(IOI, ["logits"], edits=stack)))


def test_side_by_side_every_number_is_python_s(two: Page, models: tuple[Any, Any]) -> None:
    base, other = models
    assert metric(two, "a") == pytest.approx(difference(other), abs=1e-4)
    assert metric(two, "b") == pytest.approx(difference(base), abs=1e-4)
    expect(two.get_by_test_id("view-edit")).to_have_text("smollm2-135m")
    expect(two.get_by_test_id("run-model")).to_have_text(CALLED)
    choose(two, direction="logit", unit="logits-raw")
    mary, john = (base.token_id(text) for text in (" Mary", " John"))
    shown = {}
    for mode, model in (("base", other), ("edit", base)):
        two.get_by_test_id(f"view-{mode}").click()
        record = model.run(IOI)
        rows = torch.stack([record["resid_pre.0"][0], *(record[f"resid_post.{n}"][0] for n in range(30))])
        logits = model.lens(rows)
        shown[mode] = logits[..., mary] - logits[..., john]
        got = torch.tensor(cells(two, n_pos=LAST + 1))
        assert torch.allclose(got, shown[mode], atol=2e-3)
    two.get_by_test_id("view-delta").click()
    got = torch.tensor(cells(two, n_pos=LAST + 1))
    assert torch.allclose(got, shown["edit"] - shown["base"], atol=4e-3)


def test_edits_act_in_both(two: Page, workbench: Any, models: tuple[Any, Any]) -> None:
    base, other = models
    workbench.session.intent("set_edits", {"edits": [ABLATE]})
    assert workbench.session.wait(60)
    settled(two)
    cut = edits.ablate("z.19", head=3)
    expect(two.get_by_test_id("view-base")).to_have_text(f"{CALLED}, edited")
    assert metric(two, "a") == pytest.approx(difference(other, cut), abs=1e-4)
    assert metric(two, "b") == pytest.approx(difference(base, cut), abs=1e-4)


def test_the_map_of_both_and_the_difference_of_weights(two: Page, models: tuple[Any, Any]) -> None:
    base, other = models
    open_map(two)
    metric_ = rs.logit_diff(" Mary", " John")
    for mode, model in (("base", other), ("edit", base)):
        two.get_by_test_id(f"view-{mode}").click()
        heads = rs.direct_attribution(model, IOI, metric_).heads.values
        got = table(two)
        for layer, head in ((19, 3), (23, 5), (0, 0)):
            assert got[str(layer), str(head)] == pytest.approx(heads[layer, head].item(), abs=1e-3)
    two.get_by_test_id("map-tint").select_option("weights")
    two.get_by_test_id("map-measure").click()
    expect(two.get_by_test_id("map-tinted")).to_be_visible(timeout=60_000)
    node = two.get_by_test_id("map-readout").get_attribute("data-node") or ""
    layer, head = node.split(".")
    share = rs.weight_difference(base, other).parts.select(layer=int(layer), part=head).values.item()
    shown = two.get_by_test_id("map-tinted").inner_text()
    assert float(shown.replace("−", "-").replace("+", "")) == pytest.approx(100 * share, abs=6e-4)
    two.get_by_test_id("map-tint").select_option("direct")


def test_a_patch_from_the_other_model_by_its_form(two: Page, workbench: Any, models: tuple[Any, Any]) -> None:
    base, other = models
    workbench.session.intent(
        "add_edit", {"edit": {"kind": "patch", "site": "resid_post.20", "source": {"kind": "model", "model": OTHER}}}
    )
    assert workbench.session.wait(60)
    settled(two)
    patch = edits.patch("resid_post.20", source=other.run(IOI, ["resid_post.20"]))
    assert metric(two, "b") == pytest.approx(difference(base, patch), abs=1e-4)
    lines = workbench.session.intent("python")["code"]
    assert f"other = rs.load({OTHER!r})" in lines


def test_nothing_is_cut_and_axe_finds_nothing(two: Page) -> None:
    for theme in ("light", "dark"):
        two.get_by_test_id("model-picker").click()
        expect(two.get_by_test_id("compare-with")).to_be_visible()
        assert violations(two) == []
        assert faults(two) == []
        two.screenshot(path=str(Path("/tmp") / f"two-{theme}-picker.png"))
        two.keyboard.press("Escape")
        two.screenshot(path=str(Path("/tmp") / f"two-{theme}.png"))
        assert violations(two) == []
        two.get_by_test_id("theme-toggle").click()


def test_one_that_is_not_there_is_said_and_the_page_is_whole(bench: Page, workbench: Any) -> None:
    bench.get_by_test_id("model-picker").click()
    bench.get_by_test_id("other-name").fill("no-such-model")
    bench.get_by_test_id("other-name").press("Enter")
    expect(bench.get_by_test_id("other-model")).to_have_attribute("data-phase", "failed", timeout=20_000)
    bench.get_by_test_id("model-picker").click()
    expect(bench.get_by_test_id("other-failed")).to_contain_text("no model of that name")
    bench.get_by_test_id("compare-with").get_by_role("button", name="Put away").click()
    expect(bench.get_by_test_id("other-model")).to_have_count(0)
    expect(bench.get_by_test_id("view-base")).to_have_text("Baseline")
