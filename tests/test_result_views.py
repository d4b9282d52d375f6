"""Results as pictures: the view holds the result's own numbers and labels, and says what is not exact."""

import json
import re

import pytest
import torch

from residscope import Result, views
from residscope.views import html


def result(*sizes, **parts):
    values = torch.randn(*sizes, generator=torch.Generator().manual_seed(0))
    return Result(values, ("layer", "head", "pos", "prompt")[: len(sizes)], name="logit difference", **parts)


def test_one_dimension_is_a_curve_with_its_band():
    values = torch.tensor([0.0, 1.0, 4.0])
    curve = Result(
        values, ("layer",), {"layer": (3, 5, 9)}, low=values - 1, high=values + 1, provenance={"unit": "logits"}
    ).view()
    assert isinstance(curve, views.Curve)
    (line,) = curve.lines
    assert (curve.x, line.y, line.low, line.high) == ((3, 5, 9), (0, 1, 4), (-1, 0, 3), (1, 2, 5))
    assert (curve.x_title, curve.unit) == ("layer", "logits")


def test_a_dimension_with_words_beside_it_shows_them():
    curve = Result(torch.zeros(2), ("pos",), {"token": (" Mary", " and")}, {"token": "pos"}).view()
    assert curve.x == ("0  Mary", "1  and")


def test_two_dimensions_are_a_heat_map_layers_from_the_bottom_up():
    made = result(3, 2)
    view = made.view()
    assert isinstance(view, views.HeatMap)
    torch.testing.assert_close(torch.tensor(view.values), made.values)
    assert view.bottom_up
    assert not Result(made.values, ("pos", "layer")).view().bottom_up
    assert (view.rows, view.columns, view.note) == (("0", "1", "2"), ("0", "1"), "")


def test_three_dimensions_are_maps_along_the_shortest_on_one_scale():
    made = result(4, 2, 3)
    grid = made.view()
    assert isinstance(grid, views.Grid)
    assert [view.title for view in grid.views] == ["head 0", "head 1"]
    for head, view in enumerate(grid.views):
        torch.testing.assert_close(torch.tensor(view.values), made.values[:, head])
        assert view.limit == pytest.approx(float(made.values.abs().max()))


def test_anything_else_is_a_table_that_says_what_it_leaves_out():
    view = result(2, 2, 2, 2).view()
    assert isinstance(view, views.Table)
    assert len(view.rows) == 16
    assert view.columns == ("layer", "head", "pos", "prompt", "value")
    many = result(9, 9, 9, 9).view()
    assert len(many.rows) == 2000
    assert "The first 2,000 of 6,561 rows" in many.note
    assert Result(torch.tensor(2.5), ()).view().rows == ((2.5,),)
    assert Result(torch.zeros(0, 3), ("layer", "pos")).view().rows == ()


def test_a_sweep_too_large_for_a_map_is_a_table_of_its_largest_effects():
    values = torch.ones(300, 200)
    values[7, 3], values[0, 0], values[2, 2] = -5.0, 3.0, float("nan")
    swept = Result(values, ("sender", "receiver"), unit="logits", provenance={"no effect": 1.0})
    view = swept.view()
    assert view.columns == ("sender", "receiver", "value (logits)")
    assert view.rows == (("7", "3", -5.0), ("0", "0", 3.0))
    assert "of 60,000" in view.note
    assert isinstance(Result(values, ("query", "key")).view(), views.HeatMap)


def test_what_is_not_exact_says_so():
    assert result(3, 2, exact="first-order gradient").view().note == "Not exact: first-order gradient."
    assert result(3, exact="first-order gradient").view().note == "Not exact: first-order gradient."


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16])
def test_numbers_of_every_kind_are_drawn(dtype):
    made = Result(torch.tensor([[0, 1], [1, 0]]).to(dtype), ("layer", "pos"))
    assert made.view().values == ((0, 1), (1, 0))
    assert made.select(layer=0).view().lines[0].y == (0, 1)


def test_a_page_holds_the_view(tmp_path, monkeypatch):
    (tmp_path / "_ui").mkdir()
    for name in ("frozen.js", "frozen.css"):
        (tmp_path / "_ui" / name).write_text("")
    monkeypatch.setattr(html, "files", lambda _: tmp_path)
    made = result(3, 2)
    made.save(tmp_path / "effect.html")
    page = (tmp_path / "effect.html").read_text()
    held = json.loads(re.search(r'id="views">(.*?)</script>', page, re.DOTALL)[1])
    assert held["views"] == [made.view().to_dict()]
    assert "<iframe" in made._repr_html_()
