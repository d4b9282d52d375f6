"""The page's colours (`web/src/page.css`, light), and numbers as colours; numbers and labels as the page writes them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from residscope.views.pictures import Scale

RGB = tuple[float, float, float]
SURFACE, SUNKEN, LINE, LINE_2 = "#ffffff", "#f3f3f0", "#e3e3de", "#cbcbc4"
TEXT, TEXT_2, TEXT_3 = "#1a1b1e", "#4e5157", "#62666c"
OK, WARN = "#17683a", "#855000"
SERIES = (TEXT, "#0b6570", WARN, "#4b38b0", OK, TEXT_3)
DIVERGING = ("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f5", "#fddbc7", "#f4a582", "#d6604d", "#b2182b")
SEQUENTIAL = ("#ffffff", "#eceaf6", "#cfcae8", "#a69cd3", "#7566b5", "#41307f")
QUANTILE = 0.985


@dataclass(frozen=True)
class ColorScale:
    """How values become colours: full at `high`, clipped beyond."""

    name: str
    low: float
    high: float

    def color(self, value: float) -> RGB:
        stops = DIVERGING if self.name == "diverging" else SEQUENTIAL
        part = 0.5 if math.isinf(self.high - self.low) else 1.0  # of numbers so large that their difference is none
        low, span = part * self.low, part * self.high - part * self.low
        share = (part * value - low) / span if math.isfinite(value) else float(value > 0)
        x = max(0.0, min(1.0, share)) * (len(stops) - 1)
        i = min(int(x), len(stops) - 2)
        a, b = rgb(stops[i]), rgb(stops[i + 1])
        return (a[0] + (b[0] - a[0]) * (x - i), a[1] + (b[1] - a[1]) * (x - i), a[2] + (b[2] - a[2]) * (x - i))

    def ink(self, value: float) -> str:
        return "#000000" if luminance(self.color(value)) > 0.179 else "#ffffff"

    def clipped(self, value: float) -> bool:
        if self.name == "diverging":
            return abs(value) > self.high * 1.001
        return value > self.high + (self.high - self.low) * 1e-3


def color_scale(values: Iterable[float], name: Scale, limit: float | None) -> ColorScale:
    """`diverging`: symmetric, full at the limit or the 98.5th percentile of |value|; `sequential`: from zero, or the least.

    >>> color_scale([-1.0, 3.0, math.nan], "diverging", None)
    ColorScale(name='diverging', low=-3.0, high=3.0)
    """
    finite = [x for x in values if math.isfinite(x)]
    match name:
        case "diverging":
            sizes = sorted(map(abs, finite))
            typical = sizes[min(len(sizes) - 1, math.floor(QUANTILE * len(sizes)))] if sizes else 0.0
            high = limit or typical or (sizes[-1] if sizes else 0.0) or 1.0
            return ColorScale(name, -high, high)
        case "sequential":
            low = min([0.0, *finite])
            most = limit if limit is not None else max([low, *finite])
            return ColorScale(name, low, most if most > low else low + max(1.0, abs(low)))
        case _:
            assert_never(name)


def rgb(text: str) -> RGB:
    return int(text[1:3], 16) / 255, int(text[3:5], 16) / 255, int(text[5:7], 16) / 255


def luminance(color: RGB) -> float:
    """WCAG's relative luminance."""
    r, g, b = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def number(value: float | None, digits: int = 4) -> str:
    """A number as it is read: so many significant digits, a real minus, – where it is not known.

    >>> number(-0.12345), number(12345678.0), number(-0.0), number(math.nan)
    ('−0.1235', '1.235e+07', '0', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    whole = float(value).is_integer() and abs(value) < 1e6
    return (f"{value + 0.0:.0f}" if whole else f"{value:.{digits}g}").replace("-", "−")


def round_up(n: float) -> int:
    """The round number from n up: 1, 2, 5, 10, 20 ... so that what is left of labels counts evenly."""
    if not n > 1:
        return 1
    power = 10 ** math.floor(math.log10(n))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= n)


def titled(title: str, unit: str) -> str:
    """An axis' title with its unit."""
    return f"{title} ({unit})" if title and unit else title or unit


def flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [x for row in rows for x in row]
