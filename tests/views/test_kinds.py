"""Views check what they are given and say it again as plain JSON."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from residscope import views
from residscope.errors import BadView
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

PARTS = {
    "Context",
    "Line",
    "NetworkEdge",
    "NetworkNode",
    "Part",
    "Reference",
    "View",
    "figure",
    "save_html",
    "save_picture",
    "to_html",
}
ONE_OF_EACH = [
    HeatMap([[1.0, -2.0]], ["0"], ["a", "b"]),
    Curve([0, 1], [Line("y", [1, 2])], references=[0.5]),
    Histogram({"clean": [1.0, 2.0]}),
    Scatter([0.0], [1.0]),
    TokenStrip(["a"], [1.0]),
    Contexts([Context(["a"], [1.0], at=0, cells=[1.0])], columns=["activation"]),
    Network(
        [NetworkNode("a", "a", 0.0, 0.0), NetworkNode("b", "b", 0.0, 1.0)],
        [NetworkEdge(0, 1, 1.0)],
        ["low", "high"],
        [],
    ),
    Pattern(["a"], [[1.0]]),
    Table(["a"], [[1]]),
    Text("Why", ["Because."]),
    Card("claim", {"effect": 1.0}),
    Grid([Text("a", "b")]),
]


@pytest.mark.parametrize("view", ONE_OF_EACH, ids=lambda view: view.kind)
def test_every_kind_is_plain_json_and_frozen(view):
    assert json.loads(json.dumps(view.to_dict(), allow_nan=False)) == view.to_dict()
    assert view.to_dict()["kind"] == view.kind
    with pytest.raises(FrozenInstanceError):
        view.title = "other"


def test_the_kinds_are_a_closed_set():
    assert len({view.kind for view in ONE_OF_EACH}) == len(ONE_OF_EACH)
    assert {type(view).__name__ for view in ONE_OF_EACH} == set(views.__all__) - PARTS


def test_importing_views_loads_no_torch():
    code = "import sys, residscope.views; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, lambda rows: [torch.tensor(row) for row in rows], list])
def test_lists_arrays_and_tensors_are_one(make):
    rows = [[0.5, -1.25], [3.0, 0.0]]
    assert HeatMap(make(rows), np.arange(2), range(2)) == HeatMap(rows, ["0", "1"], ["0", "1"])


def test_single_precision_is_written_no_longer_than_it_is_exact():
    x = torch.tensor([0.1, 1 / 3, 123456.79], requires_grad=True)
    found = TokenStrip(["a", "b", "c"], x).to_dict()["values"]
    assert found[0] == 0.1
    assert torch.equal(torch.tensor(found), x)
    exact = TokenStrip(["a"], torch.tensor([1 / 3], dtype=torch.float64)).values[0]
    assert exact == 1 / 3


def test_what_is_not_finite_is_null_and_infinities_say_where():
    found = HeatMap([[math.nan, math.inf], [None, -math.inf]], [0, 1], [0, 1]).to_dict()
    assert found["values"] == [[None, None], [None, None]]
    assert found["infinite"] == {"values.0.1": "inf", "values.1.1": "-inf"}
    assert "infinite" not in HeatMap([[math.nan]], [0], [0]).to_dict()
    inside = Grid([Curve([0], [Line("y", [math.inf])])]).to_dict()
    assert inside["views"][0]["lines"][0]["infinite"] == {"y.0": "inf"}


def test_histograms_count_as_numpy_does():
    x, y = np.random.default_rng(0).normal(size=(2, 500))
    view = Histogram({"x": x, "y": y}, bins=17)
    counts, edges = np.histogram(np.concatenate([x, y]), bins=17)
    found = view.to_dict()
    assert np.allclose(found["edges"], edges, atol=1e-12)
    assert (sum(np.asarray(s["counts"]) for s in found["series"]) == counts).all()
    assert found["series"][0]["mean"] == pytest.approx(x.mean())


def test_histograms_leave_out_what_no_bin_holds_and_say_so():
    [series] = Histogram({"x": [0, 1, 2, 5, math.nan, math.inf]}, bins=[0, 1, 2]).to_dict()["series"]
    assert (series["counts"], series["n"], series["left_out"]) == ([1, 2], 3, 3)
    [constant] = Histogram({"x": [3.0, 3.0]}, bins=4).to_dict()["series"]
    assert sum(constant["counts"]) == 2
    assert Histogram({"x": []}).to_dict()["series"][0]["n"] == 0


BAD = {
    "labels": (lambda: HeatMap([[1, 2]], ["0"], ["a"]), "1 x 2", "1 x 1"),
    "ragged": (lambda: HeatMap([[1, 2], [1]], ["0", "1"], ["a", "b"]), "[1, 2]", "one length"),
    "scale": (lambda: HeatMap([[1]], ["0"], ["a"], scale="rainbow"), "rainbow", "diverging"),
    "limit": (lambda: HeatMap([[1]], ["0"], ["a"], limit=0), "0", "above zero"),
    "mark": (lambda: HeatMap([[1]], ["0"], ["a"], marks=[(0, 1)]), "(0, 1)", "below 1"),
    "one end": (lambda: HeatMap([[1]], ["0"], ["a"], low=[[0]]), "alone", "both"),
    "crossed": (lambda: Line("y", [1], low=[2], high=[1]), "[0]", "low <= high"),
    "letters": (lambda: TokenStrip("abc", [1, 2, 3]), "'abc'", "list"),
    "words": (lambda: TokenStrip(["a"], ["one"]), "'one'", "numbers"),
    "length": (lambda: TokenStrip(["a", "b"], [1]), "values 1", "one length"),
    "ahead": (lambda: Pattern(["a", "b"], [[0.5, 0.5], [0, 1]]), "0.5", "above the diagonal"),
    "no weight": (lambda: Pattern(["a"], [[-3.0]]), "-3.0", "0 to 1"),
    "edges": (lambda: Histogram({"x": [1]}, bins=[1, 1]), "1.0, 1.0", "rising"),
    "no names": (lambda: Histogram([[1]]), "list", "dict"),
    "groups": (lambda: Scatter([1], [1], groups=["a", "b"]), "groups 2", "one length"),
    "line": (lambda: Curve([0, 1], [Line("y", [1])]), "'y' 1", "one length"),
    "no line": (lambda: Curve([0], [[1]]), "list", "views.Line"),
    "nowhere": (lambda: Reference(math.nan), "nan", "finite"),
    "cells": (lambda: Table(["a"], [[1, 2]]), "row 0 2", "one length"),
    "thing": (lambda: Table(["a"], [[{}]]), "{}", "str"),
    "verdict": (lambda: Card("a", {}, verdict="maybe"), "maybe", "passed"),
    "no view": (lambda: Grid([Line("y", [1])]), "Line", "views"),
    "title": (lambda: Text(None), "None", "string"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_drawn_is_refused_with_what_came_and_what_may(case):
    make, received, allowed = BAD[case]
    with pytest.raises(BadView) as refused:
        make()
    assert received in refused.value.received
    assert allowed in refused.value.allowed
