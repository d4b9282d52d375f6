"""Rows by columns of colour: heat maps and attention patterns."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from residscope.shown_tokens import as_label, visible
from residscope.views.drawn.palette import TEXT, TEXT_3, ColorScale, color_scale, flat, number, round_up
from residscope.views.drawn.sheet import (
    BAR,
    LEGEND_HEIGHT,
    Plan,
    Point,
    Sheet,
    corners_of,
    headed,
    shortened,
    text_width,
)
from residscope.views.pictures import HeatMap, Pattern

SIZE, LINE, UP_ROOM, READABLE = 10.0, 11.0, 84.0, 40.0
LOUD, LARGE, MOST_WRITTEN = 0.25, 120, 0.25
MOST_WIDTH = 6000.0
_NUMBER = re.compile(r"[−\-\d.e+∞]*")


@dataclass(frozen=True)
class Cells:
    """Values from the top down, their labels, and what stands in each."""

    values: Sequence[Sequence[float]]
    rows: Sequence[str]
    columns: Sequence[str]
    titles: tuple[str, str]
    unit: str
    scale: ColorScale
    inside: Sequence[Sequence[str]]
    framed: frozenset[tuple[int, int]] = frozenset()
    square: bool = False
    least: float = 4.0
    triangle: bool = False


def heat_map(view: HeatMap, width: float) -> Plan:
    scale = color_scale(flat(view.values), view.scale, view.limit)
    order = [*range(len(view.rows))][:: -1 if view.bottom_up else 1]
    inside = _texts(view) if view.texts is not None else _numbers(view, scale)
    cells = Cells(
        [view.values[r] for r in order],
        [as_label(view.rows[r]) for r in order],
        [as_label(name) for name in view.columns],
        (view.row_title, view.column_title),
        view.unit,
        scale,
        [inside[r] for r in order],
        frozenset((order.index(r), c) for r, c in view.marks),
        least=32.0 if view.texts is not None else 4.0,
    )
    between = "Intervals are in the page and the table." if view.low is not None else ""
    return headed(view.title, _drawn(cells, width), [view.note, between], width)


def pattern(view: Pattern, width: float) -> Plan:
    names = [visible(token) for token in view.tokens]
    scale = ColorScale("sequential", 0.0, 1.0)
    written = [["" if math.isnan(w) or w < LOUD else f"{w:.2f}"[:4] for w in row] for row in view.weights]
    cells = Cells(
        view.weights, names, names, ("query", "key"), "attention", scale, written, square=True, triangle=True,
    )  # fmt: skip
    return headed(view.title, _drawn(cells, width), [view.note], width)


def _texts(view: HeatMap) -> list[list[str]]:
    return [[as_label(text.strip() or text) for text in row] for row in view.texts or ()]


def _numbers(view: HeatMap, scale: ColorScale) -> list[list[str]]:
    """The numbers that are written out: from a quarter of the full colour on; in large maps the largest quarter."""
    sizes = sorted((abs(x) for x in flat(view.values) if not math.isnan(x)), reverse=True)
    loud = LOUD * max(abs(scale.low), abs(scale.high))
    loud = max(loud, sizes[int(MOST_WRITTEN * len(sizes))] if len(sizes) > LARGE else 0.0)
    digits = next(n for n, most in ((3, 0.1), (2, 1.05), (1, 100.0), (0, math.inf)) if scale.high <= most)

    def written(x: float) -> str:
        if math.isnan(x) or abs(x) < loud:
            return ""
        text = f"{x:.{digits}f}" if math.isfinite(x) else ""
        return text.replace("-", "−") if text and float(text) else number(x, 1)

    return [[written(x) for x in row] for row in view.values]


def _drawn(cells: Cells, room: float) -> Plan:
    if not cells.rows or not cells.columns:
        return Plan(room, 14, lambda sheet, left, top: sheet.text(left, top + 10, "nothing to draw", size=SIZE))
    widest = min(max(120.0, room * 0.2), max([18.0, *(text_width(name, SIZE, mono=True) for name in cells.rows)]))
    titles = max(text_width(title, SIZE) for title in cells.titles)
    left = math.ceil(max(widest, min(titles, 120.0))) + 8
    w, h = _cell_size(cells, room - left - 2)
    up, every, heads = _heads(cells.columns, w)
    titled = 14 if any(cells.titles) else 0
    top = LEGEND_HEIGHT + max(heads, titled * 2)
    grid_w, grid_h = w * len(cells.columns), h * len(cells.rows)
    gap = 1.0 if w >= 8 and h >= 8 else 0.0

    def draw(sheet: Sheet, x0: float, y0: float) -> None:
        sheet.color_bar(cells.scale, cells.unit, x0 + max(left + grid_w, BAR), y0)
        _cells(sheet, cells, x0 + left, y0 + top, w, h, gap)
        for c in range(0, len(cells.columns), every):
            x, level = x0 + left + (c + 0.5) * w, y0 + top - 5
            room = UP_ROOM if up else max(w * every - 3, w)
            name = shortened(cells.columns[c], room, SIZE, mono=True)
            sheet.text(x, level, name, size=SIZE, mono=True, align="center", up=up)
        for r in range(0, len(cells.rows), round_up(LINE / h)):
            name = shortened(cells.rows[r], left - 8, SIZE, mono=True)
            sheet.text(x0 + left - 6, y0 + top + (r + 0.5) * h + 3.5, name, size=SIZE, mono=True, align="right")
        for i, title in enumerate(reversed(cells.titles)):
            y = y0 + top - 17 + 12 * i
            sheet.text(x0 + left - 6, y, shortened(title, left - 8, SIZE), size=SIZE, color=TEXT_3, align="right")

    return Plan(max(left + grid_w + 4, left + BAR), top + grid_h + 2, draw)


def _cell_size(cells: Cells, room: float) -> tuple[float, float]:
    rows, columns = len(cells.rows), len(cells.columns)
    least = min(cells.least, MOST_WIDTH / columns)
    if cells.square:
        side = max(least, min(28.0, room / columns))
        return side, side
    return max(least, min(52.0, room / columns)), max(min(4.0, MOST_WIDTH / rows), min(18.0, 540.0 / rows))


def _heads(labels: Sequence[str], width: float) -> tuple[bool, int, float]:
    """How the columns' names fit above cells of that width: upright or level, every how many, and how high they are."""
    longest = max(text_width(label, SIZE, mono=True) for label in labels)
    if longest <= width - 3:
        return False, 1, 15.0
    if all(_NUMBER.fullmatch(label) for label in labels):
        return False, round_up((longest + 8) / width), 15.0
    if width >= READABLE:
        return False, 1, 15.0
    return True, round_up(LINE / width), min(UP_ROOM, longest) + 6


def _cells(sheet: Sheet, cells: Cells, left: float, top: float, w: float, h: float, gap: float) -> None:
    boxes: list[list[Point]] = []
    colors: list[object] = []
    missing: list[list[Point]] = []
    ticks: list[list[Point]] = []
    inks: list[object] = []
    tick = min(6.0, w / 3, h / 2)
    scale = cells.scale
    for r, row in enumerate(cells.values):
        for c, value in enumerate(row):
            if cells.triangle and c > r:
                continue
            x, y = left + c * w, top + r * h
            box = corners_of(x, y, w - gap, h - gap)
            if math.isnan(value):
                missing.append(box)
                continue
            boxes.append(box)
            colors.append(scale.color(value))
            if scale.clipped(value):
                ticks.append([(x + w - gap - tick, y), (x + w - gap, y), (x + w - gap, y + tick)])
                inks.append(scale.ink(value))
    sheet.polygons(boxes, colors)
    sheet.missing(missing)
    sheet.polygons(ticks, inks)
    for r, c in cells.framed:
        sheet.frame(left + c * w, top + r * h, w - gap, h - gap, TEXT, 1.5)
    if w < 22 or h < 12:
        return
    for r, words in enumerate(cells.inside):
        for c, word in enumerate(words):
            text = shortened(word, w - 2, 9.5, mono=True)
            if text and not math.isnan(cells.values[r][c]) and (text == word or not _NUMBER.fullmatch(word)):
                ink = scale.ink(cells.values[r][c])
                sheet.text(
                    left + (c + 0.5) * w - gap / 2,
                    top + (r + 0.5) * h + 3,
                    text,
                    size=9.5,
                    color=ink,
                    align="center",
                    mono=True,
                )
