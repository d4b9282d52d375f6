"""What stays in a saved notebook: the last picture of the stream as a frozen page, hidden while the live page is there."""

import threading
import time
from html import escape
from typing import Any

from safetensors.torch import load as read_tensors

from residscope.declare import shorten
from residscope.errors import ModelNotFound, ResidscopeError
from residscope.session import Session
from residscope.session.state import State
from residscope.views import HeatMap
from residscope.views.html import in_notebook
from residscope.world.dictionaries import row_names, row_sites
from residscope.world.values import Run

AFTER = 1.0  # seconds without news before the picture is drawn again
PATIENCE = 5.0  # seconds that a cell waits for the first run
MOST_TOKENS = 128
ASIDE = "The last picture of this workbench. Run the cell again for the live page."
ERROR = ".jp-OutputArea-child:has(+ .jp-OutputArea-child [data-residscope-still]) .jupyter-widgets:not(:has(*))"
"""Where a notebook is opened without its kernel, JupyterLab says in the place of the page that it found no model."""


def picture(session: Session) -> HeatMap:
    """The run on screen: its logit difference read through the final norm at each layer and token, less the share of the data
    set's mean where that is known. Attention sinks are left out.

    Raises:
        ModelNotFound: nothing has been run yet.
    """
    state = session.state
    run = state.run(state.edited or state.baseline)
    if run is None or state.model is None or state.metric is None:
        raise ModelNotFound("there is no picture before the first run", fix="wb.wait()")
    metric = state.metric
    read = read_tensors(session.reads.logits(run.id, positive=metric.positive.id, negative=metric.negative.id))
    shares, sink = read["offset"], read_tensors(session.reads.stream(run.id, next="last"))["sink"].bool()
    known = not shares.isnan().any()
    values = (read["value"] - shares if known else read["value"]).masked_fill(sink, float("nan"))
    tokens = [token.text for token in run.prompt.tokens]
    first = max(0, len(tokens) - MOST_TOKENS)
    return HeatMap(
        [[float(f"{x:.4g}") for x in row] for row in values[:, first:].tolist()],
        row_names(row_sites(None, state.model.model.sites)),
        [f"{place} {text}" for place, text in enumerate(tokens)][first:],
        title=f"{metric.positive.text} − {metric.negative.text}, read through the final norm",
        unit="logits, centred" if known else "logits",
        column_title="token",
        note=caption(state, run),
        bottom_up=True,
    )


def caption(state: State, run: Run) -> str:
    """The model, the edits, and what comes next, in one line."""
    next_token = f"next: {run.top[0][1]!r} {run.top[0][2]:.2f}" if run.top else ""
    assert state.model is not None
    return "; ".join(part for part in (state.model.model.name, run.label, next_token) if part)


def html(session: Session, place: str) -> str:
    """The picture in a frame of its own, and its words, which stay where a front end takes the frame out."""
    view = picture(session)
    text = session.state.prompt.text if session.state.prompt else ""
    words = escape(f"{shorten(text)}: {view.title} ({view.note})")
    return (
        f'<div data-residscope-still="{escape(place)}"><style>{ERROR} {{ display: none }}</style>{in_notebook(view)}'
        f"<p>{words}. {ASIDE}</p></div>"
    )


class Still:
    """The picture under a page, kept up to date while the kernel runs: a display that later ones replace."""

    def __init__(self, session: Session, place: str) -> None:
        self._session, self._place = session, place
        self._handle: Any = None
        self._shown = ""
        self._news = threading.Event()
        self._closed = False
        self._stop = session.subscribe(self._hear)[2]
        self._thread: threading.Thread | None = None

    def show(self) -> None:
        """Display it in the cell that runs now; earlier ones stay as they are."""
        from IPython.display import HTML, display

        deadline = time.monotonic() + PATIENCE
        while self._session.state.status.phase == "running" and time.monotonic() < deadline:
            time.sleep(0.02)
        self._shown = self._html()
        self._handle = display(HTML(self._shown), display_id=True)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="residscope-still", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._stop()
        self._news.set()

    def _hear(self, seq: int, patch: Any) -> None:
        if "current" in patch or "metric" in patch or "runs" in patch:
            self._news.set()

    def _html(self) -> str:
        try:
            return html(self._session, self._place)
        except ResidscopeError as error:
            return f'<div data-residscope-still="{escape(self._place)}"><p>{escape(str(error))}</p></div>'

    def _work(self) -> None:
        from IPython.display import HTML

        while True:
            self._news.wait()
            self._news.clear()
            while self._news.wait(AFTER):
                self._news.clear()
                if self._closed:
                    return
            if self._closed:
                return
            if self._session.state.status.phase == "idle" and (now := self._html()) != self._shown:
                self._shown = now
                self._handle.update(HTML(now))
