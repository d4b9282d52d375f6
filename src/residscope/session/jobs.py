"""Jobs: method calls under way, one after the other beside the live run, which goes first."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from residscope.declare import Method
from residscope.directions import Dictionary
from residscope.engine.planner.pricing import prices_of, rate_of
from residscope.engine.turns import ModelLock, give_way, giving_way, lock_of
from residscope.errors import Cancelled, ErrorBody, NotFound, NotWritten, ResidscopeError, ShelfFull
from residscope.fields.base import Spec
from residscope.methods._lib.activations import Recordings
from residscope.probes.probe import Probe
from residscope.probes.probe_map import ProbeMap, probe_in
from residscope.progress import Cancel, Progress, asking, heard_warnings
from residscope.session import wire
from residscope.session.worker import RUN, Worker
from residscope.shelf.items import ItemShelf, Kept, check_name
from residscope.shelf.parts import explained, parts_of, wanting
from residscope.world.fitted import Fitted, shelved
from residscope.world.origins import origin_of
from residscope.world.session_world import SessionWorld

if TYPE_CHECKING:
    from residscope.session.state import State

MOST_JOBS = 200
MOST_JOB_NAME = 80
MOST_PART = 20  # characters of what tells one of several items apart
UNPRICED = 1.0  # seconds: where a job that nobody has priced stands among the others
KEPT_DONE = 40  # ended jobs that the page still lists
PROGRESS_EVERY = 0.1  # seconds
PACK = 512  # tokens: of a sweep, a live run waits for one pass of so many at most
EFFICIENCY = 0.8  # of the matrix products' own rate, what a method makes of it
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One method call. cost, left: seconds, about, and of its stage under way; `revision` grows as partial items come."""

    id: str
    method: str
    title: str
    args: Mapping[str, Any] = field(repr=False, default_factory=dict)
    name: str = ""
    phase: str = WAITING
    stage: str = ""
    progress: float | None = None
    left: float | None = None
    cost: float | None = None
    seconds: float | None = None
    revision: int = 0
    items: tuple[str, ...] = ()
    note: str = ""
    warnings: tuple[str, ...] = ()
    error: ErrorBody | None = None

    @property
    def ended(self) -> bool:
        return self.phase in (DONE, FAILED, CANCELLED)


class Taker:
    """Who takes what a job makes, where that goes to no shelf: a page of prompts, a blind test whose values nobody may see."""

    def take(self, job: str, made: Any, *, progress: Progress, cancel: Cancel, grown: Callable[[], None]) -> str:
        """The job's last part, in its thread; what is to be said of it. Whatever it raises, the job has failed with.

        grown: to be called when there is more to read of it than before.
        """
        raise NotImplementedError

    def failed(self, job: str, error: BaseException) -> None:
        """The job has ended, or was cancelled, without."""


@dataclass(eq=False)
class _Asked:
    """What a job is to do, and the event that stops it. keep: what it makes goes on the shelf by itself. id: what edits call the
    probe that it is making, once there is one."""

    method: Method
    plain: Spec
    world: SessionWorld
    code: str
    taker: Taker | None = None
    keep: bool = True
    cancel: threading.Event = field(default_factory=threading.Event)
    id: str = ""


@dataclass(frozen=True)
class _Made:
    """What a job made that is on no shelf yet."""

    asked: _Asked
    item: Any
    cut: bool
    warnings: tuple[str, ...]


class Jobs:
    """One thread that runs methods in the order they were asked for, cheap ones first.

    now: the session's state. commit: makes a state the session's. lock: held around both. worker: runs the live runs, which go
    first. shelf: takes what is made.
    """

    def __init__(
        self,
        now: "Callable[[], State]",
        commit: "Callable[[State], None]",
        lock: threading.RLock,
        worker: Worker,
        shelf: ItemShelf,
    ) -> None:
        self._now, self._commit, self._lock, self._worker, self._shelf = now, commit, lock, worker, shelf
        self._recordings = Recordings()
        self._wake = threading.Condition()
        self._queue: list[tuple[float, int, str]] = []
        self._asked: dict[str, _Asked] = {}
        self._partial: dict[str, tuple[int, Any]] = {}
        self._unkept: dict[str, _Made] = {}
        self._code: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._busy = False
        self._thread: threading.Thread | None = None

    # ── what the session calls ──────────────────────────────────────────────────────────────────────────────

    def new(
        self,
        method: Method,
        plain: Spec,
        world: SessionWorld,
        *,
        name: str = "",
        code: str = "",
        taker: Taker | None = None,
        keep: bool = True,
    ) -> Job:
        """A job, priced; it runs once it is `started`. Raises BadText, and what its price finds wrong with the arguments.

        taker: takes what is made, instead of the shelf; then nobody is told what it was asked for. keep: False leaves it with
        the job, until `keep` puts it on the shelf.
        """
        name = check_name(name, most=MOST_JOB_NAME) if name else ""
        cost = seconds_of(method, plain, world)
        args = plain.model_dump(mode="json") if taker is None else {}
        job = Job(f"j{next(self._numbers)}", method.id, method.title, args, name, cost=cost)
        self._asked[job.id] = _Asked(method, plain, world, code, taker, keep)
        self._code[job.id] = code
        _trim(self._code)
        return job

    def drop(self, job: Job) -> None:
        """Forget a job that was not started."""
        self._asked.pop(job.id, None)
        self._code.pop(job.id, None)

    def start(self, job: Job) -> None:
        """Queue a job that is in the state."""
        with self._wake:
            heapq.heappush(self._queue, (UNPRICED if job.cost is None else job.cost, int(job.id[1:]), job.id))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="residscope-jobs", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def stop(self, id: str) -> None:
        """Cancel a job that waits or runs; what it has finished stays."""
        asked = self._asked.get(id)
        if asked is not None:
            asked.cancel.set()
            self._worker.look_again()

    def stop_all(self) -> None:
        for id in [*self._asked]:
            self.stop(id)

    def forget(self) -> None:
        """Let go of the latest items of all jobs, and of what was recorded for them."""
        self._partial.clear()
        self._unkept.clear()
        self._code.clear()
        self._recordings.clear()

    def partial(self, id: str) -> tuple[int, Any] | None:
        """The latest item of a job, and how many came before it."""
        return self._partial.get(id)

    def code(self, id: str) -> str:
        """The Python of a job, as it was asked for; empty where it is not known any more."""
        return self._code.get(id, "")

    def keep(self, id: str, name: str) -> list[str]:
        """Put on the shelf what a job has made and left with itself; the names that it has there.

        Raises:
            NotFound: there is nothing of it that is not there already. BadText, ShelfFull, NotWritten.
        """
        made = self._unkept.get(id)
        if made is None:
            raise NotFound(
                "the job has made nothing that is not kept already", received=id, fix="wait until it has ended"
            )
        wanted = check_name(name, most=MOST_JOB_NAME) if name else ""
        names, note = self._keep(made.asked, made.item, wanted=wanted, cut=made.cut, warnings=made.warnings)
        if not names:
            raise ShelfFull(note or "it gave nothing to keep")
        self._unkept.pop(id, None)
        self._tell(id, items=tuple(names), note=note)
        return names

    def wait(self, timeout: float | None = None) -> bool:
        """Until no job waits or runs."""
        with self._wake:
            return self._wake.wait_for(lambda: self._closed or not (self._queue or self._busy), timeout)

    def close(self, *, timeout: float = 5.0) -> None:
        """Drop what waits, and stop what runs as soon as it can be stopped."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self.stop_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or bool(self._queue))
                if self._closed:
                    return
                id = heapq.heappop(self._queue)[2]
                self._busy = True
            try:
                self._run(id, self._asked[id])
            except BaseException:  # the next job is not to wait for this one
                _log.exception("a job could not say how it ended")
            finally:
                self._asked.pop(id, None)
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()

    def _run(self, id: str, asked: _Asked) -> None:
        began, phase, error = time.monotonic(), DONE, None
        names: list[str] = []
        told: list[str] = []
        note = ""
        try:
            with heard_warnings() as told:
                made, note = self._make(id, asked)
        except Cancelled as stop:
            phase, made = CANCELLED, stop.partial
            _tell_taker(asked, id, stop)
        except BaseException as failure:  # SystemExit of a plugin's too
            phase, made, error = FAILED, None, explained(failure)
            _tell_taker(asked, id, failure)
        cut = phase != DONE
        if cut and made is None:
            made = (self._partial.get(id) or (0, None))[1]
        try:
            if not asked.keep and made is not None:
                self._unkept[id] = _Made(asked, made, cut, tuple(told))
                _trim(self._unkept)
            elif asked.keep and asked.taker is None:
                names, note = self._keep(asked, made, wanted=self._name(id), cut=cut, warnings=tuple(told))
                if phase == DONE and not names and not note:
                    note = "It gave nothing to keep."
        except BaseException as failure:
            phase, error = FAILED, error or explained(failure)
        ended: dict[str, Any] = {
            "phase": phase,
            "progress": None,
            "left": None,
            "stage": "",
            "seconds": time.monotonic() - began,
        }
        self._tell(id, **ended, items=tuple(names), note=note, warnings=tuple(told), error=error)

    def _make(self, id: str, asked: _Asked) -> tuple[Any, str]:
        """The last of the items that a method gives, and what its taker says. Raises Cancelled, and what the method does."""
        lock = lock_of(asked.world.model.hf)
        watch = _Watch(lambda **told: self._tell(id, **told), asked.cancel, self._worker, lock)
        watch.tell("Starting", 0, 0)
        memory = 2 * PACK * prices_of(asked.world.model.layout).bytes
        watched = {"progress": watch.tell, "cancel": watch.cancelled, "memory": memory, "recordings": self._recordings}
        latest: Any = None
        ask: Callable[..., None] = lambda done=None: watch.turn()  # noqa: E731
        with giving_way(watch.turn), asking(ask, watch.cancelled):
            for latest in asked.method.run(asked.plain, asked.world, **watched):
                if latest is not None and asked.taker is None:
                    self._show(id, latest, asked)
                if asked.method.stepwise:  # else it is whole, and nothing is left to be cancelled
                    watch.turn()
            if asked.taker is None:
                return latest, ""
            revisions = itertools.count(1)
            grown: Callable[[], None] = lambda: self._tell(id, revision=next(revisions))  # noqa: E731
            return None, asked.taker.take(id, latest, progress=watch.tell, cancel=watch.cancelled, grown=grown)

    def _show(self, id: str, item: Any, asked: _Asked) -> None:
        revision = (self._partial.get(id) or (0, None))[0] + 1
        self._partial[id] = (revision, item)
        _trim(self._partial, but=id)
        if isinstance(item, Probe | ProbeMap):
            asked.id = asked.id or self._shelf.new_id(item)
            args = asked.plain.model_dump(mode="json")
            self._tell(id, Fitted(asked.id, item, args=args, job=id, revision=revision), revision=revision)
        else:
            self._tell(id, revision=revision)

    def _keep(
        self, asked: _Asked, made: Any, *, wanted: str, cut: bool, warnings: tuple[str, ...] = ()
    ) -> tuple[list[str], str]:
        """Put what was made on the shelf: the names it has there, and what is to be said of it. Raises BadResult."""
        parts = parts_of(made)
        names: list[str] = []
        notes = [note] if (note := wanting(made)) else []
        for part, item in parts.items():
            origin = origin_of(item, asked.method, asked.plain, asked.world, asked.code, part=part)
            id = asked.id if not part and probe_in(item) is not None else ""
            called = wanted or (id or origin.method.title)[:MOST_JOB_NAME]
            title = _title(called, part[:MOST_PART], item) + (", cut short" if cut else "")
            about = (origin.method.title, origin.method.id, origin.args, origin.code)
            kept = Kept(title, item, *about, line=origin.line, id=id, warnings=warnings, cut=cut)
            try:
                names.append(self._shelf.put(kept, of=asked.world.model).name)
            except NotWritten as error:
                notes.append(str(error))
                names += [name for name, other in self._shelf.items.items() if other.item is item][-1:]
            except ResidscopeError as error:
                notes.append(str(error))
        return names, " ".join(notes)

    def _name(self, id: str) -> str:
        """What a person called it, by now; empty for the method's own title."""
        return next((job.name for job in self._now().jobs if job.id == id), "")

    def _tell(self, id: str, probe: Fitted | None = None, **changed: Any) -> None:
        """What has changed of a job; `probe`: what it has by now of the one that it is making."""
        with self._lock:
            state = self._now()
            if changed.get("phase") == RUNNING and any(job.id == id and job.ended for job in state.jobs):
                return  # cancelled a moment ago
            jobs = tuple(replace(job, **changed) if job.id == id else job for job in state.jobs)
            if probe is not None and any(job.id == id for job in jobs):
                state = replace(state, probes={**state.probes, probe.id: probe})
            if "items" in changed:
                self._commit(with_shelf(replace(state, jobs=jobs), self._shelf))
            elif jobs != state.jobs:
                self._commit(replace(state, jobs=jobs))


class _Watch:
    """What a method is watched by: it lets the live run go first, tells the page, and stops where it was cancelled."""

    def __init__(self, tell: Callable[..., None], cancel: threading.Event, worker: Worker, lock: ModelLock) -> None:
        self._tell, self._cancel, self._worker, self._lock = tell, cancel, worker, lock
        self._stage, self._began, self._told = "", time.monotonic(), 0.0

    def cancelled(self) -> bool:
        """Whether to stop. Asked within a pass, it never waits, since the live run needs the model: the pass gives way."""
        if not self._lock.mine:
            self._worker.quiet(RUN, unless=self._cancel.is_set)
        elif not self._cancel.is_set() and self._worker.urgent(RUN):
            give_way()
        return self._cancel.is_set()

    def turn(self) -> None:
        """Let the live run go first. Raises Cancelled."""
        if self.cancelled():
            raise Cancelled("the job was cancelled")

    def tell(self, stage: str, done: float, total: float) -> None:
        self.turn()
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, now
        elif now - self._told < PROGRESS_EVERY and (not total or done < total):
            return
        self._told = now
        share = min(max(done / total, 0.0), 1.0) if total else None
        left = (now - self._began) * (1 - share) / share if share else None
        self._tell(phase=RUNNING, stage=stage, progress=share, left=left)


def _trim(held: dict[str, Any], *, but: str = "") -> None:
    """Of what is held by job, the oldest go."""
    for old in [*held][: max(0, len(held) - KEPT_DONE)]:
        if old != but:
            held.pop(old, None)


def _tell_taker(asked: _Asked, id: str, error: BaseException) -> None:
    if asked.taker is not None:
        asked.taker.failed(id, error)


def seconds_of(method: Method, plain: Spec, world: SessionWorld) -> float | None:
    """What a call takes, about: its tokens' arithmetic at this machine's own rate; None where nobody has said."""
    tokens = method.price(plain, world)
    if tokens is None:
        return None
    layout = world.model.layout
    return tokens * prices_of(layout).forward(1, 1, columns=1) / (EFFICIENCY * rate_of(layout))


def find_job(state: "State", id: str) -> Job:
    """Raises NotFound."""
    job = next((job for job in state.jobs if job.id == id), None)
    if job is None:
        raise NotFound(
            "there is no such job", received=id[:40], allowed=", ".join(job.id for job in state.jobs) or "none"
        )
    return job


def with_job(jobs: tuple[Job, ...], job: Job) -> tuple[Job, ...]:
    """One more job; of those that have ended, the oldest go. Raises ResidscopeError where too many wait."""
    if sum(not other.ended for other in jobs) >= MOST_JOBS:
        raise ResidscopeError("too many jobs wait", allowed=f"up to {MOST_JOBS}", fix="cancel some, or wait")
    ended = [other.id for other in jobs if other.ended]
    gone = {*ended[: max(0, len(ended) - KEPT_DONE)]}
    return (*(other for other in jobs if other.id not in gone), job)


def _title(wanted: str, part: str, item: Any) -> str:
    """What an item is called: of a dictionary, with its place."""
    if isinstance(item, Dictionary):
        return f"{wanted} of {item.place}"
    return f"{wanted}, {part}" if part else wanted


def with_shelf(state: "State", shelf: ItemShelf) -> "State":
    """The state with what is on the shelf now; its dictionaries are the model's too, and its probes are those that edits name,
    beside those that jobs are at work on."""
    loaded = state.model
    at_work = {job.id for job in state.jobs if not job.ended}
    probes = shelved(shelf) | {id: fitted for id, fitted in state.probes.items() if fitted.job in at_work}
    if loaded is not None and shelf.model is loaded.model:
        loaded = loaded.with_shelf(shelf)
    return replace(state, model=loaded, probes=probes, items=shelf_of(shelf))


def shelf_of(shelf: ItemShelf) -> wire.Shelf:
    """The shelf as the wire has it."""
    return {
        "items": [kept.about for kept in shelf.items.values()],
        "bytes": shelf.bytes,
        "budget": shelf.budget,
        "can_restore": shelf.can_restore,
    }
