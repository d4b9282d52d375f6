"""Directions of any dictionary: choose, fit, mix and compare them, against the engine's own numbers."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from browser.steps import IOI, LAST, Traffic, cells, choose, drag, grid, open_mix, opened, said, settled, type_prompt

pytestmark = pytest.mark.browser
FIT_MS = 120_000
TINY_ROWS, TINY_POS = 5, 11


def shot(page: Page, name: str) -> None:
    """Into the folder that SHOTS names, for looking at."""
    if folder := os.environ.get("SHOTS"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png")


def rows_of(server: Any, text: str) -> torch.Tensor:
    """The stream's rows, as the picture has them."""
    model = server.session.model
    run = model.run(text, ["resid_pre.0", "resid_post"])
    return torch.stack(
        [run["resid_pre.0"][0], *(run[f"resid_post.{layer}"][0] for layer in range(model.n_layers))]
    ).float()


def dictionaries(server: Any) -> Any:
    return server.session.state.model.dictionaries


def same(shown: list[list[float]], wanted: torch.Tensor, *, tolerance: float = 2e-3) -> None:
    """Equal but for position 0, whose length drowns a relative tolerance."""
    found = torch.tensor(shown)[:, 1:]
    scale = wanted[:, 1:].abs().max()
    assert (found - wanted[:, 1:]).abs().max() <= tolerance * scale
    assert scale > 0


# ── the default model ───────────────────────────────────────────────────────────────────────────────────────────


def test_layer_and_component_pickers_recolour(bench: Page, workbench: Any) -> None:
    """The seed's example: layer 0, component 7."""
    choose(bench, place="pca@resid_post.0", direction=7)
    expect(bench.get_by_test_id("sentence")).to_have_text(
        "Colour shows PC 7 of layer 0, read at layer 0, as centred, on this prompt"
    )
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 7 of resid_post.0")
    expect(bench.get_by_test_id("say-unit")).to_have_attribute("title", re.compile("^Centred"))
    layer = cells(bench, n_pos=LAST + 1)[1]
    d = dictionaries(workbench)["pca@resid_post.0"]
    same([layer], ((rows_of(workbench, IOI)[1] - d.mean) @ d.read[7])[None])
    choose(bench, unit="unit-raw")
    raw = cells(bench, n_pos=LAST + 1)
    same(raw, rows_of(workbench, IOI) @ d.read[7])
    assert raw[1] != layer
    choose(bench, unit="unit-cos")
    assert all(abs(value) <= 1 for row in cells(bench, n_pos=LAST + 1) for value in row)
    choose(bench, place="pca@resid_pre.0")
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 7 of resid_pre.0")
    with opened(bench, "direction"):
        option = bench.get_by_test_id("pick-component").locator("option[value='3']")
        expect(option).to_have_text(re.compile(r"^PC 3: .+ … .+"), timeout=10_000)


def test_a_mix_of_two_dictionaries_is_dragged_without_a_request(bench: Page, workbench: Any, traffic: Traffic) -> None:
    choose(bench, direction=0)
    choose(bench, place="pca@resid_post.23")
    open_mix(bench)
    bench.get_by_test_id("mix-add").select_option("pca@resid_post.10")
    slider = "mix-slider-pca@resid_post.10-2"
    expect(bench.get_by_test_id(slider)).to_be_visible()
    before = cells(bench, n_pos=LAST + 1)
    bench.wait_for_load_state("networkidle")
    bench.get_by_test_id("mix-length").hover()
    drag(bench, slider, 0.25)
    asked = traffic.count
    during = cells(bench, n_pos=LAST + 1)
    for step in range(5):
        bench.mouse.move(bench.get_by_test_id(slider).bounding_box()["x"] + 5 + step, 0)  # type: ignore[index]
        bench.wait_for_timeout(20)
    assert traffic.count == asked
    assert during != before
    bench.mouse.up()
    bench.wait_for_timeout(600)
    assert traffic.count > asked, "the release asks for the mix's tokens, so the count does count"
    a, b = dictionaries(workbench)["pca@resid_post.23"], dictionaries(workbench)["pca@resid_post.10"]
    weight = float(bench.get_by_test_id(slider).input_value())
    assert weight < -0.2
    vector = a.read[0] + weight * b.read[2]
    length = float(bench.get_by_test_id("mix-length").get_attribute("data-value") or "nan")
    assert length == pytest.approx(float(vector.norm()), rel=1e-4), "the norm is the explicit vector's"
    assert length != pytest.approx((1 + weight**2) ** 0.5, rel=1e-3), "and not the weights'"
    choose(bench, unit="unit-raw")
    same(cells(bench, n_pos=LAST + 1), rows_of(workbench, IOI) @ (vector / vector.norm()))
    expect(bench.get_by_test_id("direction-card")).to_contain_text("mix of 2 directions")


def test_all_weights_at_zero_are_told_in_words(bench: Page) -> None:
    choose(bench, direction=1)
    bench.get_by_test_id("mix-reset").click()
    expect(bench.get_by_test_id("mix-zero")).to_contain_text("All weights are zero")
    expect(bench.get_by_test_id("no-direction")).to_be_visible()
    expect(bench.get_by_test_id("mix-reset")).to_be_disabled()


def test_algebra_leaves_what_it_says(bench: Page, workbench: Any) -> None:
    choose(bench, place="pca@resid_post.23")
    choose(bench, direction=7)
    open_mix(bench)
    bench.get_by_test_id("mix-add").select_option("pca@resid_post.22")
    bench.get_by_test_id("algebra-open").click()
    for other in ("pca@resid_post.22/7", "pca@resid_post.22/3", "pca@resid_post.23/7"):
        bench.get_by_test_id("algebra-with").select_option(other)
    near, _, itself = (bench.get_by_test_id("algebra-cos").nth(i) for i in range(3))
    expect(near).to_have_attribute("data-value", re.compile(r"\d"), timeout=10_000)
    a, b = dictionaries(workbench)["pca@resid_post.23"], dictionaries(workbench)["pca@resid_post.22"]
    assert float(near.get_attribute("data-value") or "nan") == pytest.approx(float(a.read[7] @ b.read[7]), abs=1e-4)
    assert float(itself.get_attribute("data-value") or "nan") == pytest.approx(1)
    expect(bench.get_by_test_id("cosines").get_by_test_id("view-heat_map")).to_be_visible()
    shot(bench, "algebra")
    bench.get_by_test_id("algebra-project_out").nth(2).click()
    expect(bench.get_by_test_id("algebra-failed")).to_contain_text("Nothing is left")
    bench.get_by_test_id("algebra-project_out").nth(0).click()
    assert abs(float(near.get_attribute("data-value") or "nan")) < 1e-5
    expect(bench.get_by_test_id("algebra-failed")).to_have_count(0)
    bench.get_by_test_id("algebra-add").nth(1).click()
    assert float(bench.get_by_test_id("algebra-cos").nth(1).get_attribute("data-value") or "nan") > 0.5
    bench.get_by_test_id("algebra-other").nth(2).get_by_role("button", name=re.compile("^Leave")).click()
    bench.get_by_test_id("algebra-orthogonalise").click()
    for i in range(2):
        assert abs(float(bench.get_by_test_id("algebra-cos").nth(i).get_attribute("data-value") or "nan")) < 1e-5
    # the same of the direction that edits and Python get
    bench.get_by_test_id("copy-python").click()
    expect(bench.get_by_test_id("python-code")).to_contain_text("rs.mix(")
    code = bench.get_by_test_id("python-code").inner_text()
    bench.keyboard.press("Escape")
    line = next(line for line in code.splitlines() if line.startswith("direction = "))
    mix = re.findall(r"\((-?[\d.e-]+), pca_resid_post_(\d+)\[(\d+)\]\)", line)
    made = sum(float(w) * dictionaries(workbench)[f"pca@resid_post.{site}"].read[int(i)] for w, site, i in mix)
    assert isinstance(made, torch.Tensor)
    for other in (b.read[7], b.read[3]):
        assert abs(float(torch.nn.functional.cosine_similarity(made, other, dim=0))) < 1e-3
    bench.get_by_test_id("cosines").get_by_test_id("view-table").click()
    expect(bench.get_by_test_id("cosines").get_by_test_id("view-values")).to_be_visible()


def test_a_locked_scale_stays_over_layers_and_prompts(bench: Page) -> None:
    choose(bench, direction=1)
    bench.get_by_test_id("lock").click()
    legend = bench.locator(".scale .legend")
    locked = legend.get_attribute("aria-label")
    choose(bench, place="pca@resid_post.12")
    expect(bench.get_by_test_id("direction-card")).to_contain_text("resid_post.12")
    type_prompt(bench, "The capital of France is")
    expect(bench.get_by_test_id("next-token")).to_have_attribute("data-token", " Paris", timeout=20_000)
    settled(bench)
    expect(legend).to_have_attribute("aria-label", locked or "")
    choose(bench, unit="unit-raw")
    expect(legend).not_to_have_attribute("aria-label", locked or "")
    choose(bench, unit="unit-centred")
    expect(legend).to_have_attribute("aria-label", locked or "")
    bench.get_by_test_id("lock").click()
    expect(legend).not_to_have_attribute("aria-label", locked or "")


def test_a_mix_travels_in_a_link_and_old_links_open(bench: Page, workbench: Any) -> None:
    choose(bench, place="pca@resid_post.23")
    choose(bench, direction=7)
    open_mix(bench)
    bench.get_by_test_id("mix-add").select_option("pca@resid_post.10")
    bench.get_by_test_id("algebra-open").click()
    bench.get_by_test_id("algebra-with").select_option("pca@resid_post.10/1")
    bench.get_by_test_id("algebra-subtract").click()
    before = cells(bench, n_pos=LAST + 1)
    bench.wait_for_timeout(400)
    link = bench.url
    assert len(link) < 300
    bench.goto("about:blank")
    bench.goto(link)
    settled(bench)
    expect(bench.get_by_test_id("mix-length")).to_be_visible()
    bench.wait_for_timeout(500)
    again = cells(bench, n_pos=LAST + 1)
    assert max(abs(x - y) for a, b in zip(again, before, strict=True) for x, y in zip(a[1:], b[1:], strict=True)) < 1e-2
    bench.goto("about:blank")
    bench.goto(f"http://127.0.0.1:{workbench.port}/#dir=mix&w=3:1&site=resid_post.9")
    settled(bench)
    expect(bench.get_by_test_id("direction-card")).to_contain_text("PC 3 of resid_post.9")
    said(bench, "direction", "3")


def test_the_picture_of_a_mix_in_both_themes(bench: Page) -> None:
    bench.set_viewport_size({"width": 1440, "height": 900})
    choose(bench, place="pca@resid_post.23")
    choose(bench, direction=7)
    open_mix(bench)
    bench.get_by_test_id("mix-add").select_option("pca@resid_post.10")
    bench.get_by_test_id("algebra-open").click()
    for other in ("pca@resid_post.10/1", "pca@resid_post.23/7", "pca@resid_post.23/3"):
        bench.get_by_test_id("algebra-with").select_option(other)
    bench.get_by_test_id("algebra-add").nth(0).click()
    bench.mouse.move(5, 500)
    bench.wait_for_timeout(900)
    for theme in ("light", "dark"):
        shot(bench, f"directions-{theme}")
        expect(bench.get_by_test_id("cosines").get_by_test_id("view-heat_map")).to_be_visible()
        bench.get_by_test_id("fit-open").click()
        expect(bench.get_by_test_id("scree").get_by_test_id("view-curve")).to_be_visible()
        shot(bench, f"fit-{theme}")
        bench.keyboard.press("Escape")
        bench.get_by_test_id("theme-toggle").click()


# ── a tiny GPT-2, for which nothing ships ───────────────────────────────────────────────────────────────────────


def open_panel(page: Page) -> None:
    if page.get_by_test_id("fit-open").get_attribute("aria-expanded") != "true":
        page.get_by_test_id("fit-open").click()


def field(page: Page, name: str) -> Locator:
    return page.get_by_test_id("fit-panel").get_by_test_id(f"field-{name}")


def open_form(page: Page, method: str, **fields: str) -> None:
    """The form of a method, filled in; `site_layer` is the number beside `site`."""
    open_panel(page)
    page.get_by_test_id("fit-method").select_option(method)
    for name, value in fields.items():
        there = field(page, name.replace("_", "-"))
        if there.evaluate("e => e.tagName") == "SELECT":
            there.select_option(value)
        else:
            there.fill(value)


def chosen(page: Page, id: str) -> str:
    """Waits until a dictionary is chosen; answers its whole id, which has a number where the name was given before."""
    place = page.get_by_test_id("say-place")
    expect(place).to_have_attribute("data-value", re.compile(rf"^{re.escape(id)}(#\d+)?$"), timeout=FIT_MS)
    page.keyboard.press("Escape")
    return place.get_attribute("data-value") or ""


def test_components_are_fitted_from_the_page_and_their_scree_shows(bare: Page, bare_server: Any) -> None:
    expect(bare.get_by_test_id("say-place")).to_have_count(0)
    shot(bare, "none")
    open_panel(bare)
    expect(bare.get_by_test_id("fit-method")).to_have_value("pca-stream")
    expect(field(bare, "sites")).to_have_value("stream")
    open_form(bare, "pca-stream", tokens="2000", n="6")
    expect(bare.get_by_test_id("fit-cost")).to_contain_text("about", timeout=10_000)
    bare.get_by_test_id("fit-start").click()
    expect(bare.get_by_test_id("notice").first).to_contain_text(f"Fitted at {TINY_ROWS} places", timeout=FIT_MS)
    with opened(bare, "direction"):
        expect(bare.get_by_test_id("pick-place").locator("option")).to_have_count(TINY_ROWS)
    open_panel(bare)
    scree = bare.get_by_test_id("scree").get_by_test_id("view-curve")
    expect(scree).to_be_visible(timeout=10_000)
    shot(bare, "scree")
    scree.get_by_test_id("view-table").click()
    rows = scree.locator("tbody tr")
    expect(rows).to_have_count(6)
    shares = [[float(td.get_attribute("data-value") or "nan") for td in row.locator("td").all()] for row in rows.all()]
    each, cumulative = [row[1] for row in shares], [row[2] for row in shares]
    assert each == sorted(each, reverse=True)
    assert cumulative[-1] == pytest.approx(sum(each))
    assert 0 < cumulative[-1] <= 100.01
    bare.keyboard.press("Escape")
    bare.keyboard.press("Escape")
    choose(bare, direction=2)
    shown = grid(bare, rows=TINY_ROWS, n_pos=TINY_POS)
    site = bare.get_by_test_id("say-place").get_attribute("data-value") or ""
    d = dictionaries(bare_server)[site]
    layer = int(site.rsplit(".", 1)[1]) + 1
    same([shown[layer]], ((rows_of(bare_server, "hello world")[layer] - d.mean) @ d.read[2])[None])
    choose(bare, place="pca@resid_pre.0")
    expect(bare.get_by_test_id("direction-card")).to_contain_text("PC 2 of resid_pre.0")
    assert grid(bare, rows=TINY_ROWS, n_pos=TINY_POS) != shown


def test_nmf_says_why_it_refuses_and_fits_with_clip(bare: Page, bare_server: Any) -> None:
    open_form(bare, "nmf", site="mlp_post", site_layer="2", tokens="1000", n="4")
    bare.get_by_test_id("fit-start").click()
    failed = bare.get_by_test_id("fit-jobs").get_by_role("alert")
    expect(failed).to_contain_text(re.compile("negative"), timeout=FIT_MS)
    shot(bare, "refused")
    bare.get_by_test_id("fit-jobs").get_by_role("button", name="Dismiss").click()
    expect(bare.get_by_test_id("fit-jobs")).to_have_count(0)
    field(bare, "clip").check()
    bare.get_by_test_id("fit-start").click()
    id = chosen(bare, "nmf@mlp_post.2")
    expect(bare.get_by_test_id("direction-card")).to_contain_text("NMF 0 of mlp_post.2", timeout=10_000)
    said(bare, "unit", "raw")
    with opened(bare, "unit"):
        expect(bare.get_by_test_id("unit-centred")).to_be_disabled()
    shown = grid(bare, rows=4, n_pos=TINY_POS)
    d = dictionaries(bare_server)[id]
    run = bare_server.session.model.run("hello world", ["mlp_post"])
    same(shown, torch.stack([run[f"mlp_post.{layer}"][0] for layer in range(4)]).float() @ d.read[0])
    expect(bare.get_by_test_id("stream-grid").locator("tbody th").first).to_have_text("mlp_post.3")
    shot(bare, "nmf")


def test_a_standardised_fit_is_shown_in_the_space_it_was_fitted_in(bare: Page, bare_server: Any) -> None:
    open_form(bare, "pca", site="resid_post", site_layer="1", tokens="1000", n="4")
    field(bare, "standardise").check()
    bare.get_by_test_id("fit-start").click()
    said(bare, "unit", "standardised")
    d = dictionaries(bare_server)[chosen(bare, "pca@resid_post.1")]
    expect(bare.get_by_test_id("say-unit")).to_have_attribute("title", re.compile("^Standardised"))
    layer = grid(bare, rows=TINY_ROWS, n_pos=TINY_POS)[2]
    same([layer], d.encode(rows_of(bare_server, "hello world")[2])[:, 0][None])


def test_unembedding_rows_read_logits(bare: Page, bare_server: Any) -> None:
    open_form(bare, "unembedding-rows", tokens="o,l")
    bare.get_by_test_id("fit-start").click()
    said(bare, "unit", "folded")
    bare.keyboard.press("Escape")
    expect(bare.get_by_test_id("say-unit")).to_have_attribute("title", re.compile("^Norm-folded"))
    last = grid(bare, rows=TINY_ROWS, n_pos=TINY_POS)[-1]
    model = bare_server.session.model
    logits = model.run("hello world", ["logits"]).logits[0, :, model.token_id("o")].float()
    assert last == pytest.approx(logits.tolist(), abs=1e-3)


def test_a_fit_is_cancelled_and_a_dictionary_forgotten(bare: Page, bare_server: Any) -> None:
    open_form(bare, "svd", site="resid_post", site_layer="0", tokens="1000", n="3")
    bare.get_by_test_id("fit-start").click()
    svd = chosen(bare, "svd@resid_post.0")
    open_form(bare, "pca-stream", tokens="1000000")
    bare.get_by_test_id("fit-start").click()
    line = bare.get_by_test_id("fit-jobs").locator("li")
    expect(line).to_have_attribute("data-phase", "running", timeout=FIT_MS)
    expect(line).to_contain_text(re.compile(r"Reading the text \d+ %"), timeout=FIT_MS)
    expect(bare.get_by_test_id("fit-progress")).to_have_text(re.compile(r"^\d+%$"))
    shot(bare, "fitting")
    line.get_by_role("button", name="Cancel").click()
    expect(line).to_have_count(0, timeout=FIT_MS)
    expect(bare.get_by_test_id("fit-start")).to_be_visible()
    with opened(bare, "place"):
        expect(bare.get_by_test_id("pick-kind")).to_have_count(0)
    assert list(dictionaries(bare_server)) == [svd]
    open_panel(bare)
    bare.get_by_test_id("fit-forget").click()
    expect(bare.get_by_test_id("say-place")).to_have_count(0)
    assert not dictionaries(bare_server)
    assert bare_server.session.snapshot()[1]["items"]["items"] == []


def test_what_cannot_be_fitted_is_said_before_it_is_run(bare: Page, bare_server: Any, traffic: Traffic) -> None:
    open_form(bare, "pca", site="z", site_layer="1", tokens="1000", n="3")
    expect(bare.get_by_test_id("fit-cost").get_by_role("alert")).to_contain_text("say which", timeout=10_000)
    field(bare, "head").fill("1")
    field(bare, "head").blur()
    expect(bare.get_by_test_id("fit-cost")).to_contain_text("about", timeout=10_000)
    field(bare, "n").fill("900")
    expect(bare.get_by_test_id("fit-cost").get_by_role("alert")).to_contain_text("1 to 8", timeout=10_000)
    field(bare, "n").fill("3")
    bare.get_by_test_id("fit-start").click()
    id = chosen(bare, "pca@z.1.h1")
    assert len(dictionaries(bare_server)[id]) == 3
    traffic.forgive_prices()


def test_a_difference_of_two_typed_texts_and_a_file(bare: Page, bare_server: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join('{"text": "the cat sat on the mat and was glad of it"}' for _ in range(60)))
    open_form(bare, "mean-difference", site="resid_post", site_layer="3", tokens="1000")
    expect(field(bare, "corpora-second-why")).to_contain_text("Type the second text first")
    expect(bare.get_by_test_id("fit-start")).to_be_disabled()
    field(bare, "corpora-second-typed").fill("no dogs barked here today, none at all\n\n" * 60)
    field(bare, "corpora-first").select_option("file")
    field(bare, "corpora-first-file").set_input_files(str(file))
    expect(field(bare, "corpora-first-why")).to_have_count(0)
    bare.get_by_test_id("fit-start").click()
    chosen(bare, "mean_difference@resid_post.3")
    expect(bare.get_by_test_id("direction-card")).to_contain_text("mine.jsonl", timeout=10_000)
