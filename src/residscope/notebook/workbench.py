"""`rs.workbench`: one session that a page shows and code reads and changes, both ways."""

from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from residscope.engine.model import Model
from residscope.errors import BadArguments, BadPrompt, MissingExtra, UnknownPosition
from residscope.metrics import LogitDiff
from residscope.notebook.calls import follow, start
from residscope.notebook.history import History
from residscope.notebook.items import Items
from residscope.notebook.listen import Callback, Listeners
from residscope.notebook.sessions import Opened, forget, session_of
from residscope.notebook.still import Still, picture
from residscope.session.from_code import edits_of, put_edits
from residscope.views import HeatMap

if TYPE_CHECKING:
    from residscope.notebook.library import Desk
    from residscope.notebook.widget import PageWidget
    from residscope.server import Server

HEIGHT = 720
VIEW = "application/vnd.jupyter.widget-view+json"


class Selection(NamedTuple):
    """The locked cell: a layer, of which -1 is `embed`, and a token's position."""

    layer: int
    pos: int


def workbench(model: Any = None, *, prompt: str | None = None, height: int = HEIGHT) -> "Workbench":
    """The live page on a model: in a notebook the cell shows it, and `open()` shows the same session in a browser tab.

        wb = rs.workbench(model)
        wb.edits = (rs.edits.ablate("z.9", head=6),)

    model: a name, what `rs.load` gave, `(hf_model, tokenizer)`; the very object is used, never a copy, and a second workbench on
    it joins the first one's session. Without one: the latest session, or one on the default model. prompt: a text to begin with.
    height: of the page in the cell, in pixels.

    Raises:
        ModelError, PromptError. MissingExtra: only once it is shown, where anywidget is not installed.
    """
    opened = session_of(model)
    bench = _benches.get(id(opened))
    if bench is None:
        bench = _benches[id(opened)] = Workbench(opened, height=height)
    bench.height = height
    if prompt is not None:
        bench.prompt = prompt
    return bench


class Workbench:
    """What the page shows, as plain values: each is read, and set, and the page follows; what is done on the page is read here.

    An assignment returns once it is accepted, or raises what it refuses and changes nothing; its numbers follow (`wait`).
    """

    def __init__(self, opened: Opened, *, height: int = HEIGHT) -> None:
        self._opened, self.height = opened, height
        self.session = opened.session
        self._history = History(self.session)
        self._listeners = Listeners(self.session, self._value)
        self._widget: PageWidget | None = None
        self._server: Server | None = None
        self._still: Still | None = None
        self._desk: Desk | None = None
        opened.at_end.append(self._end)

    # ── what is shown ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> Model:
        """The model. Assigning another, by name or as an object, loads it in this session."""
        return self.session.model

    @model.setter
    def model(self, model: Any) -> None:
        self.session.load(model)

    @property
    def prompt(self) -> str:
        """The prompt's text. Raises PromptError where another cannot be run."""
        prompt = self.session.state.prompt
        return "" if prompt is None else prompt.text

    @prompt.setter
    def prompt(self, text: str) -> None:
        if not isinstance(text, str):
            raise BadPrompt(
                "the page's prompt is one text", received=f"{type(text).__name__} {text!r}"[:120], allowed="a str",
                fix="wb.prompt = model.text(ids)",
            )  # fmt: skip
        self.session.intent("set_prompt", {"text": text})

    @property
    def companion(self) -> str | None:
        """The text of the prompt beside it, which it is compared with and patched from; None: none. Raises PromptError where
        another cannot be run."""
        companion = self.session.state.companion
        return None if companion is None else companion.prompt.text

    @companion.setter
    def companion(self, text: str | None) -> None:
        if text is not None and not isinstance(text, str):
            raise BadPrompt(
                "the companion is one text", received=f"{type(text).__name__} {text!r}"[:120], allowed="a str, or None",
                fix="wb.companion = model.text(ids)",
            )  # fmt: skip
        self.session.intent("set_companion", {"text": text})

    @property
    def other(self) -> str | None:
        """The name of the model that is laid beside its own, whose runs are run A; None: none. It is set by a name that
        `rs.load` takes, and loads meanwhile: `wb.wait()`."""
        return self.session.state.second.name or None

    @other.setter
    def other(self, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise BadArguments(
                "the other model is laid beside by its name", received=type(name).__name__,
                allowed="a catalog name, a hub id, a folder or BASE+ADAPTER, or None",
            )  # fmt: skip
        self.session.intent("set_other", {"model": name})

    @property
    def edits(self) -> tuple[Any, ...]:
        """The edits that its run applies, ready for `model.run(wb.prompt, edits=wb.edits)`: those that code put there are the
        very objects. Raises BadEdit, SiteError, DirectionError where others are refused."""
        return edits_of(self.session.state)

    @edits.setter
    def edits(self, edits: Sequence[Any]) -> None:
        if not isinstance(edits, Sequence) or isinstance(edits, str):
            edits = (edits,)
        self.session.change(lambda state: put_edits(state, tuple(edits)), "set_edits")

    @property
    def selection(self) -> Selection:
        """The locked cell. Raises UnknownLayer, UnknownPosition."""
        return Selection(*self.session.state.selection)

    @selection.setter
    def selection(self, cell: tuple[int, int]) -> None:
        try:
            layer, pos = cell
        except (TypeError, ValueError):
            raise UnknownPosition(
                "a cell is a layer and a position", received=repr(cell)[:120], allowed="wb.selection = (23, 15)"
            ) from None
        prompt = self.session.state.prompt
        if isinstance(pos, int) and pos < 0 and prompt is not None:
            pos += len(prompt.tokens)
        self.session.intent("select", {"layer": layer, "pos": pos})

    @property
    def metric(self) -> LogitDiff | None:
        """The logit difference that the page shows. Set one, a pair of tokens, or None for the page's own guess."""
        metric = self.session.state.metric
        if metric is None:
            return None
        return LogitDiff((_token(metric.positive, self.model),), (_token(metric.negative, self.model),))

    @metric.setter
    def metric(self, metric: Any) -> None:
        if metric is None:
            self.session.intent("set_metric", {})
            return
        match metric:
            case LogitDiff(positive=(positive,), negative=(negative,), pos=-1):
                pass
            case (str() | int() as positive, str() | int() as negative):
                pass
            case _:
                raise BadArguments(
                    "the page's metric is the logit of one token less that of another, at the last position",
                    received=repr(metric)[:120], allowed='rs.logit_diff(" Mary", " John"), two tokens, None',
                )  # fmt: skip
        texts = [t if isinstance(t, str) else self.model.token_texts([t])[0] for t in (positive, negative)]
        self.session.intent("set_metric", {"positive": texts[0], "negative": texts[1]})

    @property
    def items(self) -> MutableMapping[str, Any]:
        """What is on the shelf, by name; put an item there, and the page has it too."""
        return Items(self.session)

    @property
    def given(self) -> dict[str, Any]:
        """The edits that came as objects which no words of the page say, by the names that `history` has for them."""
        return {name: edit for name, edit in self._history.given().items() if not name.startswith("{")}

    # ── what is done ────────────────────────────────────────────────────────────────────────────────────────

    def wait(self, timeout: float | None = None) -> bool:
        """Until every run, and every job, is done; False where the time, in seconds, ran out first."""
        return self.session.wait(timeout)

    def run(self, method: str, *, name: str = "", **arguments: Any) -> Any:
        """Run a method as a job, which the page shows too; answers the item it makes. What is not said is the page's own.

            wb.run("ablation-sweep", site="z")

        name: of the item. Raises UnknownMethod, BadArguments, Cancelled, and what the method refuses. Ctrl-C stops it.
        """
        return follow(self.session, start(self.session, method, name, arguments))

    def refresh(self) -> None:
        """Take the model as it is now, after a cell changed its weights, hooks or settings: it is certified again, everything is
        run again, and the page redraws. Raises ModelError where it is no longer a model that is served, or fails a check."""
        self.session.refresh()

    def on_change(self, callback: Callback, *names: str) -> Callable[[], None]:
        """Call `callback(name, value)` when one of these changes, by code or on the page: "prompt", "companion", "other",
        "edits", "selection", "metric", "items", "model", "run" (its numbers are there); all of them unless said. Answers what
        takes it off again.

        It is called in a thread of its own, one change after the other; where it raises, the traceback is printed, the page says
        so, and everything goes on. Raises NotFound: nothing of that name changes.
        """
        return self._listeners.add(callback, names)

    def history(self) -> list[str]:
        """Every gesture since the start, the page's and code's, as lines of Python that run as pasted:
        `print(*wb.history(), sep="\\n")`."""
        return self._history.lines()

    def view(self) -> HeatMap:
        """The run on screen as one picture, layers by tokens: `wb.view().save("x.html")`. Raises ModelNotFound where none is."""
        return picture(self.session)

    # ── where it is shown ───────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        """The one-time link that opens this session in a browser on this machine; it is served from now on."""
        if self._server is None:
            from residscope.server import Server

            library = None if self._desk is None else self._desk.library
            self._server = Server(self.session, port=0, library=library).start()
            if self._widget is not None:
                self._widget.address = self._server.base
        return self._server.url

    def open(self) -> str:
        """Open this session in a browser tab too; answers the link."""
        import webbrowser

        webbrowser.open(self.url)
        return self.url

    def close(self) -> None:
        """End the session: pages say so, and the next workbench on this model begins anew."""
        forget(self._opened)

    def _end(self) -> None:
        _benches.pop(id(self._opened), None)
        self._listeners.close()
        self._history.stop()
        if self._still is not None:
            self._still.close()
        if self._widget is not None:
            self._widget.end()
        if self._server is not None:
            self._server.stop()
        elif self._desk is not None:
            self._desk.close()

    def __repr__(self) -> str:
        return f"<Workbench on {self.model.name}: {self.prompt!r}, {len(self.edits)} edits>"

    def _value(self, name: str) -> Any:
        return self.edits if name == "run" else getattr(self, name)

    @property
    def widget(self) -> "PageWidget":
        """The widget that shows the page, for whoever lays out widgets by hand. Raises MissingExtra."""
        if self._widget is None:
            try:
                from residscope.notebook.widget import PageWidget
            except ImportError as error:
                raise MissingExtra(
                    "the page in a notebook needs anywidget",
                    received=str(error),
                    fix="pip install 'residscope[notebook]'",
                ) from None
            from residscope.notebook.library import Desk

            self._desk = Desk(self.session)
            self._widget = PageWidget(self.session, place=self._opened.place, height=self.height, who=self._desk.who)
        self._widget.height = self.height
        return self._widget

    def _ipython_display_(self) -> None:
        """The page, and under it what stays when the notebook is saved, which the page hides."""
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if not hasattr(get_ipython(), "kernel"):  # a terminal
            print(repr(self))
            return
        shown, told = self.widget._repr_mimebundle_()  # told: what Colab has to know
        display({VIEW: shown[VIEW]}, metadata=told, raw=True)  # without words, which would stand beside the picture
        if self._still is None:
            self._still = Still(self.session, self._opened.place)
        self._still.show()

    def _display_(self) -> Any:
        """What marimo shows."""
        return self.widget


_benches: dict[int, Workbench] = {}


def _token(tok: Any, model: Model) -> str | int:
    return tok.text if model.token_kinds([tok.id]) == ["text"] else int(tok.id)
