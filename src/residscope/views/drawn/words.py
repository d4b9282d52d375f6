"""What is read: token strips, tables, texts, cards; and the grid that holds any of the kinds."""

import math
from collections.abc import Callable, Sequence

from residscope.shown_tokens import as_label, visible
from residscope.views.contexts import Contexts
from residscope.views.drawn.palette import LINE, LINE_2, OK, TEXT, TEXT_2, TEXT_3, WARN, color_scale, number
from residscope.views.drawn.sheet import (
    BAR,
    LEGEND_HEIGHT,
    Plan,
    Point,
    Sheet,
    corners_of,
    headed,
    paragraphs,
    shortened,
    stacked,
    text_width,
)
from residscope.views.pictures import TokenStrip
from residscope.views.view import Value, View
from residscope.views.words import Card, Grid, Table, Text

MOST_ROWS = 60
ROW, PAD = 18.0, 14.0
STRIP, STRIP_SIZE = 24.0, 12.0
AFTER = 6  # tokens of a line after the one it is about
NARROWEST = 330.0  # a grid's column


def token_strip(view: TokenStrip, width: float) -> Plan:
    """A text, each token on the colour of its value."""
    scale = color_scale(view.values, view.scale, view.limit)
    boxes: list[tuple[str, float, float, float, float]] = []
    x = y = 0.0
    for token, value in zip(view.tokens, view.values, strict=True):
        text = shortened(visible(token), min(width, 360) - 8, STRIP_SIZE, mono=True)
        w = text_width(text, STRIP_SIZE, mono=True) + 8
        if x > 0 and x + w > width:
            x, y = 0.0, y + STRIP
        boxes.append((text, x, y, w, value))
        x += w + 1
        if token.endswith("\n"):
            x, y = 0.0, y + STRIP
    right = max([BAR, *(x + w for _, x, _, w, _ in boxes)])

    def draw(sheet: Sheet, left: float, top: float) -> None:
        sheet.color_bar(scale, view.unit, left + right, top)
        for text, x, y, w, value in boxes:
            corners: list[Point] = corners_of(left + x, top + LEGEND_HEIGHT + y, w, STRIP - 4)
            known = not math.isnan(value)
            if known:
                sheet.polygons([corners], [scale.color(value)])
            else:
                sheet.missing([corners])
            ink = scale.ink(value) if known else TEXT
            if known and scale.clipped(value):
                (_, y1), (x2, _) = corners[0], corners[1]
                sheet.polygons([[(x2 - 5, y1), (x2, y1), (x2, y1 + 5)]], [ink])
            line = top + LEGEND_HEIGHT + y + 14
            sheet.text(left + x + 4, line, text, size=STRIP_SIZE, color=ink, mono=True)

    last = boxes[-1][2] + STRIP if boxes else 0.0
    return headed(view.title, Plan(right, LEGEND_HEIGHT + last, draw), [view.note], width)


def contexts(view: Contexts, width: float) -> Plan:
    """Lines of text, each cut so that the token it is about is in sight; what is told of each stands before it."""
    scale = color_scale([value for row in view.rows for value in row.values], view.scale, view.limit)
    told = [[value_text(cell) for cell in row.cells] for row in view.rows]
    widths = _widths([view.columns, *told], width / 2) if view.columns else []
    edges = [sum(widths[:i]) for i in range(len(widths) + 1)]
    lines = [_line(row.tokens, row.at, width - edges[-1]) for row in view.rows]

    def draw(sheet: Sheet, left: float, top: float) -> None:
        sheet.color_bar(scale, view.unit, left + width, top)
        for i, name in enumerate(view.columns):
            text = shortened(name, widths[i] - PAD, 11)
            sheet.text(left + edges[i + 1] - PAD, top + 18, text, color=TEXT_3, align="right")
        for r, (row, line) in enumerate(zip(view.rows, lines, strict=True)):
            y = top + LEGEND_HEIGHT + r * STRIP
            for i, words in enumerate(told[r]):
                text = shortened(words, widths[i] - PAD, 11)
                sheet.text(left + edges[i + 1] - PAD, y + 14, text, color=TEXT, align="right")
            for token, text, x, w in line:
                x += left + edges[-1]
                value = row.values[token]
                corners = [corners_of(x, y, w, STRIP - 4)]
                known = not math.isnan(value)
                if known:
                    sheet.polygons(corners, [scale.color(value)])
                else:
                    sheet.missing(corners)
                if token == row.at:
                    sheet.line([x, x + w], [y + STRIP - 3] * 2, TEXT, 1.6)
                sheet.text(x, y + 14, text, size=STRIP_SIZE, color=scale.ink(value) if known else TEXT, mono=True)

    height = LEGEND_HEIGHT + STRIP * len(view.rows) if view.rows else 0.0
    return headed(view.title, Plan(width, height, draw), [view.note], width)


def _line(tokens: Sequence[str], at: int | None, room: float) -> list[tuple[int, str, float, float]]:
    """Of one line the tokens that have room, those around `at` first: which, its text, where it begins, how wide."""
    shown = [shortened(visible(token), 240, STRIP_SIZE, mono=True) for token in tokens]
    widths = [text_width(text, STRIP_SIZE, mono=True) for text in shown]
    if not tokens:
        return []
    first = last = at or 0
    near = min(len(tokens), last + 1 + AFTER)
    taken = widths[first]
    for i in (*range(last + 1, near), *range(first - 1, -1, -1), *range(near, len(tokens))):
        if i in (first - 1, last + 1) and taken + widths[i] <= room:
            first, last, taken = min(first, i), max(last, i), taken + widths[i]
    starts = [sum(widths[first:i]) for i in range(first, last + 1)]
    return [(i, shown[i], x, widths[i]) for i, x in zip(range(first, last + 1), starts, strict=True)]


def table(view: Table, width: float) -> Plan:
    """Its first rows, where there are very many; numbers to the right."""
    rows = [[value_text(value) for value in row] for row in view.rows[:MOST_ROWS]]
    numeric = [
        all(row[i] is None or (isinstance(row[i], int | float) and not isinstance(row[i], bool)) for row in view.rows)
        for i in range(len(view.columns))
    ]
    widths = _widths([view.columns, *rows], width)
    edges = [sum(widths[:i]) for i in range(len(widths) + 1)]

    def line(sheet: Sheet, words: Sequence[str], left: float, y: float, *, head: bool) -> None:
        for i, word in enumerate(words):
            text = shortened(word, widths[i] - PAD, 11)
            x = left + (edges[i + 1] - PAD if numeric[i] else edges[i])
            sheet.text(x, y + 13, text, color=TEXT_3 if head else TEXT, align="right" if numeric[i] else "left")

    def draw(sheet: Sheet, left: float, top: float) -> None:
        line(sheet, view.columns, left, top, head=True)
        for r, row in enumerate(rows):
            y = top + ROW * (r + 1)
            sheet.line([left, left + edges[-1]], [y, y], LINE if r else LINE_2, 0.8)
            line(sheet, row, left, y, head=False)

    left_out = len(view.rows) - len(rows)
    more = f"The first {len(rows)} of {len(view.rows):,} rows; the page has all of them." if left_out else ""
    return headed(view.title, Plan(edges[-1], ROW * (len(rows) + 1), draw), [view.note, more], width)


def text(view: Text, width: float) -> Plan:
    words = [(view.title, 12.0, TEXT, True), *((paragraph, 11.0, TEXT_2, False) for paragraph in view.paragraphs)]
    return paragraphs([entry for entry in words if entry[0]], width)


def card(view: Card, width: float) -> Plan:
    """A claim, whether it held, and what was measured for it; failed as plain as passed."""
    inner = width - 28
    color = {"passed": OK, "failed": WARN}.get(view.verdict or "", LINE_2)
    mark = {"passed": "✓ passed", "failed": "✗ failed"}.get(view.verdict or "", "")
    head = paragraphs([(view.title, 12.0, TEXT, True)], inner - (80 if mark else 0))
    names = min(inner * 0.55, max([0.0, *(text_width(name, 11) for name in view.fields)]) + PAD)
    fields = [(shortened(name, names - 6, 11), value_text(value)) for name, value in view.fields.items()]
    note = paragraphs([(view.note, 10.0, TEXT_3, False)] if view.note else [], inner)

    def listed(sheet: Sheet, left: float, top: float) -> None:
        for i, (name, value) in enumerate(fields):
            y = top + ROW * i + 13
            sheet.text(left, y, name, color=TEXT_3)
            sheet.text(left + names, y, shortened(value, inner - names, 11), color=TEXT)

    body = stacked([head, Plan(inner, ROW * len(fields), listed), note], gap=8)

    def draw(sheet: Sheet, left: float, top: float) -> None:
        sheet.frame(left, top, width - 1, body.height + 20)
        sheet.rect(left, top, 3, body.height + 20, color)
        body.draw(sheet, left + 14, top + 10)
        if mark:
            sheet.text(left + width - 14, top + 23, mark, color=color, align="right", bold=True)

    return Plan(width, body.height + 20, draw)


def grid(view: Grid, width: float, plan: Callable[[View, float], Plan]) -> Plan:
    """Side by side, row by row; a column is as wide as its widest picture."""
    n = max(1, min(view.columns, len(view.views)))
    room = max((width - 24 * (n - 1)) / n, NARROWEST)
    plans = [plan(cell, room) for cell in view.views]
    rows = [plans[i : i + n] for i in range(0, len(plans), n)]
    columns = [max(row[c].width for row in rows if c < len(row)) for c in range(n)] if plans else []
    lefts = [sum(columns[:c]) + 24 * c for c in range(n)]
    heights = [max(cell.height for cell in row) for row in rows]

    def draw(sheet: Sheet, left: float, top: float) -> None:
        for row, height in zip(rows, heights, strict=True):
            for c, cell in enumerate(row):
                cell.draw(sheet, left + lefts[c], top)
            top += height + 22

    height = sum(heights) + 22 * max(0, len(heights) - 1)
    body = Plan(sum(columns) + 24 * max(0, len(columns) - 1), height, draw)
    head = paragraphs([(view.title, 14.0, TEXT, True)] if view.title else [], max(width, body.width))
    return stacked([head, body], gap=10)


def value_text(value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else as_label(value)


def _widths(rows: Sequence[Sequence[str]], room: float) -> list[float]:
    """As wide as their longest text, the widest ones cut until all fit."""
    wanted = [max(text_width(shortened(row[i], 600, 11), 11) for row in rows) + PAD for i in range(len(rows[0]))]
    if sum(wanted) <= room:
        return wanted
    low, high = 0.0, max(wanted)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(w, middle) for w in wanted) <= room else (low, middle)
    return [min(w, max(low, 40.0)) for w in wanted]
