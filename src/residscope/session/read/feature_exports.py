"""A layer's feature pages as one file of HTML: made by a job, fetched once it is there."""

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from residscope.declare import Method
from residscope.errors import NotFound, NotWritten
from residscope.features import exporting
from residscope.progress import Cancel, Progress
from residscope.session.intents import ExportStarted
from residscope.session.jobs import Job, Taker
from residscope.session.read.features import Features
from residscope.session.state import State
from residscope.world.session_world import need_model

KEPT = 2  # files; they are large
ENDING = ".zip"


class ExportCost(TypedDict):
    pages: int
    seconds: Annotated[float, "About, by one page that was made."]
    bytes: Annotated[int, "Of the file, about."]


class Exports:
    """now: the session's state; begin: queues a method as a job."""

    def __init__(self, now: Callable[[], State], features: Features, begin: Callable[..., Job]) -> None:
        self._now, self._features, self._begin = now, features, begin
        self._made: OrderedDict[str, tuple[str, Path]] = OrderedDict()
        self._folder: Path | None = None
        self._lock = threading.Lock()

    def cost(self, name: str) -> ExportCost:
        """Raises NotFound, WrongModel."""
        opened = self._features.open(name)
        found = exporting.cost(need_model(self._now().model).model, opened.atlas, opened.dictionary)
        return {"pages": found.pages, "seconds": found.seconds, "bytes": found.bytes}

    def start(self, name: str) -> ExportStarted:
        """A job that writes every page of an atlas. Raises NotFound, WrongModel."""
        opened = self._features.open(name)
        place = Path(tempfile.mkdtemp(dir=self._own())) / f"{_plain(name)}{ENDING}"

        def pages(model: Any, *, progress: Progress = None, cancel: Cancel = None) -> Path:
            try:
                return exporting.export(model, opened.atlas, place, opened.dictionary, progress=progress, cancel=cancel)
            except OSError as error:
                raise NotWritten(f"the pages cannot be written: {error.strerror}", received=str(place)) from error

        method = Method("features-html", f"Pages of {name} as HTML", pages, "directions")
        job = self._begin(method, {}, name=name[:80], taker=_Written(self, place))
        return {"job": job.id}

    def file(self, job: str) -> tuple[str, bytes]:
        """A file that a job has written: its name and its bytes. Raises NotFound."""
        with self._lock:
            found = self._made.get(job)
        if found is None:
            raise NotFound(
                "no job of that name has written pages, or they are put away by now", received=job[:64],
                fix="export them again",
            )  # fmt: skip
        return found[0], found[1].read_bytes()

    def take(self, job: str, place: Path) -> None:
        with self._lock:
            self._made[job] = place.name, place
            gone = [self._made.popitem(last=False)[1][1] for _ in range(len(self._made) - KEPT)]
        for old in gone:
            shutil.rmtree(old.parent, ignore_errors=True)

    def close(self) -> None:
        """Delete what was written."""
        with self._lock:
            folder, self._folder = self._folder, None
            self._made.clear()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _own(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="residscope-pages-"))
            return self._folder


class _Written(Taker):
    def __init__(self, exports: Exports, place: Path) -> None:
        self._exports, self._place = exports, place

    def take(self, job: str, made: Any, *, progress: Progress, cancel: Cancel, grown: Callable[[], None]) -> str:
        self._exports.take(job, self._place)
        return "The file is ready."

    def failed(self, job: str, error: BaseException) -> None:
        shutil.rmtree(self._place.parent, ignore_errors=True)


def _plain(name: str) -> str:
    """A name as files have it everywhere."""
    kept = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in name).strip("-")
    return f"features-{kept[:60]}"
