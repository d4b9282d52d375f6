"""Numbers against numbers: curves, histograms, scatters."""

import math
from collections.abc import Sequence
from typing import Any, assert_never

from residscope.shown_tokens import as_label
from residscope.views.drawn.palette import (
    LINE,
    LINE_2,
    SERIES,
    SURFACE,
    TEXT_2,
    TEXT_3,
    number,
    round_up,
    titled,
)
from residscope.views.drawn.sheet import (
    POINTS,
    SANS,
    Plan,
    Sheet,
    drawable,
    headed,
    legend_height,
    shortened,
    text_width,
)
from residscope.views.pictures import Curve, Histogram, Line, Reference, Scatter

LEFT, BELOW, RIGHT = 64.0, 44.0, 10.0
CURVE, HISTOGRAM, SCATTER, SQUARE = 190.0, 170.0, 280.0, 430.0
DOTTED = 60
MANY = 500
Entry = tuple[str, str, str]


def curve(view: Curve, width: float) -> Plan:
    labels = [as_label(x) for x in view.x] if view.x and isinstance(view.x[0], str) else None
    at = [float(i) for i in range(len(view.x))] if labels is not None else [float(x) for x in view.x]
    styles = [("--" if line.dashed else ":" if i >= len(SERIES) else "-") for i, line in enumerate(view.lines)]
    entries = [(as_label(line.name), _color(i), styles[i]) for i, line in enumerate(view.lines)]

    def fill(ax: Any) -> None:
        for i, line in enumerate(view.lines):
            _interval(ax, line, at, i, len(view.lines), whiskers=labels is not None)
            dots: dict[str, Any] = {}
            if len(at) <= DOTTED:
                dots = {"marker": "o", "markersize": 3.6, "markeredgecolor": SURFACE, "markeredgewidth": 0.6}
            ys = [y if math.isfinite(y) else math.nan for y in line.y]
            ax.plot(at, ys, color=_color(i), linestyle=styles[i], linewidth=1.3, **dots)
        if labels is not None:
            ax.set_xlim(-0.5, len(labels) - 0.5)

    lost = sum(not math.isfinite(y) for line in view.lines for y in line.y)
    notes = [
        view.note,
        f"not finite, and not drawn: {lost} of {sum(len(line.y) for line in view.lines)} values" if lost else "",
    ]
    axes = (view.x_title, titled(view.y_title, view.unit))
    body = _plot(entries, fill, axes, view.references, width, CURVE, labels=labels)
    return headed(view.title, body, notes, width)


def histogram(view: Histogram, width: float) -> Plan:
    binned = view.to_dict()
    edges, series = binned["edges"], binned["series"]
    shares = len({bars["n"] for bars in series}) > 1
    entries = [
        (f"{as_label(bars['name'])} · n {bars['n']} · mean {number(bars['mean'], 3)}", _color(i), "box")
        for i, bars in enumerate(series)
    ]

    def fill(ax: Any) -> None:
        for i, bars in enumerate(series):
            heights = [count / max(1, bars["n"]) if shares else count for count in bars["counts"]]
            ax.stairs(heights, edges, fill=True, color=_color(i), alpha=0.2 if len(series) > 1 else 0.32)
            ax.stairs(heights, edges, color=_color(i), linewidth=1.0)
        ax.set_ylim(bottom=0)

    notes = [view.note]
    notes += [
        f"{as_label(bars['name'])}: {bars['left_out']} left out (not finite, or outside the bins)"
        for bars in series
        if bars["left_out"]
    ]
    axes = (titled(view.x_title, view.unit), "share" if shares else "count")
    body = _plot(entries, fill, axes, view.references, width, HISTOGRAM)
    return headed(view.title, body, notes, width)


def scatter(view: Scatter, width: float) -> Plan:
    width = min(width, SQUARE) if view.diagonal else width
    here = [i for i, (x, y) in enumerate(zip(view.x, view.y, strict=True)) if math.isfinite(x) and math.isfinite(y)]
    names = list(dict.fromkeys(view.groups or ()))
    entries = [(as_label(name), _color(i), "dot" if i < len(SERIES) else "ring") for i, name in enumerate(names)]
    small = len(here) > MANY

    def fill(ax: Any) -> None:
        for i, name in enumerate(names or [None]):
            own = [k for k in here if view.groups is None or view.groups[k] == name]
            ring: dict[str, Any] = (
                {"facecolors": "none", "edgecolors": _color(i)} if i >= len(SERIES) else {"color": _color(i)}
            )
            dots = ax.scatter(
                [view.x[k] for k in own], [view.y[k] for k in own], s=4 if small else 14, alpha=0.55 if small else 0.75,
                linewidths=0.8 if i >= len(SERIES) else 0, **ring,
            )  # fmt: skip
            dots.set_rasterized(len(own) > 20_000)
        if view.diagonal:
            low, high = min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])
            ax.set(xlim=(low, high), ylim=(low, high))
            ax.plot([low, high], [low, high], color=TEXT_3, linewidth=0.8, linestyle="--", zorder=0)

    lost = len(view.x) - len(here)
    notes = [view.note, f"{lost} not drawn: a coordinate is not finite" if lost else ""]
    axes = (titled(view.x_title, view.unit), titled(view.y_title, view.unit))
    body = _plot(entries, fill, axes, view.references, width, max(160.0, width - 60) if view.diagonal else SCATTER)
    return headed(view.title, body, notes, width)


def _color(i: int) -> str:
    return SERIES[i % len(SERIES)]


def _interval(ax: Any, line: Line, at: Sequence[float], i: int, lines: int, *, whiskers: bool) -> None:
    """A band; where x is labels, or a point stands alone, whiskers, side by side."""
    if line.low is None or line.high is None:
        return
    ends = [(x, low, high) for x, low, high in zip(at, line.low, line.high, strict=True)]
    known = [math.isfinite(low) and math.isfinite(high) for _, low, high in ends]
    alone = [ok and not any(known[j] for j in (k - 1, k + 1) if 0 <= j < len(known)) for k, ok in enumerate(known)]
    if not whiskers:
        low = [a if ok else math.nan for (_, a, _), ok in zip(ends, known, strict=True)]
        high = [b if ok else math.nan for (_, _, b), ok in zip(ends, known, strict=True)]
        ax.fill_between(at, low, high, color=_color(i), alpha=0.14, linewidth=0)
    aside = (i - (lines - 1) / 2) * 0.06 if whiskers else 0.0
    chosen = [end for end, ok, single in zip(ends, known, alone, strict=True) if ok and (whiskers or single)]
    for x, a, b in chosen:
        ax.errorbar(x + aside, (a + b) / 2, yerr=(b - a) / 2, fmt="none", ecolor=_color(i), elinewidth=0.8, capsize=2)


def _plot(
    entries: Sequence[Entry],
    fill: Any,
    titles: tuple[str, str],
    references: Sequence[Reference],
    width: float,
    height: float,
    *,
    labels: Sequence[str] | None = None,
) -> Plan:
    legend = legend_height(entries, width)
    inner = width - LEFT - RIGHT
    every, upright = _every(labels or (), inner)
    named = any(reference.name for reference in references if reference.axis == "x")
    head = legend + (14 if named else 0)
    below = BELOW + (max(text_width(_cut(x), 10) for x in labels or ()) - 8 if upright else 0)

    def draw(sheet: Sheet, left: float, top: float) -> None:
        sheet.swatches(entries, left, top, width)
        ax = sheet.axes(left + LEFT, top + head, inner, height)
        _dress(ax, titles)
        fill(ax)
        for reference in references:
            _refer(ax, reference)
        if labels is not None:
            ax.set_xticks(range(0, len(labels), every), [drawable(_cut(x)) for x in labels[::every]])
            if upright:
                ax.tick_params(axis="x", rotation=90)

    return Plan(width, head + height + below, draw)


def _cut(label: str) -> str:
    return shortened(label, 120, 10)


def _every(labels: Sequence[str], room: float) -> tuple[int, bool]:
    """Every how many labels are written, and whether they stand upright."""
    if not labels:
        return 1, False
    each, longest = room / len(labels), max(text_width(_cut(label), 10) for label in labels)
    if longest + 6 <= each:
        return 1, False
    return round_up(13 / each), True


def _dress(ax: Any, titles: tuple[str, str]) -> None:
    ax.set_facecolor(SURFACE)
    ax.grid(color=LINE, linewidth=0.5)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=LINE_2, linewidth=0.8)
    ax.tick_params(colors=TEXT_2, labelsize=10 * POINTS, color=LINE_2, width=0.6, length=3, labelfontfamily=SANS)
    ax.set_xlabel(drawable(titles[0]), fontsize=11 * POINTS, color=TEXT_2, family=SANS)
    ax.set_ylabel(drawable(shortened(titles[1], 260, 11)), fontsize=11 * POINTS, color=TEXT_2, family=SANS)
    ax.locator_params(axis="both", nbins=7)


def _refer(ax: Any, reference: Reference) -> None:
    style: dict[str, Any] = {"color": TEXT_3, "linewidth": 0.8, "linestyle": "--", "zorder": 1}
    words: dict[str, Any] = {"fontsize": 9.5 * POINTS, "color": TEXT_3, "family": SANS}
    name = drawable(reference.name)
    axis = reference.axis
    if axis == "x":
        ax.axvline(reference.at, **style)
        ax.annotate(
            name,
            (reference.at, 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            **words,
        )
    elif axis == "y":
        ax.axhline(reference.at, **style)
        ax.annotate(
            name,
            (1, reference.at),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            **words,
        )
    else:
        assert_never(axis)
