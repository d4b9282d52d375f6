"""Layered graphs: boxes in rows by level, edges between them by sign and size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from residscope.shown_tokens import as_label
from residscope.views.drawn.palette import (
    LINE,
    LINE_2,
    SUNKEN,
    SURFACE,
    TEXT,
    TEXT_3,
    ColorScale,
    color_scale,
    number,
)
from residscope.views.drawn.sheet import (
    BAR,
    LEGEND_HEIGHT,
    Plan,
    Sheet,
    headed,
    shortened,
    text_width,
    wrap,
)
from residscope.views.network import Network

BOX, HIGH, GAP, ROW, STEP = (
    84.0,
    18.0,
    10.0,
    26.0,
    44.0,
)  # a box; room beside it; from row to row in a level and between levels
SIZE = 10.0
NARROWEST, MOST_WIDTH, MOST_NAME = 26.0, 6000.0, 150.0
FAINTEST = 0.12
LEGEND = (
    "Edges lead upward. Red: the source raises the target (taking it out lowers it); blue: the source lowers the target. "
    "The stronger, the wider and the less transparent."
)


@dataclass(frozen=True)
class Placing:
    """Where rows and places are on the sheet, from the corner of the picture's grid."""

    box: float
    left: float
    rows: Sequence[float]

    def x(self, place: float) -> float:
        return self.left + place * (self.box + GAP)

    def y(self, row: float) -> float:
        low = min(max(int(row), 0), len(self.rows) - 1)
        high = min(low + 1, len(self.rows) - 1)
        return self.rows[low] + (self.rows[high] - self.rows[low]) * (row - low)


def network(view: Network, width: float) -> Plan:
    """The graph, with the levels' names at the left and the columns' at the bottom."""
    edges = color_scale([edge.value for edge in view.edges], "diverging", _limit(view))
    values = [node.value for node in view.nodes if node.value is not None]
    nodes = color_scale(values, "diverging", None) if values else None
    levels, columns = ([name and as_label(name) for name in names] for names in (view.levels, view.columns))
    names = min(MOST_NAME, max([0.0, *(text_width(name, SIZE) for name in levels)]))
    across = max([len(columns), *(node.x + 1 for node in view.nodes), 1])
    labels = [as_label(node.label) for node in view.nodes]
    wanted = max([NARROWEST, *(text_width(label, SIZE, mono=True) + 10 for label in labels)])
    box = max(NARROWEST, min(BOX, wanted, MOST_WIDTH / across - GAP))
    high = max([len(levels), *(math.floor(node.y) + 1 for node in view.nodes)], default=0)
    tops = _rows(view.levels, high)
    placing = Placing(box, names + 14 if names else 0.0, tops)
    drawn_width = placing.x(across) if view.nodes else 0.0
    whole = max(drawn_width, BAR * (2 if nodes else 1) + 24)
    below = HIGH + 4 if any(columns) else 0.0
    grid = (tops[0] + HIGH + 6 if tops else 0.0) + below
    words = wrap(LEGEND + _dashed(view), max(width, whole), SIZE) if view.nodes else []

    def draw(sheet: Sheet, left: float, top: float) -> None:
        sheet.color_bar(edges, view.unit, left + whole, top)
        if nodes is not None:
            sheet.color_bar(nodes, view.node_unit, left + whole - BAR - 24, top)
        corner = top + LEGEND_HEIGHT
        for name, row in _middles(levels, len(levels)):
            text = shortened(name, names, SIZE)
            sheet.text(left + names, corner + placing.y(row) + 13, text, size=SIZE, color=TEXT_3, align="right")
        for row in range(1, min(high, len(levels))):
            if levels[row]:
                between = corner + (tops[row] + tops[row - 1] + HIGH) / 2
                sheet.line([left + placing.left, left + whole], [between] * 2, LINE, 0.6)
        for name, place in _middles(columns, len(columns)):
            middle = left + placing.x(place) + box / 2
            text = shortened(name, 2 * box, SIZE, mono=True)
            sheet.text(middle, corner + grid - 6, text, size=SIZE, align="center", mono=True)
        _edges(sheet, view, edges, placing, left, corner)
        _boxes(sheet, view, labels, nodes, placing, left, corner)
        for i, line in enumerate(words):
            sheet.text(left, corner + grid + 14 + i * 14, line, size=SIZE, color=TEXT_3)

    body = Plan(whole, LEGEND_HEIGHT + grid + (14 * len(words) + 6 if words else 0), draw)
    return headed(view.title, body, [view.note], max(width, whole))


def _limit(view: Network) -> float | None:
    largest = max((abs(edge.value) for edge in view.edges), default=0.0)
    return view.limit or largest or None


def _dashed(view: Network) -> str:
    return " Dashed: what a dictionary leaves out." if any(node.error for node in view.nodes) else ""


def _rows(levels: Sequence[str], high: int) -> list[float]:
    """The upper edge of each row, the first at the bottom; rows of one level are closer."""
    tops = [0.0]
    for row in reversed(range(1, high)):
        tops.append(tops[-1] + (STEP if row >= len(levels) or levels[row] else ROW))
    return tops[::-1] if high else []


def _middles(names: Sequence[str], n: int) -> list[tuple[str, float]]:
    """Each name with the middle of what it is of: from where it stands to where the next one does."""
    starts = [i for i, name in enumerate(names) if name]
    return [(names[i], (i + end - 1) / 2) for i, end in zip(starts, [*starts[1:], n], strict=False)]


def _edges(sheet: Sheet, view: Network, scale: ColorScale, placing: Placing, left: float, top: float) -> None:
    """The weakest first, so that the strongest are on top."""
    for edge in sorted(view.edges, key=lambda edge: abs(edge.value)):
        a, b = view.nodes[edge.source], view.nodes[edge.target]
        x0, x1 = (left + placing.x(node.x) + placing.box / 2 for node in (a, b))
        up = placing.y(b.y) < placing.y(a.y)
        y0 = top + placing.y(a.y) + (0 if up else HIGH)
        y1 = top + placing.y(b.y) + (HIGH if up else 0)
        share = min(1.0, abs(edge.value) / scale.high)
        color = scale.color(math.copysign(scale.high, edge.value))
        sheet.curve(
            (x0, y0), (x1, y1), color, 0.6 + 3.4 * share, alpha=FAINTEST + (0.9 - FAINTEST) * share, title=edge.text
        )


def _boxes(
    sheet: Sheet,
    view: Network,
    labels: Sequence[str],
    scale: ColorScale | None,
    placing: Placing,
    left: float,
    top: float,
) -> None:
    for node, label in zip(view.nodes, labels, strict=True):
        x, y = left + placing.x(node.x), top + placing.y(node.y)
        known = scale is not None and node.value is not None
        fill = scale.color(node.value) if known else SURFACE  # type: ignore[union-attr, arg-type]
        ink = scale.ink(node.value) if known else TEXT  # type: ignore[union-attr, arg-type]
        fill, ink = (SUNKEN, TEXT) if node.error and not known else (fill, ink)
        line = TEXT if node.group else LINE_2
        told = node.text or f"{label}{'' if node.value is None else ' ' + number(node.value)}"
        with sheet.pointed_at(told, node.link):
            sheet.box(x, y, placing.box, HIGH, fill, line=line, dashed=node.error, thick=1.6 if node.group else 1.0)
            text = shortened(label, placing.box - 6, SIZE, mono=True)
            sheet.text(x + placing.box / 2, y + 13, text, size=SIZE, color=ink, align="center", mono=True)
