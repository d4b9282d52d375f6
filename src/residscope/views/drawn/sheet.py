"""The paper that a view is drawn on, measured in the page's pixels from its upper left corner."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from residscope.once import once
from residscope.shown_tokens import one_line
from residscope.views.drawn.palette import LINE, LINE_2, SUNKEN, TEXT, TEXT_2, TEXT_3, ColorScale, number

PER_INCH = 96
POINTS = 72 / PER_INCH
SANS, MONO = (
    "DejaVu Sans",
    "DejaVu Sans Mono",
)  # they come with matplotlib, so that a figure is one wherever it is drawn
MOST_CELLS = 20_000
LEGEND_HEIGHT, BAR = 28, 148
Point = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """How large a picture is, and how to draw it with its corner somewhere on a sheet."""

    width: float
    height: float
    draw: Callable[["Sheet", float, float], None]


class Sheet:
    """One figure, whose own axes count in pixels; pictures with scales get axes of their own on it."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width / PER_INCH, height / PER_INCH), facecolor="white")
        self.width, self.height = width, height
        self.titles: dict[str, str] = {}
        self._told: tuple[str, str] = ("", "")
        self._page = self.axes(0, 0, width, height)
        self._page.set(xlim=(0, width), ylim=(height, 0))
        self._page.axis("off")

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        share = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        return self.figure.add_axes(share)

    def text(
        self, x: float, y: float, words: str, *, size: float = 11, color: str = TEXT_2, align: str = "left", mono: bool = False,
        bold: bool = False, up: bool = False,
    ) -> None:  # fmt: skip
        """Words on the line y."""
        family = MONO if mono else SANS
        written = self._page.text(
            x, y, drawable(words, mono=mono), fontsize=size * POINTS, color=color, ha=align, va="bottom" if up else "baseline",
            family=family, weight="bold" if bold else "normal", rotation=90 if up else 0,
        )  # fmt: skip
        self._tell(written)

    def polygons(self, corners: Sequence[Sequence[Point]], colors: Sequence[Any], *, hatched: bool = False) -> None:
        from matplotlib.collections import PolyCollection

        if not corners:
            return
        edges: dict[str, Any] = {"edgecolors": LINE_2, "hatch": "/////"} if hatched else {"edgecolors": "none"}
        collection = PolyCollection(corners, facecolors=colors, linewidths=0, antialiased=False, **edges)
        collection.set_rasterized(len(corners) > MOST_CELLS)
        self._page.add_collection(collection, autolim=False)

    def rect(self, x: float, y: float, w: float, h: float, color: Any) -> None:
        self.polygons([corners_of(x, y, w, h)], [color])

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str, width: float = 1.0, **style: Any) -> None:
        self._page.plot(xs, ys, color=color, linewidth=width * POINTS, solid_joinstyle="miter", **style)

    def frame(self, x: float, y: float, w: float, h: float, color: str = LINE, width: float = 1.0) -> None:
        self.line([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color, width)

    @contextmanager
    def pointed_at(self, title: str = "", link: str = "") -> Iterator[None]:
        """What is drawn meanwhile says the title where it is pointed at and leads to the link: in SVG both, in PDF the link."""
        before, self._told = self._told, (title, link)
        try:
            yield
        finally:
            self._told = before

    def _tell(self, artist: Any) -> None:
        title, link = self._told
        if link:
            artist.set_url(link)
        if title:
            artist.set_gid(f"told-{len(self.titles)}")
            self.titles[artist.get_gid()] = title

    def box(
        self, x: float, y: float, w: float, h: float, color: Any, *, line: str = LINE_2, dashed: bool = False, thick: float = 1.0
    ) -> None:  # fmt: skip
        """A box with a line around it, hatched where it is dashed."""
        from matplotlib.patches import FancyBboxPatch

        shape = FancyBboxPatch(
            (x, y), w, h, "round,pad=0,rounding_size=3", facecolor=color, edgecolor=line, linewidth=thick * POINTS,
            linestyle="--" if dashed else "-", hatch="///" if dashed else None,
        )  # fmt: skip
        self._tell(shape)
        self._page.add_patch(shape)

    def curve(self, start: Point, end: Point, color: Any, width: float, *, alpha: float = 1.0, title: str = "") -> None:
        """From one point to another, leaving and arriving upright."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        (x0, y0), (x1, y1) = start, end
        middle = (y0 + y1) / 2
        path = Path([start, (x0, middle), (x1, middle), end], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        shape = PathPatch(
            path, facecolor="none", edgecolor=color, linewidth=width * POINTS, alpha=alpha, capstyle="butt"
        )
        with self.pointed_at(title):
            self._tell(shape)
        self._page.add_patch(shape)

    def missing(self, boxes: Sequence[Sequence[Point]]) -> None:
        """What is not known is hatched."""
        self.polygons(boxes, [SUNKEN] * len(boxes), hatched=True)

    def color_bar(self, scale: ColorScale, unit: str, right: float, top: float) -> None:
        """What the colours mean: the bar, its ends and its unit, the right edge at `right`."""
        left, cells = right - BAR, 48
        steps = [scale.low + (scale.high - scale.low) * i / (cells - 1) for i in range(cells)]
        width = BAR / cells
        self.polygons(
            [corners_of(left + i * width, top, width + 0.5, 7) for i in range(cells)], [scale.color(x) for x in steps]
        )
        self.frame(left, top, BAR, 7)
        high = ("+" if scale.name == "diverging" else "") + number(scale.high, 3)
        low = number(scale.low, 3)
        self.text(left, top + 18, low, size=10, mono=True)
        self.text(right, top + 18, high, size=10, mono=True, align="right")
        caption = unit or ("0" if scale.name == "diverging" else "")
        room = BAR - text_width(low, 10, mono=True) - text_width(high, 10, mono=True) - 12
        middle = (
            left + text_width(low, 10, mono=True) + 6 + room / 2
            if text_width(caption, 10) > room / 2
            else left + BAR / 2
        )
        self.text(middle, top + 18, shortened(caption, room, 10), size=10, color=TEXT_3, align="center")

    def swatches(self, entries: Sequence[tuple[str, str, str]], left: float, top: float, room: float) -> None:
        """Names of series beside their colours; `legend_height` says how high they are."""
        for (name, color, shape), x, y in _placed(entries, room):
            across = [left + x, left + x + 14]
            if shape in ("-", "--", ":"):
                self.line(across, [top + y - 1] * 2, color, 2, linestyle=shape)
            elif shape == "box":
                self.rect(left + x + 2, top + y - 5, 10, 8, color)
            else:
                filled = color if shape == "dot" else "white"
                self.line([left + x + 7], [top + y - 1], color, marker="o", markersize=5, markerfacecolor=filled)
            self.text(left + x + 19, top + y + 3, shortened(name, min(260, room - 20), 11))


def legend_height(entries: Sequence[tuple[str, str, str]], room: float) -> float:
    return _placed(entries, room)[-1][2] + 14 if entries else 0.0


def _placed(entries: Sequence[tuple[str, str, str]], room: float) -> list[tuple[tuple[str, str, str], float, float]]:
    x, y, placed = 0.0, 8.0, []
    for entry in entries:
        width = 20 + text_width(shortened(entry[0], min(260, room - 20), 11), 11)
        if x > 0 and x + width > room:
            x, y = 0.0, y + 16
        placed.append((entry, x, y))
        x += width + 14
    return placed


def corners_of(x: float, y: float, w: float, h: float) -> list[Point]:
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


@once
def _font(*, mono: bool, bold: bool) -> Any:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family=MONO if mono else SANS, weight="bold" if bold else "normal")))


@once
def _letters(*, mono: bool) -> frozenset[int]:
    return frozenset(_font(mono=mono, bold=False).get_charmap())


def drawable(text: str, *, mono: bool = False) -> str:
    """The text with the code of each letter that the font has not: a figure shows no empty boxes."""
    known = _letters(mono=mono)
    return "".join(c if ord(c) in known else f"⟨{ord(c):x}⟩" for c in one_line(text))


@once
def text_width(text: str, size: float, *, mono: bool = False, bold: bool = False) -> float:
    """The width of a text in pixels."""
    font = _font(mono=mono, bold=bold)
    font.set_size(size, 72)
    font.set_text(drawable(text, mono=mono), 0.0)
    width, _ = font.get_width_height()
    return float(width) / 64


def shortened(text: str, room: float, size: float, *, mono: bool = False) -> str:
    """As much of a text as has room, with … for the rest."""
    if text_width(text, size, mono=mono) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle] + "…", size, mono=mono) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…" if low else ""


def wrap(text: str, room: float, size: float, *, bold: bool = False) -> list[str]:
    """A text in lines that have room; a word longer than a line is broken."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, bold=bold) <= room:
            lines[-1] = longer
            continue
        while text_width(word, size, bold=bold) > room and len(word) > 1:
            cut = next(
                n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], size, bold=bold) <= room
            )
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines


def paragraphs(plans: Sequence[tuple[str, float, str, bool]], width: float) -> Plan:
    """Words beneath each other, wrapped: (text, size, colour, bold) each."""
    lines = [
        (line, size, color, bold) for text, size, color, bold in plans for line in wrap(text, width, size, bold=bold)
    ]

    def draw(sheet: Sheet, left: float, top: float) -> None:
        y = top
        for line, size, color, bold in lines:
            y += size * 1.4
            sheet.text(left, y - size * 0.35, line, size=size, color=color, bold=bold)

    longest = max((text_width(line, size, bold=bold) for line, size, _, bold in lines), default=0.0)
    return Plan(longest, sum(size * 1.4 for _, size, _, _ in lines), draw)


def stacked(plans: Sequence[Plan], *, gap: float = 6) -> Plan:
    """Beneath each other, what has no height left out."""
    parts = [plan for plan in plans if plan.height]

    def draw(sheet: Sheet, left: float, top: float) -> None:
        for plan in parts:
            plan.draw(sheet, left, top)
            top += plan.height + gap

    height = sum(plan.height + gap for plan in parts) - (gap if parts else 0)
    return Plan(max((plan.width for plan in parts), default=0), height, draw)


def headed(title: str, body: Plan, notes: Sequence[str], width: float) -> Plan:
    """A picture under its title, above what there is to say of it."""
    words = [(note, 10.0, TEXT_3, False) for note in notes if note]
    head = paragraphs([(title, 12.0, TEXT, True)] if title else [], max(width, body.width))
    return stacked([head, body, paragraphs(words, max(width, body.width))], gap=8)
