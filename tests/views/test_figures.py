"""Figures: every kind is drawn in every format, in the page's colours, with its words, and the same view is the same file."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from residscope import views
from residscope.errors import BadView, FileNotThere, WrongEnding
from residscope.views import (
    Card,
    Context,
    Contexts,
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
from residscope.views.drawn import palette
from residscope.views.figures import DRAWN, figure

CSS = Path(__file__).parents[2] / "web/src/page.css"
ODD = "a$b$ \n\t\x00 \u202e \ud800 日本 עברית <b>&amp; \\frac"
KINDS = {
    "heat_map": HeatMap([[1, -2], [math.nan, math.inf]], ["0", "1"], ["a", " b"], title="Map", unit="logits", marks=[(0, 1)]),
    "pattern": Pattern(["a", "b"], [[1, 0], [0.3, 0.7]], title="Head"),
    "curve": Curve([0, 1, 2], [Line("own", [1, math.nan, 3], low=[0, 0, 2], high=[2, 2, 4])], title="Line", unit="nats",
                   references=[Reference(1, "here"), Reference(0.5, "chance", axis="y")]),
    "histogram": Histogram({"clean": [1, 2, 3, math.inf], "edited": [2, 2]}, bins=4, title="Bars", unit="logits"),
    "scatter": Scatter([0, 1, math.nan], [1, 0, 2], groups=["A", "B", "A"], diagonal=True, title="Points", unit="logits"),
    "token_strip": TokenStrip(["The", " cat\n", " sat"], [0, 1.5, math.nan], title="Strip", unit="share"),
    "contexts": Contexts([Context(["The", " cat", " sat"], [0, 1.5, math.nan], at=1, cells=[1.5]),
                          Context(["A", "\n"], [0.5, -1], cells=["none"])], columns=["activation"], title="Lines"),
    "network": Network(
        [NetworkNode("a", "8.12", 0, 0, 0.5, link="https://example.org/8/12", text="twelve"),
         NetworkNode("e", "error", 1, 0, error=True), NetworkNode("g", "names", 0.5, 1, -0.1, group="names"),
         NetworkNode("t", " Mary", 0.5, 2)],
        [NetworkEdge(0, 2, 1.5, "8.12 → names"), NetworkEdge(1, 2, -0.5), NetworkEdge(2, 3, 0.2)],
        ["resid_post.8", "resid_post.9", "next token"], ["The", ""], title="Graph", unit="activation", node_unit="nats",
    ),
    "table": Table(["layer", "rate"], [[6, 0.5], ["x", None], [True, math.nan]], title="Rows"),
    "text": Text("Words", ["One paragraph.", "Another."]),
    "card": Card("Claim", {"effect": -2.5, "unit": "logits"}, verdict="failed", note="why"),
}  # fmt: skip
KINDS["grid"] = Grid([*KINDS.values(), Grid([KINDS["card"]], title="Inner")], columns=2, title="All")
EMPTY = [
    HeatMap([], [], []), Pattern([], []), Curve([], []), Curve([1.0], []), Histogram({}), Histogram({"a": [math.nan]}),
    Scatter([], []), TokenStrip([], []), Contexts([]), Contexts([Context([], [])]),
    Network([], [], [], []), Network([NetworkNode("a", "", 0, 0)], [], [], []),
    Table([], []), Table(["a"], []), Text(""), Card("", {}), Grid([]),
    HeatMap([[math.nan]], ["a"], ["b"]), Scatter([math.nan], [0]), Curve(["a"], [Line("", [math.nan])]),
]  # fmt: skip


def colors(path):
    """Every colour of a PNG with how many pixels have it."""
    image = Image.open(path).convert("RGB")
    return {f"#{r:02x}{g:02x}{b:02x}": n for n, (r, g, b) in image.getcolors(1 << 24)}


def words(path):
    """The texts of an SVG, which stay text."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_every_kind_of_view_is_drawn():
    kinds = {cls.kind for cls in views.View.__subclasses__()}
    assert kinds == DRAWN.keys() == KINDS.keys()


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_view_is_the_same_file_with_its_words(kind, ending, tmp_path):
    view = KINDS[kind]
    for name in ("one", "two"):
        view.save(tmp_path / f"{name}{ending}")
    assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one{ending}", f"two{ending}"]
    if ending == ".svg":
        said = " ".join(words(tmp_path / "one.svg"))
        assert view.title in said
        assert getattr(view, "unit", "") in said


@pytest.mark.parametrize("view", EMPTY, ids=lambda view: view.kind)
def test_what_is_empty_is_drawn_too(view, tmp_path):
    for ending in (".png", ".svg", ".pdf"):
        view.save(tmp_path / f"some{ending}")


def test_the_colours_are_those_of_the_page():
    light = CSS.read_text()[: CSS.read_text().index("--seq-5")]
    page = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", CSS.read_text()[: len(light) + 40]))
    steps = ["n4", "n3", "n2", "n1", "0", "p1", "p2", "p3", "p4"]
    assert tuple(page[f"div-{step}"] for step in steps) == palette.DIVERGING
    assert tuple(page[f"seq-{step}"] for step in range(6)) == palette.SEQUENTIAL
    assert tuple(page[name] for name in ("text", "freeze", "warn", "accent", "ok", "text-3")) == palette.SERIES
    own = (palette.SURFACE, palette.SUNKEN, palette.LINE, palette.LINE_2, palette.TEXT_2)
    assert own == tuple(page[name] for name in ("surface", "sunken", "line", "line-2", "text-2"))


def test_a_cell_has_the_colour_of_its_value(tmp_path):
    path = tmp_path / "some.png"
    HeatMap([[-2.0, 0.0, 1.0, 2.0]], ["r"], list("abcd"), limit=2.0).save(path)
    found = colors(path)
    for color in ("#2166ac", "#f7f7f5", "#f4a582", "#b2182b"):  # -1, 0, +1/2 and +1 of full colour, from page.css
        assert found.get(color, 0) > 500, color
    HeatMap([[0.0, 5.0]], ["r"], list("ab"), scale="sequential", limit=5.0).save(path)
    assert colors(path)["#41307f"] > 500
    assert colors(path).get("#b2182b", 0) == 0


def test_the_scale_is_symmetric_and_its_end_is_said(tmp_path):
    HeatMap([[-1.0, 4.0]], ["r"], list("ab"), unit="nats").save(tmp_path / "some.svg")
    said = words(tmp_path / "some.svg")
    assert {"−4", "+4", "nats"} <= {*said}
    HeatMap([[0.1, 0.5]], ["r"], list("ab"), scale="sequential", unit="share").save(tmp_path / "some.svg")
    assert {"0", "0.5", "share"} <= {*words(tmp_path / "some.svg")}


def test_what_is_missing_is_hatched_and_what_is_beyond_has_a_tick(tmp_path):
    path = tmp_path / "some.png"
    HeatMap([[math.nan, 1.0]], ["r"], list("ab")).save(path)
    assert colors(path)["#f3f3f0"] > 300
    HeatMap([[1.0, 1.0]], ["r"], list("ab")).save(path)
    assert "#f3f3f0" not in colors(path)
    whole = HeatMap([[3.0]], [""], [""], limit=3.0, texts=[[" "]])
    beyond = HeatMap([[9.0]], [""], [""], limit=3.0, texts=[[" "]])
    whole.save(path)
    without = colors(path).get("#ffffff", 0)
    beyond.save(path)
    assert colors(path).get("#ffffff", 0) > without + 20


def test_rows_stand_from_the_bottom_up_where_the_view_says_so(tmp_path):
    def ys(view):
        view.save(tmp_path / "some.svg")
        found = re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>(low|high)</text>', (tmp_path / "some.svg").read_text())
        return {word: float(y) for y, word in found}

    parts = ([[1.0], [2.0]], ["low", "high"], ["a"])
    up, down = ys(HeatMap(*parts, bottom_up=True)), ys(HeatMap(*parts))
    assert up["high"] < up["low"]
    assert down["low"] < down["high"]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_texts_are_drawn_and_hide_nothing(kind, tmp_path):
    view = {
        "heat_map": HeatMap([[1]], [ODD], [ODD], title=ODD, unit=ODD, note=ODD, row_title=ODD, texts=[[ODD]]),
        "pattern": Pattern([ODD], [[1]], title=ODD), "curve": Curve([ODD], [Line(ODD, [1])], title=ODD, x_title=ODD, unit=ODD),
        "histogram": Histogram({ODD: [1]}, title=ODD, unit=ODD, references=[Reference(1, ODD)]),
        "scatter": Scatter([1], [1], groups=[ODD], title=ODD, x_title=ODD), "token_strip": TokenStrip([ODD], [1], title=ODD),
        "contexts": Contexts([Context([ODD], [1], at=0, cells=[ODD])], columns=[ODD], title=ODD),
        "network": Network([NetworkNode(ODD, ODD, 0, 0, text=ODD, group=ODD)], [], [ODD], [ODD], title=ODD, unit=ODD, note=ODD),
        "table": Table([ODD], [[ODD]], title=ODD), "text": Text(ODD, [ODD]), "card": Card(ODD, {ODD: ODD}, note=ODD),
        "grid": Grid([Text(ODD)], title=ODD),
    }[kind]  # fmt: skip
    for ending in (".png", ".svg", ".pdf"):
        view.save(tmp_path / f"some{ending}")
    assert "\u202e" not in (tmp_path / "some.svg").read_text()
    assert any("$" in word for word in words(tmp_path / "some.svg"))


NUMBERS = st.one_of(st.floats(width=32), st.just(math.nan), st.sampled_from([0.0, 1e-30, 1e30, -1e300, math.inf]))


@settings(max_examples=30, deadline=None)
@given(n_rows=st.integers(1, 5), n_columns=st.integers(1, 70), data=st.data())
def test_maps_and_curves_of_any_numbers_are_drawn(n_rows, n_columns, data, tmp_path_factory):
    rows = [data.draw(st.lists(NUMBERS, min_size=n_columns, max_size=n_columns)) for _ in range(n_rows)]
    scale = data.draw(st.sampled_from(["diverging", "sequential"]))
    path = tmp_path_factory.mktemp("drawn") / "some.svg"
    HeatMap(rows, range(n_rows), range(n_columns), scale=scale).save(path)
    Curve(range(n_columns), [Line(str(i), row) for i, row in enumerate(rows)]).save(path)
    Scatter(rows[0], rows[-1]).save(path)
    finite = [[x for x in row if abs(x) < 1e200] for row in rows]
    Histogram({str(i): row for i, row in enumerate(finite)}).save(path)


@pytest.mark.parametrize("only", [-1e300, -1.7e308, 1.7e308, -5.0, 0.0, 1e-310])
@pytest.mark.parametrize("scale", ["diverging", "sequential"])
def test_a_map_of_one_number_has_a_colour(only, scale, tmp_path):
    HeatMap([[only, -only]], [0], [0, 1], scale=scale).save(tmp_path / "some.svg")
    HeatMap([[only]], [0], [0], scale=scale).save(tmp_path / "some.svg")


def test_large_pictures_are_drawn_whole_or_say_what_they_leave_out(tmp_path):
    HeatMap([[1.0] * 9000] * 2, ["a", "b"], range(9000)).save(tmp_path / "wide.png")
    assert max(Image.open(tmp_path / "wide.png").size) < 2**16
    Table(["a"], [[i] for i in range(500)]).save(tmp_path / "some.svg")
    assert any("The first 60 of 500 rows" in word for word in words(tmp_path / "some.svg"))


def test_what_it_refuses(tmp_path):
    for ending, kind in (("", "figure"), (".html", "figure"), (".jpg", "figure"), (".safetensors", "figure")):
        with pytest.raises(WrongEnding, match=rf"{kind} cannot be written as.*Allowed: \.png, \.svg, \.pdf"):
            views.save_picture(KINDS["card"], tmp_path / f"some{ending}")
    with pytest.raises(WrongEnding, match=r"view cannot be written as \.csv.*\.html, \.png, \.svg, \.pdf"):
        KINDS["card"].save(tmp_path / "some.csv")
    with pytest.raises(FileNotThere, match="no such folder"):
        views.save_picture(KINDS["card"], tmp_path / "none" / "some.png")
    with pytest.raises(BadView, match="cannot be drawn"):
        figure("a text")
    assert not [*tmp_path.iterdir()]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "some.png"
    KINDS["card"].save(path)
    before = path.read_bytes()

    def full(self, file, **_):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        KINDS["text"].save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["some.png"]


def test_drawing_leaves_matplotlib_as_it_was_and_importing_loads_none_of_it(tmp_path):
    code = (
        "import sys, json, residscope.views as v\n"
        "early = 'matplotlib' in sys.modules\n"
        "import matplotlib\n"
        "told = lambda: [matplotlib.rcParams[k] for k in ('text.parse_math', 'svg.fonttype', 'pdf.fonttype', 'font.family')]\n"
        "before = told()\n"
        f"v.Card('a', {{}}).save({str(tmp_path / 'a.png')!r})\n"
        "print(json.dumps([early, before == told(), 'matplotlib.pyplot' in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [False, True, False]
