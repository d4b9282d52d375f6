"""What colour means, said and shown: the sentence and its pickers, the filled text, scales, the first screen, help."""

import re
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

import residscope as rs
from browser.steps import IOI, LAST, ROWS, choose, said, settled

pytestmark = pytest.mark.browser
PIXELS = """canvas => {
  const [rows, cols] = [ROWS, COLS];
  const g = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  g.drawImage(canvas, 0, 0);
  const [w, h] = [canvas.width / cols, canvas.height / rows];
  return Array.from({ length: rows }, (_, row) => Array.from({ length: cols }, (_, col) => {
    const [x, y] = [col * w + 4, (rows - 1 - row) * h + 3].map(Math.round);
    const at = g.getImageData(x, y, Math.round(w - 8), Math.round(h - 6)).data;
    const all = [];
    for (let i = 0; i < at.length; i += 4) all.push([at[i], at[i + 1], at[i + 2], at[i + 3]].join());
    return [...new Set(all)];
  }));
}""".replace("ROWS", str(ROWS)).replace("COLS", str(LAST + 1))
RGB = tuple[int, int, int]


def drawn(page: Page) -> list[list[list[str]]]:
    """The colours of the pixels of every cell of the grid, as `r,g,b,a`, edges left out; all rows have room."""
    page.set_viewport_size({"width": 1440, "height": 1000})
    page.mouse.move(3, 3)
    page.wait_for_timeout(400)
    found: list[list[list[str]]] = page.get_by_test_id("stream-grid").locator("canvas").first.evaluate(PIXELS)
    return found


def rgb(pixel: str) -> RGB:
    r, g, b = (int(x) for x in re.findall(r"\d+", pixel)[:3])
    return r, g, b


def redness(pixel: str) -> int:
    r, _, b = rgb(pixel)
    return r - b


def filled(page: Page) -> list[str]:
    """The background of each token of the text."""
    found: list[str] = (
        page.get_by_test_id("strip")
        .locator("[data-token]")
        .evaluate_all("all => all.map(span => getComputedStyle(span).backgroundColor)")
    )
    return found


def python(workbench: Any, layer: int, component: int) -> torch.Tensor:
    """x·d, centred by the layer's own mean, at every token."""
    d = workbench.session.state.model.dictionaries[f"pca@resid_post.{layer}"]
    x = workbench.session.model.run(IOI, ["resid_post"])[f"resid_post.{layer}"][0].float()
    return (x - d.mean) @ d.read[component]


@pytest.fixture
def newcomer(bench: Page) -> Page:
    """The page as somebody sees it who has not been here."""
    bench.evaluate(
        "for (const key of Object.keys(localStorage)) key.startsWith('residscope-page:') || localStorage.removeItem(key)"
    )
    address = bench.url.split("#")[0]
    bench.goto("about:blank")
    bench.goto(address)
    settled(bench)
    return bench


def test_a_newcomer_is_told_what_is_shown_once(newcomer: Page) -> None:
    expect(newcomer.get_by_test_id("sentence")).to_have_text(
        "Colour shows Mary − John, read through the final norm at layer 29, as centred logits, on this prompt"
    )
    last = [redness(row[LAST][0]) for row in drawn(newcomer)[1:]]
    assert max(last) > 100, "it shows something at once"
    assert min(last) < -60, "of both signs: not the wall of one colour that raw logits are"
    intro = newcomer.get_by_test_id("intro")
    expect(intro.locator("p")).to_have_count(3)
    intro.get_by_text("residual stream").click()
    expect(newcomer.get_by_test_id("help-term")).to_contain_text(rs.glossary("residual stream").what)
    newcomer.keyboard.press("Escape")
    newcomer.get_by_test_id("intro-hide").click()
    expect(intro).to_have_count(0)
    newcomer.reload()
    settled(newcomer)
    expect(newcomer.get_by_test_id("sentence")).to_be_visible()
    expect(intro).to_have_count(0)


def test_the_tour_goes_over_the_page_and_is_not_offered_twice(newcomer: Page) -> None:
    newcomer.get_by_test_id("intro-tour").click()
    tour = newcomer.get_by_test_id("tour")
    view = newcomer.viewport_size or {"width": 0, "height": 0}
    for step in range(7):
        expect(tour).to_contain_text(f"{step + 1} of 7")
        newcomer.wait_for_timeout(150)
        box = tour.bounding_box()
        assert box
        assert 0 <= box["x"] <= view["width"] - box["width"]
        assert 0 <= box["y"] <= view["height"] - box["height"]
        newcomer.get_by_test_id("tour-next").click()
    expect(tour).to_have_count(0)
    expect(newcomer.get_by_test_id("intro")).to_have_count(0)
    newcomer.reload()
    settled(newcomer)
    expect(newcomer.get_by_test_id("intro")).to_have_count(0)
    newcomer.keyboard.press("?")
    newcomer.get_by_test_id("help-tour").click()
    newcomer.keyboard.press("Escape")
    expect(tour).to_have_count(0)


def test_choosing_a_place_selects_its_direction_and_its_row(bench: Page, workbench: Any) -> None:
    choose(bench, place="pca@resid_post.23")
    expect(bench.get_by_test_id("sentence")).to_contain_text("PC 0 of layer 23, read at layer 23, as centred")
    bench.keyboard.press("j")
    expect(bench.get_by_test_id("sentence")).to_contain_text("PC 0 of layer 23, read at layer 22, as centred")
    choose(bench, direction="logit")
    choose(bench, place="pca@resid_post.0", direction=7)
    expect(bench.get_by_test_id("sentence")).to_have_text(
        "Colour shows PC 7 of layer 0, read at layer 0, as centred, on this prompt"
    )
    expect(bench.get_by_test_id("readout")).to_contain_text(f"resid_post.0 at {LAST}")
    wanted = float(python(workbench, 0, 7)[LAST])
    shown = bench.get_by_test_id("readout")
    expect(shown).to_have_attribute("data-value", re.compile(rf"^{wanted:.3f}"[:-2]))
    bench.get_by_test_id("say-place").click()
    bench.get_by_test_id("pick-place").select_option("pca@resid_pre.0")
    bench.keyboard.press("Escape")
    expect(bench.get_by_test_id("sentence")).to_contain_text("PC 7 of the embedding, read at the embedding")
    choose(bench, row=9)
    expect(bench.get_by_test_id("sentence")).to_contain_text("PC 7 of the embedding, read at layer 8")
    said(bench, "row", "resid_post.8")


def test_every_part_of_the_sentence_is_true_of_edited_runs(bench: Page, workbench: Any) -> None:
    choose(bench, place="pca@resid_post.23", direction=7, unit="unit-raw")
    expect(bench.get_by_test_id("say-run")).to_have_count(0)
    workbench.session.intent(
        "set_edits", {"edits": [{"kind": "scale", "site": "mlp_out.4", "factor": 0.5, "id": "e1"}]}
    )
    expect(bench.get_by_test_id("say-run")).to_be_visible(timeout=20_000)
    for mode, words in (("base", "unedited"), ("edit", "edited"), ("delta", "what the edits change")):
        bench.get_by_test_id("say-run").click()
        bench.get_by_test_id(f"run-{mode}").click()
        expect(bench.get_by_test_id("sentence")).to_contain_text("PC 7 of layer 23, read at layer 23, as raw x·d")
        expect(bench.get_by_test_id("say-run")).to_have_text(re.compile(f"{words}$"))
        expect(bench.get_by_test_id(f"view-{mode}")).to_have_attribute("aria-pressed", "true")


def test_layer_0_pc_7_shows_its_two_ends_in_the_grid_and_in_the_text(bench: Page, workbench: Any) -> None:
    choose(bench, place="pca@resid_post.0", direction=7)
    values = python(workbench, 0, 7)
    top, bottom = int(values[1:].argmax()) + 1, int(values[1:].argmin()) + 1
    cells = drawn(bench)
    own = cells[1]
    assert redness(own[top][0]) > 130, "today 11 % of the scale"
    assert redness(own[bottom][0]) < -130
    text = filled(bench)
    for at in range(1, LAST + 1):
        assert rgb(text[at]) == rgb(own[at][0]), f"token {at} of the text has its cell's colour"
    order = values[1:].argsort()
    shades = [redness(own[int(i) + 1][0]) for i in order]
    assert shades == sorted(shades), "what is greater is redder"
    bench.get_by_test_id("scale-open").click()
    bench.get_by_test_id("scale-whole").click()
    assert redness(drawn(bench)[1][top][0]) < 100, "one scale for the picture is of rows with greater numbers"
    bench.get_by_test_id("scale-open").click()
    bench.get_by_test_id("scale-row").click()
    assert drawn(bench)[1][top] == own[top]


@pytest.mark.parametrize("layer", [3, 6])
def test_one_token_that_stands_far_above_the_rest_drowns_no_picture(bench: Page, layer: int) -> None:
    choose(bench, place=f"pca@resid_post.{layer}", direction=0)
    paper = (247, 247, 245)

    def white() -> float:
        shown = [cell[0] for row in drawn(bench) for cell in row[1:]]
        return sum(max(abs(a - b) for a, b in zip(rgb(one), paper, strict=True)) < 24 for one in shown) / len(shown)

    assert white() < 0.35, "it was 98 %"
    bench.get_by_test_id("scale-open").click()
    bench.get_by_test_id("scale-whole").click()
    assert white() < 0.6


def test_a_sink_is_marked_down_its_whole_column_and_in_the_text(bench: Page, workbench: Any) -> None:
    sink = workbench.session.model.run(IOI, ["resid_post"])
    lengths = torch.stack([sink[f"resid_post.{i}"][0].float().norm(dim=-1) for i in range(ROWS - 1)])
    assert (lengths[:, 0] > 10 * lengths[:, 1:].median(1).values).any()
    choose(bench, place="pca@resid_post.23", direction=7)
    cells = drawn(bench)
    assert [len(row[0]) > 1 for row in cells] == [True] * ROWS, "hatched, in every row"
    assert sum(len(row[5]) > 1 for row in cells) == 0, "and nothing beside it"
    first = bench.get_by_test_id("strip").locator('[data-token="0"]')
    expect(first).to_have_css("background-image", re.compile("repeating-linear-gradient"))
    bench.get_by_test_id("strip").locator('[data-token="0"]').click()
    expect(bench.get_by_test_id("readout")).to_contain_text("attention sink")


def test_the_palette_finds_by_ordinary_words(bench: Page) -> None:
    def ask(words: str) -> None:
        bench.keyboard.press("/")
        bench.get_by_label("Command", exact=True).fill(words)
        bench.get_by_label("Command", exact=True).press("Enter")

    ask("layer 5")
    expect(bench.get_by_test_id("sentence")).to_contain_text("PC 0 of layer 5, read at layer 5")
    ask("help")
    expect(bench.get_by_test_id("help")).to_be_visible()
    bench.keyboard.press("Escape")
    ask("find a new direction")
    expect(bench.get_by_test_id("mix-slider-0")).to_be_focused()
    ask("random prompts")
    expect(bench.get_by_role("tab", name="Prompts")).to_have_attribute("aria-selected", "true")
    expect(bench.get_by_test_id("sentence")).to_contain_text("PC 0 of layer 5, read at layer 5, as centred, on")
    ask("probe")
    expect(bench.get_by_role("tab", name="Probe")).to_have_attribute("aria-selected", "true")
    ask("stream tab")
    ask("ablate")
    expect(bench.get_by_test_id("edits-list").locator("li")).to_have_count(1)


def test_nothing_that_a_picker_shows_is_cut_off(bench: Page) -> None:
    choose(bench, place="pca@resid_post.0", direction=7)
    for width, height in ((1280, 720), (1024, 768)):
        bench.set_viewport_size({"width": width, "height": height})
        room = bench.get_by_role("tabpanel").bounding_box()
        assert room
        for part in ("direction", "place", "row", "unit"):
            bench.get_by_test_id(f"say-{part}").click()
            box = bench.locator("[data-testid=sentence] [role=dialog]").bounding_box()
            assert box
            assert room["x"] <= box["x"], part
            assert box["x"] + box["width"] <= room["x"] + room["width"], part
            assert box["y"] + box["height"] <= room["y"] + room["height"], part
            bench.keyboard.press("Escape")
