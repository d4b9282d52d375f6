"""Views as figures: PNG, SVG and PDF."""

import os
import re
import threading
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residscope.drafts import replace_whole
from residscope.endings import PICTURES, check_ending
from residscope.errors import BadView
from residscope.shown_tokens import as_label
from residscope.views.drawn import matrix, network, plots, words
from residscope.views.drawn.sheet import Plan, Sheet
from residscope.views.view import WRITERS, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, WIDE = 720.0, 1080.0
MARGIN = 16.0
DPI = 192
MOST_PIXELS = 60_000  # of PNG, each way
DRAWN: dict[str, Callable[[Any, float], Plan]] = {
    "heat_map": matrix.heat_map, "pattern": matrix.pattern, "curve": plots.curve, "histogram": plots.histogram,
    "scatter": plots.scatter, "network": network.network, "token_strip": words.token_strip, "contexts": words.contexts,
    "table": words.table, "text": words.text, "card": words.card, "grid": lambda view, width: words.grid(view, width, planned),
}  # fmt: skip
_ONE = threading.RLock()  # matplotlib's settings are the process's
# text stays text in SVG and PDF, a dollar a dollar; the same view gives the same file
STYLE: dict[str, Any] = {
    "text.parse_math": False, "text.usetex": False, "svg.fonttype": "none", "svg.hashsalt": "residscope", "pdf.fonttype": 42,
    "font.family": "DejaVu Sans", "axes.unicode_minus": True, "hatch.linewidth": 0.6, "path.simplify": False,
}  # fmt: skip


def save_picture(view: View, path: str | os.PathLike[str]) -> Path:
    """Draw a view as a figure, by the ending of the name: `.png`, `.svg` or `.pdf`; whole or not at all. Answers where.

    The colours are the page's in its light theme; what a figure cannot do (scroll) is said beneath it. A graph's SVG has its
    links, and says what is told of a node where it is pointed at.

    Raises:
        WrongEnding, FileNotThere: a name of another kind of file; no such folder. BadView: what is no view.
    """
    from matplotlib import rc_context

    ending, path = check_ending(path, "figure"), Path(path).expanduser()

    def write(draft: Path) -> None:
        with _ONE, rc_context(STYLE):
            sheet = _drawn(view)
            made = sheet.figure
            dpi = min(DPI, MOST_PIXELS / max(made.get_size_inches()))
            metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[ending]
            made.savefig(draft, format=ending[1:], dpi=dpi, metadata=metadata)
            if ending == ".svg" and sheet.titles:
                _add_titles(draft, sheet.titles)

    replace_whole(path, write)
    return path


def figure(view: View) -> "Figure":
    """A view as matplotlib's figure, for those who want to go on drawing. Raises BadView."""
    from matplotlib import rc_context

    with _ONE, rc_context(STYLE):
        return _drawn(view).figure


def _drawn(view: View) -> Sheet:
    plan = planned(view, WIDE if view.__class__.__name__ == "Grid" else WIDTH)
    sheet = Sheet(plan.width + 2 * MARGIN, max(plan.height, 1) + 2 * MARGIN)
    plan.draw(sheet, MARGIN, MARGIN)
    return sheet


def _add_titles(path: Path, titles: Mapping[str, str]) -> None:
    """Into an SVG, what its parts say where they are pointed at: matplotlib writes ids, not titles."""

    def titled(group: re.Match[str]) -> str:
        return f"{group[0]}<title>{escape(as_label(titles[group[1]]))}</title>" if group[1] in titles else group[0]

    svg = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r'<g id="(told-\d+)">', titled, svg), encoding="utf-8", newline="\n")


def planned(view: View, width: float) -> Plan:
    if not isinstance(view, View) or view.kind not in DRAWN:
        raise BadView("this cannot be drawn", received=type(view).__name__, allowed="views of residscope.views")
    return DRAWN[view.kind](view, width)


WRITERS.update(dict.fromkeys(PICTURES, save_picture))
