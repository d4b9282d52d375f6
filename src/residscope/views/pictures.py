"""The views that are drawn: heat map, curve, histogram, scatter, token strip, attention pattern."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypedDict

from residscope.views.view import (
    Grid2D,
    Labels,
    Numbers,
    Part,
    Plain,
    View,
    interval,
    names,
    numbers,
    plain,
    rows_of_numbers,
    same_length,
    same_shape,
)

Scale = Literal["diverging", "sequential"]
_SCALES = ("diverging", "sequential")


@dataclass(frozen=True)
class HeatMap(View):
    """Numbers by row and column, as colour.

    `diverging` is red above zero, blue below, white at zero, symmetric, full at `limit` (unless given, the 98.5th
    percentile of |value|); `sequential` is violet from zero (or the least value) to `limit` (unless given, the largest).
    Cells beyond the limit get a corner tick, cells that are NaN are hatched.

    `low` and `high` are the ends of each cell's interval; `texts` is written into the cells (a logit lens' tokens);
    `marks` are cells framed, as (row, column) indices; `bottom_up` puts the first row at the bottom, as layers are drawn.

    >>> HeatMap([[0.5, -1.0], [0.0, 2.0]], ["0", "1"], ["a", "b"], unit="logits").kind
    'heat_map'
    """

    kind: ClassVar[str] = "heat_map"
    values: Grid2D
    rows: Labels
    columns: Labels
    title: str = ""
    row_title: str = ""
    column_title: str = ""
    unit: str = ""
    scale: Scale = "diverging"
    limit: float | None = None
    low: Grid2D | None = None
    high: Grid2D | None = None
    marks: Sequence[tuple[int, int]] = ()
    note: str = ""
    texts: Sequence[Sequence[str]] | None = None
    bottom_up: bool = False

    def __post_init__(self) -> None:
        self._set(rows=names(self, "rows", self.rows), columns=names(self, "columns", self.columns))
        n_rows, n_columns = len(self.rows), len(self.columns)
        for part in ("values", "low", "high"):
            if getattr(self, part) is not None:
                self._set(**{part: rows_of_numbers(self, part, getattr(self, part))})
                same_shape(self, part, getattr(self, part), n_rows, n_columns)
        interval(self, _flat(self.low), _flat(self.high))
        if self.texts is not None:
            self._set(texts=tuple(names(self, "texts", row) for row in self.texts))
            same_shape(self, "texts", self.texts, n_rows, n_columns)
        self._set(marks=tuple((int(row), int(column)) for row, column in self.marks))
        outside = [mark for mark in self.marks if not (0 <= mark[0] < n_rows and 0 <= mark[1] < n_columns)]
        self.require(
            not outside, "a mark is outside the map", outside, f"rows below {n_rows}, columns below {n_columns}"
        )
        check_scale(self, self.scale, self.limit)
        self._strings("title", "row_title", "column_title", "unit", "note")


@dataclass(frozen=True)
class Line(Part):
    """One line of a curve; `low` and `high` are its band (whiskers where x is labels)."""

    name: str
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    dashed: bool = False

    def __post_init__(self) -> None:
        for part in ("y", "low", "high"):
            if getattr(self, part) is not None:
                self._set(**{part: numbers(self, part, getattr(self, part))})
        interval(self, self.low, self.high)
        if self.low is not None:
            same_length(self, y=self.y, low=self.low)
        self._strings("name")


@dataclass(frozen=True)
class Reference(Part):
    """A straight line to compare with: upright at x (`axis="x"`), or level at y (`axis="y"`)."""

    at: float
    name: str = ""
    axis: Literal["x", "y"] = "x"

    def __post_init__(self) -> None:
        self._set(at=numbers(self, "at", [self.at])[0])
        self.require(math.isfinite(self.at), "it is nowhere", self.at, "a finite number")
        self.require(self.axis in ("x", "y"), "its axis is unknown", self.axis, '"x" or "y"')
        self._strings("name")


@dataclass(frozen=True)
class Curve(View):
    """Lines over numbers, or over labels (`x` of strings), with bands for their intervals.

    >>> Curve([0, 1, 2], [Line("accuracy", [0.5, 0.7, 0.9], low=[0.4, 0.6, 0.8], high=[0.6, 0.8, 1.0])]).kind
    'curve'
    """

    kind: ClassVar[str] = "curve"
    x: Annotated[Sequence[Any], Plain(Sequence[float] | Sequence[str])]
    lines: Sequence[Line]
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    unit: str = ""
    references: Sequence[Reference] = ()
    note: str = ""

    def __post_init__(self) -> None:
        labelled = any(isinstance(x, str) for x in self.x)
        self._set(x=names(self, "x", self.x) if labelled else numbers(self, "x", self.x), lines=tuple(self.lines))
        if not labelled:
            self.require(all(map(math.isfinite, self.x)), "x is not known everywhere", self.x, "finite numbers")
        for line in self.lines:
            self.require(isinstance(line, Line), "lines has something else", type(line).__name__, "views.Line")
            same_length(self, x=self.x, **{f"y of {line.name!r}": line.y})
        self._set(references=_references(self.references))
        self._strings("title", "x_title", "y_title", "unit", "note")


class Bars(TypedDict):
    """One series of a histogram, counted."""

    name: str
    counts: list[int]
    n: int
    mean: float | None
    left_out: int


@dataclass(frozen=True)
class Histogram(View):
    """How often values fall into bins, for one or several named series over the same bins.

    `bins` is how many of equal width, or their edges. Bars are counts, or each series' share where the series have
    unequal sizes. Values that are not finite, or outside given edges, are counted as left out.

    >>> Histogram({"clean": [0.1, 0.2, 0.9]}, bins=[0, 0.5, 1]).to_dict()["series"][0]["counts"]
    [2, 1]
    """

    kind: ClassVar[str] = "histogram"
    series: Mapping[str, Numbers]
    bins: int | Numbers = 30
    title: str = ""
    x_title: str = ""
    unit: str = ""
    references: Sequence[Reference] = ()
    note: str = ""

    def __post_init__(self) -> None:
        named = isinstance(self.series, Mapping)
        self.require(named, "its series have no names", type(self.series).__name__, "a dict of name to values")
        self._set(series={str(name): numbers(self, name, samples) for name, samples in self.series.items()})
        if isinstance(self.bins, int):
            self.require(1 <= self.bins <= 1000, "it has no such number of bins", self.bins, "1 to 1000")
        else:
            edges = numbers(self, "bins", self.bins)
            rising = len(edges) > 1 and all(a < b for a, b in pairwise(edges))
            self.require(
                rising and all(map(math.isfinite, edges)), "its edges do not rise", edges, "two or more, rising"
            )
            self._set(bins=edges)
        self._set(references=_references(self.references))
        self._strings("title", "x_title", "unit", "note")

    def edges(self) -> tuple[float, ...]:
        if not isinstance(self.bins, int):
            return tuple(self.bins)
        known = [x for samples in self.series.values() for x in samples if math.isfinite(x)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        return (*(low + (high - low) * i / self.bins for i in range(self.bins)), high)

    @classmethod
    def plain_types(cls) -> dict[str, Any]:
        given = super().plain_types()
        counted = {"edges": list[float], "series": list[Bars]}
        return counted | {name: hint for name, hint in given.items() if name not in ("bins", "series")}

    def to_dict(self) -> dict[str, Any]:
        edges = self.edges()
        series = []
        for name, samples in self.series.items():
            counts = [0] * (len(edges) - 1)
            inside = [x for x in samples if edges[0] <= x <= edges[-1]]
            for x in inside:
                counts[min(bisect_right(edges, x) - 1, len(counts) - 1)] += 1
            mean = sum(inside) / len(inside) if inside else math.nan
            series.append(
                {"name": name, "counts": counts, "n": len(inside), "mean": mean, "left_out": len(samples) - len(inside)}
            )
        rest = {name: getattr(self, name) for name in ("title", "x_title", "unit", "references", "note")}
        return plain({"kind": self.kind, "edges": edges, "series": series} | rest)


@dataclass(frozen=True)
class Scatter(View):
    """Points, in one colour per group, with y = x where `diagonal` is asked for; `texts` is said on hover.

    >>> Scatter([0, 1], [1, 0], groups=["ABBA", "BABA"], diagonal=True).kind
    'scatter'
    """

    kind: ClassVar[str] = "scatter"
    x: Numbers
    y: Numbers
    groups: Labels | None = None
    texts: Sequence[str] | None = None
    diagonal: bool = False
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    unit: str = ""
    references: Sequence[Reference] = ()
    note: str = ""

    def __post_init__(self) -> None:
        self._set(x=numbers(self, "x", self.x), y=numbers(self, "y", self.y))
        same_length(self, x=self.x, y=self.y)
        for part in ("groups", "texts"):
            if getattr(self, part) is not None:
                self._set(**{part: names(self, part, getattr(self, part))})
                same_length(self, x=self.x, **{part: getattr(self, part)})
        self._set(references=_references(self.references))
        self._strings("title", "x_title", "y_title", "unit", "note")


@dataclass(frozen=True)
class TokenStrip(View):
    """A text's tokens, each on the colour of its value; `scale` and `limit` as in a heat map.

    >>> TokenStrip(["The", " cat"], [0.0, 1.5], unit="logits").kind
    'token_strip'
    """

    kind: ClassVar[str] = "token_strip"
    tokens: Sequence[str]
    values: Numbers
    title: str = ""
    unit: str = ""
    scale: Scale = "diverging"
    limit: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self._set(tokens=names(self, "tokens", self.tokens), values=numbers(self, "values", self.values))
        same_length(self, tokens=self.tokens, values=self.values)
        check_scale(self, self.scale, self.limit)
        self._strings("title", "unit", "note")


@dataclass(frozen=True)
class Pattern(View):
    """One head's attention: weights[query, key], the lower triangle, from 0 to 1.

    >>> Pattern(["a", "b"], [[1.0, 0.0], [0.3, 0.7]]).kind
    'pattern'
    """

    kind: ClassVar[str] = "pattern"
    tokens: Sequence[str]
    weights: Grid2D
    title: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        self._set(tokens=names(self, "tokens", self.tokens), weights=rows_of_numbers(self, "weights", self.weights))
        n = len(self.tokens)
        same_shape(self, "weights", self.weights, n, n)
        other = "draw scores, differences and other matrices as a HeatMap"
        for query, row in enumerate(self.weights):
            wrong = next((key for key, w in enumerate(row) if not (math.isnan(w) or -1e-6 <= w <= 1 + 1e-3)), None)
            self.require(
                wrong is None, f"weights[{query}, {wrong}] is no attention weight", row[wrong or 0], "0 to 1", other
            )
            ahead = next((key for key in range(query + 1, n) if row[key] > 1e-6), None)
            failed = f"query {query} attends to key {ahead}, which comes later"
            self.require(ahead is None, failed, row[ahead or 0], "zeros above the diagonal", other)
        self._strings("title", "note")


def _flat(grid: Sequence[Sequence[float]] | None) -> list[float] | None:
    return None if grid is None else [x for row in grid for x in row]


def check_scale(view: View, scale: str, limit: float | None) -> None:
    view.require(scale in _SCALES, "its scale is unknown", scale, " or ".join(map(repr, _SCALES)))
    if limit is not None:
        fits = isinstance(limit, int | float) and math.isfinite(limit) and limit > 0
        view.require(fits, "its limit is no length of a scale", limit, "a finite number above zero")


def _references(given: Sequence[Any]) -> tuple[Reference, ...]:
    """Numbers are upright lines without a name."""
    return tuple(item if isinstance(item, Reference) else Reference(item) for item in given)
