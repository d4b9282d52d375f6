"""The schema that the page's types are made from: what every view writes, and nothing else, fits it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from residscope import views
from residscope.views.schema import KINDS, schema
from residscope.views.view import View

WEB = Path(__file__).parents[2] / "web"
SCHEMA = json.loads(json.dumps(schema()))

KNOWN = {"$ref", "$schema", "title", "description", "definitions", "anyOf", "type", "enum", "const", "items", "minItems",
         "maxItems", "properties", "required", "additionalProperties"}  # fmt: skip
JSON_TYPES = {"string": str, "number": (int, float), "boolean": bool, "null": type(None), "array": list, "object": dict}


def fits(value: Any, rule: Any) -> bool:
    """JSON Schema, as far as this one goes."""
    assert set(rule) <= KNOWN, f"a rule this reader does not know: {set(rule) - KNOWN}"
    if "$ref" in rule:
        name = rule["$ref"].removeprefix("#").removeprefix("/definitions/")
        return fits(value, SCHEMA["definitions"][name] if name else SCHEMA)
    if "anyOf" in rule and not any(fits(value, option) for option in rule["anyOf"]):
        return False
    if ("const" in rule and value != rule["const"]) or ("enum" in rule and value not in rule["enum"]):
        return False
    kind = rule.get("type")
    if kind and (not isinstance(value, JSON_TYPES[kind]) or (kind == "number" and isinstance(value, bool))):
        return False
    if kind == "array":
        items = rule["items"]
        each = (
            [fits(x, rule) for x, rule in zip(value, items, strict=False)]
            if isinstance(items, list)
            else [fits(x, items) for x in value]
        )
        return all(each) and rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value))
    if kind == "object":
        own, more = rule.get("properties", {}), rule.get("additionalProperties", True)
        if not set(rule.get("required", [])) <= set(value):
            return False
        return all(
            fits(x, own[name]) if name in own else more is not False and fits(x, more) for name, x in value.items()
        )
    return True


numbers = st.floats(width=32) | st.none() | st.integers(-5, 5)
labels = st.text(max_size=3) | st.integers(0, 9)


def row(n: int, of: Any = numbers) -> Any:
    return st.lists(of, min_size=n, max_size=n)


def grid(rows: int, columns: int, of: Any = numbers) -> Any:
    return st.lists(row(columns, of), min_size=rows, max_size=rows)


sizes = st.integers(1, 3)
limits = st.none() | st.floats(0.5, 9)
references = st.lists(
    st.floats(-9, 9) | st.builds(views.Reference, st.floats(-9, 9), st.text(max_size=2), axis=st.sampled_from("xy")),
    max_size=2,
)


@st.composite
def heat_maps(draw: Any) -> views.HeatMap:
    r, c = draw(sizes), draw(sizes)
    whole = draw(st.booleans())
    bands = {"low": np.full((r, c), -np.inf), "high": np.full((r, c), 2.0)} if whole else {}
    return views.HeatMap(
        draw(grid(r, c)), draw(row(r, labels)), draw(row(c, labels)), title=draw(st.text(max_size=2)), limit=draw(limits),
        scale=draw(st.sampled_from(["diverging", "sequential"])), marks=draw(st.sampled_from([[], [(0, 0)]])),
        texts=draw(st.none() | grid(r, c, st.text(max_size=2))), bottom_up=draw(st.booleans()), **bands,
    )  # fmt: skip


@st.composite
def curves(draw: Any) -> views.Curve:
    n = draw(sizes)
    x = draw(row(n, st.floats(-9, 9)) | row(n, st.text(max_size=2)))
    lines = [
        views.Line("a", draw(row(n))),
        views.Line("b", [1.0] * n, low=[-np.inf] * n, high=[np.inf] * n, dashed=True),
    ]
    return views.Curve(x, lines, references=draw(references))


@st.composite
def scatters(draw: Any) -> views.Scatter:
    n = draw(sizes)
    return views.Scatter(
        draw(row(n)),
        draw(row(n)),
        groups=draw(st.none() | row(n, labels)),
        texts=draw(st.none() | row(n, st.text(max_size=2))),
    )


cells = numbers | st.text(max_size=2) | st.booleans()


@st.composite
def contexts(draw: Any) -> views.Contexts:
    columns = draw(row(draw(sizes), labels))
    lengths = draw(st.lists(st.integers(1, 4), max_size=3))
    told = [draw(row(len(columns), cells)) for _ in lengths]
    lines = [
        views.Context(draw(row(n, st.text(max_size=2))), draw(row(n)), draw(st.none() | st.integers(0, n - 1)), each)
        for n, each in zip(lengths, told, strict=True)
    ]
    return views.Contexts(lines, columns, limit=draw(limits))


@st.composite
def networks(draw: Any) -> views.Network:
    n = draw(sizes)
    nodes = [
        views.NetworkNode(
            str(i), draw(st.text(max_size=2)), float(i), draw(st.floats(0, 3)), draw(st.none() | st.floats(-2, 2)),
            group=draw(st.text(max_size=2)), link=draw(st.sampled_from(["", "#a", "https://a.b"])), error=draw(st.booleans()),
        )
        for i in range(n)
    ]  # fmt: skip
    edges = [views.NetworkEdge(0, n - 1, draw(st.floats(-2, 2)), draw(st.text(max_size=2)))]
    return views.Network(nodes, edges, draw(row(2, labels)), draw(row(n, labels)), limit=draw(limits))


drawn = st.one_of(
    networks(),
    heat_maps(),
    curves(),
    scatters(),
    st.dictionaries(st.text(max_size=2), st.lists(numbers, max_size=5), max_size=2).map(views.Histogram),
    sizes.flatmap(lambda n: st.builds(views.TokenStrip, row(n, st.text(max_size=3)), row(n), limit=limits)),
    contexts(),
    sizes.map(lambda n: views.Pattern(["t"] * n, np.eye(n))),
    sizes.flatmap(lambda n: st.builds(views.Table, row(n, labels), st.lists(row(n, cells), max_size=3))),
    st.builds(views.Text, st.text(max_size=2), st.lists(st.text(max_size=2), max_size=2)),
    st.builds(
        views.Card,
        st.text(max_size=2),
        st.dictionaries(st.text(max_size=2), cells, max_size=2),
        verdict=st.sampled_from(["passed", "failed", None]),
    ),
)
any_view = st.recursive(drawn, lambda inner: st.lists(inner, max_size=3).map(views.Grid), max_leaves=4)


@given(any_view)
def test_what_a_view_writes_fits(view: View) -> None:
    assert fits(view.to_dict(), SCHEMA)


@given(any_view, st.data())
def test_what_lacks_a_field_or_has_another_does_not(view: View, data: Any) -> None:
    written = view.to_dict()
    lacking = data.draw(st.sampled_from(sorted(set(written) - {"infinite"})))
    assert not fits({name: value for name, value in written.items() if name != lacking}, SCHEMA)
    assert not fits(written | {"another": 1}, SCHEMA)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", [["1"]]),
        ("scale", "other"),
        ("limit", "9"),
        ("rows", [1]),
        ("marks", [[0]]),
        ("bottom_up", None),
        ("infinite", {"values.0.0": "nan"}),
    ],
)
def test_a_field_of_another_type_does_not(name: str, value: Any) -> None:
    written = views.HeatMap([[1.0]], ["a"], ["b"]).to_dict()
    assert fits(written, SCHEMA)
    assert not fits(written | {name: value}, SCHEMA)


def test_every_kind_is_in_it() -> None:
    exported = {
        view for name in views.__all__ if isinstance(view := getattr(views, name), type) and issubclass(view, View)
    }
    assert set(KINDS) == exported - {View}


def test_the_committed_schema_is_fresh() -> None:
    committed = (WEB / "views.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == SCHEMA, "run `make view-types`"
