"""The widget: a few lines that ask for the page once in each browser tab, and the messages of its pages."""

from hashlib import sha256
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from residscope.errors import NoPage
from residscope.notebook.door import Door
from residscope.once import once
from residscope.session import Session

PAGE = ("widget.js", "widget.css")
LOADER = "loader.js"


@once
def built(name: str) -> bytes:
    """One of the files that make the page. Raises NoPage."""
    file = files("residscope") / "_ui" / name
    if not file.is_file():
        raise NoPage(
            "the page for notebooks is not built into this installation",
            received=str(file),
            fix="in a checkout: pip install -e . again with Node 20.19 or newer",
        )
    return file.read_bytes()


@once
def page_hash() -> str:
    return sha256(b"\0".join(map(built, PAGE))).hexdigest()[:16]


class PageWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """The page of a session. `place`: what is the same for the same workbench after a restart of the kernel."""

    page = traitlets.Unicode().tag(sync=True)
    place = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int(720).tag(sync=True)
    address = traitlets.Unicode("").tag(sync=True)

    def __init__(self, session: Session, *, place: str, height: int, who: Any = None) -> None:
        self._esm = built(LOADER).decode()
        super().__init__(page=page_hash(), place=place, height=height)
        self.door = Door(session, lambda content, octets: self.send(content, list(octets)), who=who)
        self.on_msg(self._hear)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 hands what a front end says to the loop that spoke last on the comm, which may be the one that a cell
            # keeps busy, and not to the subshell that the front end made for it
            self.comm._reply_subshell_for = lambda data, default: default

    def _hear(self, _widget: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and "bundle" in content:
            self.send({"bundle": page_hash()}, [built(name) for name in PAGE])
        else:
            self.door.hear(content, buffers)

    def end(self) -> None:
        """Tell the pages that their session is over. The widget stays, and so do they, to go on over a later one."""
        self.door.close()
