"""A frozen page in a real browser: every kind, from a file, in both themes, wide and narrow."""

import math
import random
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.steps import Traffic
from residscope import views
from residscope.views import (
    Card,
    Curve,
    Grid,
    HeatMap,
    Histogram,
    Line,
    Network,
    NetworkEdge,
    NetworkNode,
    Pattern,
    Reference,
    Scatter,
    Table,
    Text,
    TokenStrip,
)

pytestmark = pytest.mark.browser

EVIL = "</script><img src=x onerror=\"document.title='broken'\">\u202e"
TOKENS = ["When", " John", " and", " Mary", " went", " to", " the", " store", ",", "\n", EVIL, " 日本"]
KINDS = [
    "heat_map",
    "curve",
    "histogram",
    "scatter",
    "token_strip",
    "network",
    "pattern",
    "table",
    "text",
    "card",
    "grid",
]
SIGNS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let red = 0, blue = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] > 200 && data[i] - data[i + 2] > 60) red++;
    if (data[i + 3] > 200 && data[i + 2] - data[i] > 60) blue++;
  }
  return [red, blue];
}"""
OVERLAPS = """svgs => svgs.flatMap(svg => {
  const all = [...svg.querySelectorAll("text")].map(text => {
    const { left, right, top, bottom } = text.getBoundingClientRect();
    const inset = Math.min(right - left, bottom - top) * 0.2; // a line is taller than its letters
    return { text: text.textContent, left: left + inset, right: right - inset, top: top + inset, bottom: bottom - inset };
  });
  return all.flatMap((a, i) => all.slice(i + 1)
    .filter(b => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(b => `${a.text} / ${b.text}`));
})"""


def one_of_each() -> list[views.View]:
    rng = random.Random(0)
    normal = [rng.gauss(0, 1) for _ in range(700)]
    n = len(TOKENS)
    effects = [[math.sin(layer * pos) for pos in range(n)] for layer in range(30)]
    effects[3][4], effects[5][6], effects[7][8] = 2.5, math.nan, -math.inf
    attention = [[1 / (query + 1) if key <= query else 0.0 for key in range(n)] for query in range(n)]
    band = Line("mean", [1, 2, math.nan, 4], low=[0, 1, 2, 3], high=[2, 3, 4, 5])
    pictures = [
        HeatMap(
            effects, range(30), TOKENS, title="Effects", unit="logits", row_title="layer", limit=1.0, bottom_up=True
        ),
        Pattern(TOKENS, attention, title="Head 23.3"),
        Curve(
            [0, 1, 2, 3],
            [band, Line("chance", [1] * 4, dashed=True)],
            title="By layer",
            references=[Reference(1, "here")],
        ),
        Curve([f"resid_post.{i}" for i in range(40)], [Line("a", range(40))], title="Many labels", y_title="accuracy"),
        Histogram({"clean": normal, "edited": [x + 2 for x in normal[:90]]}, title="Margins", unit="logits"),
        Scatter(normal, normal[::-1], groups=["ABBA" if x > 0 else "BABA" for x in normal], title="Many points"),
        Scatter([0.0, 1.0], [1.0, 0.0], texts=["one", EVIL], diagonal=True, title="Two points"),
        TokenStrip(TOKENS, [math.nan, *range(-5, 6)], title="Tokens"),
        Network(
            [
                NetworkNode(f"n{i}", f"sae {i}", i % 7, i // 7, value=i - 9.0, link="https://example.org/")
                for i in range(20)
            ]
            + [NetworkNode("evil", EVIL, 6.0, 2.0, error=True)],
            [NetworkEdge(i, i + 7 if i < 13 else 20, math.sin(i)) for i in range(14)],
            levels=["below", EVIL, "above"],
            columns=[],
            title="Nodes",
        ),
        Table(["name", "x"], [[EVIL, 1.5], ["=1+1", None]], title="Rows"),
    ]
    claims = Grid([Card("held", {"effect": 2.0}, verdict="passed"), Card("did not", {"effect": 0.1}, verdict="failed")])
    return [Text(EVIL, [EVIL]), Grid(pictures, title="All"), claims]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return views.save_html(one_of_each(), tmp_path_factory.mktemp("frozen") / "views.html", title="Every kind").as_uri()


@pytest.fixture
def frozen(page: Page, file: str, traffic: Traffic) -> Page:
    page.goto(file)
    expect(page.get_by_test_id("view-heat_map")).to_be_visible()
    return page


def called(page: Page, title: str) -> Locator:
    return page.locator("figure").filter(has=page.get_by_role("heading", name=title, exact=True))


def point_at(page: Page, figure: Locator, row: str, column: str) -> None:
    """The pointer to where a row's and a column's label cross."""
    picture = figure.get_by_role("application")
    picture.scroll_into_view_if_needed()
    labels = {name: picture.locator("text", has_text=name).last.bounding_box() for name in (row, column)}
    [y, x] = [labels[name] for name in (row, column)]
    assert x is not None
    assert y is not None
    page.mouse.move(x["x"] + x["width"] / 2, y["y"] + y["height"] / 2)


@pytest.mark.parametrize("width", [1280, 800, 380])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_kind_is_drawn_and_nothing_is_asked_or_complained_of(page, file, traffic, theme, width):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(file)
    for kind in KINDS:
        expect(page.get_by_test_id(f"view-{kind}").first).to_be_visible()
    expect(page.locator(".residscope")).to_have_attribute("data-theme", theme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    expect(page.get_by_test_id("view-heat_map").locator("canvas")).to_be_visible()
    red, blue = page.get_by_test_id("view-heat_map").locator("canvas").evaluate(SIGNS)
    assert red > 500
    assert blue > 500
    assert page.locator("[role=application] svg").evaluate_all(OVERLAPS) == []
    assert page.title() == "Every kind"
    assert page.locator("img").count() == 0
    assert [url for url in traffic.urls if not url.startswith(("file:", "data:"))] == []
    assert traffic.complaints == []


def test_a_network_is_read_by_pointer_and_key_and_leads_to_its_pages(frozen):
    figure = called(frozen, "Nodes")
    picture = figure.get_by_role("application")
    picture.focus()
    frozen.keyboard.press("ArrowRight")
    expect(frozen.get_by_test_id("tip")).to_contain_text("sae 0 of below")
    frozen.keyboard.press("ArrowUp")
    expect(frozen.get_by_test_id("tip")).to_contain_text("sae 7 of")
    frozen.keyboard.press("Enter")
    expect(figure.get_by_role("link")).to_have_attribute("href", "https://example.org/")
    wide = picture.bounding_box()["width"]
    frozen.keyboard.press("+")
    assert picture.bounding_box()["width"] > wide
    figure.get_by_test_id("view-table").click()
    expect(figure.get_by_test_id("view-values").locator("tbody tr")).to_have_count(14)


def test_the_check_for_overlaps_sees_one(frozen):
    frozen.evaluate("""() => {
      const svg = document.querySelector("[role=application] svg"), text = svg.querySelector("text");
      svg.append(text.cloneNode(true));
    }""")
    assert frozen.locator("[role=application] svg").evaluate_all(OVERLAPS)


def test_hover_and_table_say_the_value(frozen):
    figure = called(frozen, "Effects")
    point_at(frozen, figure, "12", "Mary")
    tip = frozen.get_by_test_id("tip")
    expect(tip).to_contain_text("layer 12 · ·Mary")
    expect(tip).to_contain_text(f"{math.sin(36):+.4f}".replace("-", "−")[:6])
    figure.get_by_test_id("view-table").click()
    row = figure.locator("tbody tr").nth(12).locator("td")
    assert float(row.nth(4).get_attribute("data-value")) == math.sin(36)
    assert figure.locator("tbody tr").nth(5).locator("td").nth(7).inner_text() == "–"
    assert figure.locator("tbody tr").nth(7).locator("td").nth(9).inner_text() == "−∞"
    expect(tip).to_have_count(0)


def test_patterns_are_read_by_key(frozen):
    figure = called(frozen, "Head 23.3")
    figure.get_by_role("application").focus()
    for key in ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowRight"]:
        frozen.keyboard.press(key)
    tip = frozen.get_by_test_id("tip")
    expect(tip).to_contain_text("2 ·and → 1 ·John")
    expect(tip).to_contain_text("0.3333")
    assert "2 ·and → 1 ·John" in figure.locator("[aria-live]").inner_text()
    box = tip.bounding_box()
    assert box is not None
    assert 0 <= box["x"] <= 1280 - box["width"]
    frozen.keyboard.press("Escape")
    expect(tip).to_have_count(0)


@pytest.mark.parametrize("title", ["Effects", "Head 23.3", "By layer", "Margins", "Many points", "Tokens", "Rows"])
def test_pictures_are_saved(frozen, tmp_path: Path, title, traffic):
    figure = called(frozen, title)
    saved = {}
    for kind in ("svg", "png", "csv"):
        figure.get_by_test_id("view-save").click()
        with frozen.expect_download() as download:
            figure.get_by_test_id(f"save-{kind}").click()
        download.value.save_as(tmp_path / kind)
        saved[kind] = (tmp_path / kind).read_bytes()
    assert saved["svg"].startswith(b"<svg")
    assert b"<img" not in saved["svg"]
    assert saved["png"].startswith(b"\x89PNG")
    assert len(saved["png"]) > 4_000
    assert saved["csv"].count(b"\n") > 2
    assert traffic.complaints == []


def test_the_theme_changes_by_hand_and_recolours(frozen):
    canvas = called(frozen, "Head 23.3").locator("canvas")
    before = frozen.locator(".residscope").evaluate("root => getComputedStyle(root).backgroundColor")
    pixels = canvas.evaluate("c => c.toDataURL()")
    frozen.get_by_test_id("theme").click()
    expect(frozen.locator(".residscope")).to_have_attribute("data-theme", "dark")
    assert frozen.locator(".residscope").evaluate("root => getComputedStyle(root).backgroundColor") != before
    assert canvas.evaluate("c => c.toDataURL()") != pixels


def test_a_wide_map_scrolls_in_its_own_box_and_keeps_its_cursor_and_pop_up(page, tmp_path: Path, traffic):
    wide = HeatMap([[column / 400 for column in range(400)]] * 4, range(4), range(400), title="Wide", unit="x")
    page.set_viewport_size({"width": 800, "height": 600})
    page.goto(views.save_html(wide, tmp_path / "wide.html").as_uri())
    room = page.locator(".room")
    assert page.evaluate("document.documentElement.scrollWidth") == 800
    assert room.evaluate("room => room.scrollWidth > 1500")
    expect(page.get_by_role("heading", name="Wide")).to_have_count(2)
    assert [box["width"] > 20 for box in map(Locator.bounding_box, page.get_by_role("heading").all()) if box] == [
        False,
        True,
    ]
    page.get_by_role("application").click(position={"x": 100, "y": 60})
    left = "() => document.querySelector('[data-testid=tip]').getBoundingClientRect().left"
    before = page.evaluate(left)
    room.evaluate("room => { room.scrollLeft = 60 }")
    page.wait_for_function(f"before => ({left})() === before - 60", arg=before)
    for _ in range(14):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => document.querySelector('.room').scrollLeft < 60")
    expect(page.get_by_test_id("tip")).to_be_in_viewport()
    assert traffic.complaints == []


def test_a_notebook_s_frame_draws_too(page, traffic):
    page.set_content(f"<!doctype html><body>{views.Pattern(['a', 'b'], [[1, 0], [0.5, 0.5]])._repr_html_()}</body>")
    expect(page.frame_locator("iframe").get_by_test_id("view-pattern").locator("canvas")).to_be_visible()
    assert traffic.complaints == []
