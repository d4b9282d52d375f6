"""The Features tab on the real model: find a feature, read its page, take it out, follow its address."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from browser.reaching import faults, violations
from browser.steps import Traffic, settled
from residscope import features
from residscope.directions import EncoderDictionary

pytestmark = pytest.mark.browser
PLACE, WAIT = "resid_post.8", 60_000


@pytest.fixture(scope="module")
def held(workbench: Any) -> tuple[features.Atlas, EncoderDictionary]:
    """A small random dictionary with two atlases of it, on the session's shelf."""
    session = workbench.session
    assert session.wait(240)
    model, g = session.model, torch.Generator().manual_seed(0)
    x = model.run("The quick brown fox jumps over the lazy dog.", [PLACE])[PLACE][0, 1:]
    write = torch.nn.functional.normalize(torch.randn(48, 576, generator=g), dim=1)
    parts = {"mean": x.mean(0), "bias": torch.zeros(48), "base": x.mean(0)}
    sae = EncoderDictionary("sae", PLACE, write, write, **parts, activation="topk", k=6)
    session.keep("random", sae)
    other = features.gather(model, "english", sae, tokens=1000, k=3, progress=False)
    atlas = features.gather(model, "python-docs", sae, tokens=1000, k=3, progress=False)
    session.keep("prose", other)
    session.keep("docs", atlas)
    return atlas, sae


@pytest.fixture
def tab(bench: Page, held: Any) -> Page:
    bench.get_by_role("tab", name="Features").click()
    bench.get_by_test_id("atlas").select_option("docs")
    expect(bench.get_by_test_id("feature-row").first).to_be_visible(timeout=WAIT)
    return bench


def strongest(atlas: features.Atlas) -> int:
    return int(atlas.highest.nan_to_num(0).argmax())


def open_feature(page: Page, index: int) -> None:
    page.locator(f"[data-testid=feature-row][data-index='{index}']").click()
    expect(page.get_by_test_id("feature")).to_have_attribute("data-index", str(index), timeout=WAIT)
    expect(page.get_by_test_id("feature")).to_have_attribute("aria-busy", "false")


def number(page: Page, testid: str) -> float:
    return float(page.get_by_test_id(testid).get_attribute("data-value") or "nan")


def test_without_an_atlas_it_says_what_one_is_and_opens_its_form(bench: Page) -> None:
    """First of the file: the shelf is empty."""
    bench.get_by_role("tab", name="Features").click()
    expect(bench.get_by_test_id("features-none")).to_contain_text("one pass over a text")
    assert violations(bench) == []
    bench.get_by_test_id("features-gather").click()
    expect(bench.get_by_test_id("method-form")).to_contain_text("Gather features")


def test_a_list_is_pythons_and_a_page_has_pythons_numbers(tab: Page, workbench: Any, held: Any) -> None:
    atlas, sae = held
    rows = tab.get_by_test_id("feature-row")
    expect(rows).to_have_count(48)
    index = strongest(atlas)
    assert rows.first.get_attribute("data-index") == str(index)
    expect(tab.get_by_test_id("atlas-about")).to_contain_text("48 features of sae")
    open_feature(tab, index)
    made = features.page(workbench.session.model, atlas, index, sae, progress=False)
    expect(tab.get_by_test_id("feature-address")).to_have_text(made.address)
    assert number(tab, "feature-density") == pytest.approx(made.density)
    assert number(tab, "feature-highest") == pytest.approx(made.highest, rel=1e-5)
    expect(tab.get_by_test_id("effects-there")).to_be_visible(timeout=WAIT)
    first = tab.get_by_test_id("examples-first")
    first.get_by_role("button", name="Table").first.click()
    line = first.get_by_role("row").nth(1).get_by_role("cell").all_inner_texts()
    shown = [float(cell.replace("−", "-").replace(",", "")) for cell in line[:3]]
    assert shown == pytest.approx(
        [made.top[0].value, float(made.effects.gain[0]), float(made.effects.kl[0])], rel=2e-3, abs=2e-4
    )
    nearest = tab.get_by_test_id("feature-nearest").get_by_role("button")
    assert [int(nearest.nth(i).get_attribute("data-index") or -1) for i in range(3)] == [
        i for i, *_ in made.nearest[:3]
    ]
    nearest.first.click()
    expect(tab.get_by_test_id("feature")).to_have_attribute("data-index", str(made.nearest[0][0]), timeout=WAIT)


def test_features_are_found_by_a_token_a_text_and_another_feature(
    tab: Page, workbench: Any, held: Any, traffic: Traffic
) -> None:
    atlas, sae = held
    model, index = workbench.session.model, strongest(atlas)
    token = atlas.top.of(index, model)[0].token
    rows = tab.get_by_test_id("feature-row")
    for by, words, found in (
        ("token", token, features.on_token(model, atlas, token, 48)),
        ("text", "def open(file)", features.on_text(model, atlas, "def open(file)", sae, 48)),
        ("like", str(index), [one for one in features.similar(sae, sae[index], 48) if one.index != index]),
    ):
        tab.get_by_test_id("find-by").select_option(by)
        tab.get_by_test_id("find").fill(words)
        expect(rows).to_have_count(len(found), timeout=WAIT)
        expect(rows.first).to_have_attribute("data-index", str(found[0].index))
    tab.get_by_test_id("find-by").select_option("token")
    tab.get_by_test_id("find").fill("no one token")
    expect(tab.get_by_test_id("list-error")).to_contain_text("token", timeout=WAIT)
    traffic.complaints.clear()  # the browser's own, of the refusal
    tab.get_by_test_id("find").fill("")
    expect(rows).to_have_count(48)
    tab.get_by_test_id("order").select_option("index")
    expect(rows.first).to_have_attribute("data-index", "47")
    tab.get_by_test_id("descending").click()
    expect(rows.first).to_have_attribute("data-index", "0")


def test_ablating_puts_the_edit_on_the_stack_and_the_answer_changes(tab: Page, workbench: Any, held: Any) -> None:
    _, sae = held
    session = workbench.session
    a = sae.encode(session.model.run(session.state.prompt.text, [PLACE])[PLACE][0, 1:])
    index = int(a.amax(0).argmax())
    tab.get_by_test_id("list-prompt").click()
    row = tab.get_by_test_id("active-overall").get_by_test_id("active-row").first
    expect(row).to_have_attribute("data-index", str(index), timeout=WAIT)
    assert float(row.get_attribute("data-value") or "nan") == pytest.approx(float(a.max()), rel=1e-4)
    row.click()
    expect(tab.get_by_test_id("feature")).to_have_attribute("data-index", str(index), timeout=WAIT)
    tab.get_by_test_id("feature-ablate").click()
    expect(tab.locator("[data-edit]")).to_have_count(1)
    settled(tab)
    (edit,) = session.snapshot()[1]["edits"]
    assert (edit["kind"], edit["index"], edit["scale"]) == ("feature", [index], 0)
    before, after = (
        float(tab.get_by_test_id(f"result-{which}").get_attribute("data-value") or "nan") for which in "ab"
    )
    assert before != after
    expect(tab.get_by_test_id("feature-ablate")).to_have_attribute("aria-pressed", "true")
    tab.get_by_test_id("feature-ablate").click()
    expect(tab.locator("[data-edit]")).to_have_count(0)
    tab.get_by_test_id("list-all").click()


def test_two_texts_stand_side_by_side_and_it_steers_and_colours(tab: Page, workbench: Any, held: Any) -> None:
    atlas, _ = held
    index = strongest(atlas)
    open_feature(tab, index)
    tab.get_by_test_id("second-atlas").select_option("prose")
    second = tab.get_by_test_id("examples-second")
    expect(second).to_contain_text("english", timeout=WAIT)
    expect(second.locator("canvas, svg").first).to_be_visible()
    left, right = (tab.get_by_test_id(f"examples-{which}").bounding_box() for which in ("first", "second"))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) < 2
    tab.get_by_test_id("second-atlas").select_option("")
    tab.get_by_test_id("feature-steer").click()
    expect(tab.get_by_test_id("edit-kind")).to_have_value("steer")
    tab.keyboard.press("Escape")
    tab.get_by_test_id("feature-python").click()
    expect(tab.get_by_role("dialog")).to_contain_text(f"rs.features.page(model, atlas, {index}, ")
    tab.keyboard.press("Escape")
    tab.get_by_test_id("feature-colour").click()
    expect(tab.get_by_role("tab", name="Stream")).to_have_attribute("aria-selected", "true")
    expect(tab.get_by_test_id("direction-card")).to_contain_text(f"sae {index}", timeout=WAIT)


def test_an_address_opens_the_tab_at_its_feature_and_says_where_it_cannot(
    bench: Page, workbench: Any, held: Any
) -> None:
    atlas, _ = held
    address = atlas.address(7)
    bench.goto(workbench.url.split("?")[0] + f"#feature={address}")
    bench.reload()
    expect(bench.get_by_test_id("feature")).to_have_attribute("data-address", address, timeout=WAIT)
    bench.goto(workbench.url.split("?")[0] + f"#feature={quote('neuron/smollm2-135m/3/5', safe='')}")
    expect(bench.get_by_test_id("feature-astray")).to_contain_text(
        "No atlas here is of neuron/smollm2-135m/3", timeout=WAIT
    )
    bench.goto(workbench.url.split("?")[0] + "#feature=sae/another/resid_post.8/5")
    expect(bench.get_by_test_id("feature-astray")).to_contain_text("of the model another")
    name = workbench.session.keep("stray", replace(held[0], hash="0" * 64))
    try:
        bench.get_by_test_id("atlas").select_option(name)
        expect(bench.get_by_test_id("atlas-missing")).to_contain_text("is not loaded")
        expect(bench.get_by_test_id("feature-row").first).to_be_visible(timeout=WAIT)
    finally:
        workbench.session.take_off(name)
    expect(bench.get_by_test_id("atlas-missing")).to_have_count(0)


def test_a_feature_is_named_described_voted_on_and_tested_in_its_tab(tab: Page, workbench: Any, held: Any) -> None:
    atlas, _ = held
    index = strongest(atlas)
    open_feature(tab, index)
    tab.get_by_test_id("feature-name").fill("What is strongest")
    tab.get_by_test_id("feature-keep").click()
    tab.get_by_test_id("library-name").fill("Ada of the tab")
    tab.get_by_test_id("library-name-set").click()
    notes = tab.get_by_test_id("feature-notes")
    expect(notes.get_by_test_id("feature-entry")).to_have_text("What is strongest", timeout=WAIT)
    tab.get_by_test_id("library-toggle").click()
    expect(tab.locator(f"[data-testid=feature-row][data-index='{index}']")).to_contain_text("What is strongest")
    notes.get_by_test_id("feature-describe").locator("summary").click()
    notes.get_by_test_id("description-input").fill("high at what it is high at")
    notes.get_by_test_id("description-add").click()
    expect(notes.get_by_test_id("description-text")).to_have_text("high at what it is high at", timeout=WAIT)
    notes.get_by_test_id("vote-up").click()
    expect(notes.get_by_test_id("vote-up")).to_have_attribute("aria-pressed", "true")
    expect(notes.get_by_test_id("vote-up")).to_contain_text("1")
    assert violations(tab) == []
    notes.get_by_test_id("blind-start").click()
    expect(tab.get_by_test_id("blind-context")).to_be_visible(timeout=120_000)
    tab.get_by_test_id("blind-leave").click()
    tab.get_by_test_id("library-toggle").click()
    tab.reload()
    expect(tab.get_by_test_id("feature-entry")).to_have_text("What is strongest", timeout=WAIT)


def test_a_layer_is_exported_once_its_cost_is_said(tab: Page, browser: Browser, held: Any, tmp_path: Path) -> None:
    tab.get_by_test_id("export-layer").click()
    expect(tab.get_by_test_id("export-cost")).to_contain_text("48 pages, about", timeout=WAIT)
    tab.get_by_test_id("export-start").click()
    expect(tab.get_by_test_id("export-file")).to_be_visible(timeout=WAIT)
    with tab.expect_download() as coming:
        tab.get_by_test_id("export-file").click()
    coming.value.save_as(tmp_path / "pages.zip")
    with zipfile.ZipFile(tmp_path / "pages.zip") as packed:
        names = packed.namelist()
        packed.extractall(tmp_path)
    assert len(names) == 49
    (index,) = [name for name in names if name.endswith("index.html")]
    alone = browser.new_page()
    alone.goto((tmp_path / index).as_uri())
    alone.get_by_role("link").first.click()
    expect(alone.locator("canvas, svg").first).to_be_visible(timeout=WAIT)
    alone.close()


def test_the_form_that_names_features_asks_where_to(tab: Page, held: Any) -> None:
    open_feature(tab, 7)
    tab.get_by_test_id("features-name").click()
    form = tab.get_by_test_id("method-form")
    expect(form).to_contain_text("Name features")
    expect(form.get_by_test_id("field-atlas")).to_have_value("docs")
    expect(form.get_by_test_id("field-endpoint-url")).to_have_value("")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_reached_by_keys_and_readers_in_either_theme(tab: Page, held: Any, scheme: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    rows = tab.get_by_test_id("feature-row")
    rows.first.focus()
    tab.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    tab.keyboard.press("Enter")
    expect(rows.nth(1)).to_have_attribute("aria-pressed", "true")
    index = rows.nth(1).get_attribute("data-index")
    expect(tab.get_by_test_id("feature")).to_have_attribute("data-index", str(index), timeout=WAIT)
    expect(tab.get_by_test_id("effects-there")).to_be_visible(timeout=WAIT)
    assert violations(tab) == []
    for width, height in ((1280, 720), (820, 1180), (390, 844)):
        tab.set_viewport_size({"width": width, "height": height})
        assert faults(tab) == [], width
