"""Jobs: method calls under way, one after the other beside the live run, which goes first."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from residscope.declare import Method
from residscope.directions import Dictionary
from residscope.engine.planner.pricing import prices_of, rate_of
from residscope.errors import Cancelled, NotFound, ResidscopeError, WrongModel, explain
from residscope.fields.base import Spec
from residscope.session.made import origin_of
from residscope.session.shelf import ItemShelf, Kept
from residscope.session.world import SessionWorld

if TYPE_CHECKING:
    from residscope.session.state import State

MOST_JOBS = 200
KEPT_DONE = 40  # ended jobs that the page still lists
PROGRESS_EVERY = 0.1  # seconds
PACK = 512  # tokens: of a sweep, a live run waits for one pass of so many at most
EFFICIENCY = 0.8  # of the matrix products' own rate, what a method makes of it
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


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
    error: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.phase in (DONE, FAILED, CANCELLED)


@dataclass(eq=False)
class _Asked:
    """What a job is to do, and the event that stops it."""

    method: Method
    plain: Spec
    world: SessionWorld
    code: str
    cancel: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """One thread that runs methods in the order they were asked for, cheap ones first.

    now: the session's state. commit: makes a state the session's. lock: held around both. quiet: returns once no live run
    is waiting or under way. shelf: takes what is made.
    """

    def __init__(
        self,
        now: "Callable[[], State]",
        commit: "Callable[[State], None]",
        lock: threading.RLock,
        quiet: Callable[[], object],
        shelf: ItemShelf,
    ) -> None:
        self._now, self._commit, self._lock, self._quiet, self._shelf = now, commit, lock, quiet, shelf
        self._wake = threading.Condition()
        self._queue: list[tuple[float, int, str]] = []
        self._asked: dict[str, _Asked] = {}
        self._partial: dict[str, tuple[int, Any]] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._busy = False
        self._thread: threading.Thread | None = None

    # ── what the session calls ──────────────────────────────────────────────────────────────────────────────

    def new(self, method: Method, plain: Spec, world: SessionWorld, *, name: str, code: str) -> Job:
        """A job, priced; it runs once it is `started`. Raises what its price finds wrong with the arguments."""
        number = next(self._numbers)
        job = Job(
            f"j{number}",
            method.id,
            method.title,
            plain.model_dump(mode="json"),
            name,
            cost=seconds_of(method, plain, world),
        )
        self._asked[job.id] = _Asked(method, plain, world, code)
        return job

    def start(self, job: Job) -> None:
        """Queue a job that is in the state."""
        with self._wake:
            heapq.heappush(self._queue, (job.cost or 1.0, int(job.id[1:]), job.id))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="residscope-jobs", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def stop(self, id: str) -> None:
        """Cancel a job that waits or runs; what it has finished stays."""
        asked = self._asked.get(id)
        if asked is not None:
            asked.cancel.set()

    def stop_all(self) -> None:
        for asked in [*self._asked.values()]:
            asked.cancel.set()

    def partial(self, id: str) -> tuple[int, Any] | None:
        """The latest item of a job, and how many came before it."""
        return self._partial.get(id)

    def wait(self, timeout: float | None = None) -> bool:
        """Until no job waits or runs."""
        with self._wake:
            return self._wake.wait_for(lambda: self._closed or not (self._queue or self._busy), timeout)

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self.stop_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)

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
            finally:
                self._asked.pop(id, None)
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()

    def _run(self, id: str, asked: _Asked) -> None:
        began = time.monotonic()
        watch = _Watch(lambda **told: self._tell(id, **told), asked.cancel, self._quiet)
        try:
            watch.tell("Starting", 0, 0)
            latest: Any = None
            memory = 2 * PACK * prices_of(asked.world.model.layout).bytes
            watched = {"progress": watch.tell, "cancel": watch.cancelled, "memory": memory}
            for latest in asked.method.run(asked.plain, asked.world, **watched):
                self._show(id, latest)
                watch.turn()
            self._finish(id, asked, latest, time.monotonic() - began)
        except Cancelled as stop:
            partial = stop.partial if stop.partial is not None else (self._partial.get(id) or (0, None))[1]
            self._finish(id, asked, partial, time.monotonic() - began, cancelled=True)
        except Exception as error:
            self._tell(
                id,
                phase=FAILED,
                progress=None,
                left=None,
                stage="",
                error=explain(error),
                seconds=time.monotonic() - began,
            )

    def _show(self, id: str, item: Any) -> None:
        revision = (self._partial.get(id) or (0, None))[0] + 1
        self._partial[id] = (revision, item)
        for old in [*self._partial][: max(0, len(self._partial) - KEPT_DONE)]:
            if old != id:
                del self._partial[old]
        self._tell(id, revision=revision)

    def _finish(self, id: str, asked: _Asked, made: Any, seconds: float, *, cancelled: bool = False) -> None:
        """Put what was made on the shelf, and say that the job has ended; of a model that has gone, nothing is kept."""
        phase = CANCELLED if cancelled else DONE
        if not any(job.id == id for job in self._now().jobs):
            return
        if made is None:
            self._tell(id, phase=phase, progress=None, left=None, stage="", seconds=seconds)
            return
        self._show(id, made)
        several = made if isinstance(made, Mapping) else {"": made}
        if isinstance(made, tuple | list):
            several = {str(i + 1): item for i, item in enumerate(made)}
        names, notes = [], [note] if (note := wanting(made)) else []
        wanted = self._job(id).name
        for part, item in several.items():
            made = origin_of(item, asked.method, asked.plain, asked.world, asked.code, part=part)
            title = _title(wanted or made.method.title, part, item) + (", cut short" if cancelled else "")
            kept = Kept(title, item, made.method.title, made.method.id, made.args, made.code, line=made.line)
            try:
                names.append(self._shelf.put(kept, of=asked.world.model).name)
            except WrongModel:
                return
            except ResidscopeError as error:
                notes.append(str(error))
                if title in self._shelf.items:
                    names.append(title)
        self._tell(
            id,
            phase=phase,
            progress=None,
            left=None,
            stage="",
            seconds=seconds,
            items=tuple(names),
            note=" ".join(notes),
        )

    def _job(self, id: str) -> Job:
        return find_job(self._now(), id)

    def _tell(self, id: str, **changed: Any) -> None:
        with self._lock:
            state = self._now()
            jobs = tuple(replace(job, **changed) if job.id == id else job for job in state.jobs)
            if jobs != state.jobs or "items" in changed:
                self._commit(with_shelf(replace(state, jobs=jobs), self._shelf))


class _Watch:
    """What a method is watched by: it lets the live run go first, tells the page, and stops where it was cancelled."""

    def __init__(self, tell: Callable[..., None], cancel: threading.Event, quiet: Callable[[], object]) -> None:
        self._tell, self._cancel, self._quiet = tell, cancel, quiet
        self._stage, self._began, self._told = "", time.monotonic(), 0.0

    def cancelled(self) -> bool:
        self._quiet()
        return self._cancel.is_set()

    def turn(self) -> None:
        """Let the live run go first. Raises Cancelled."""
        if self.cancelled():
            raise Cancelled("the job was cancelled")

    def tell(self, stage: str, done: int, total: int) -> None:
        self.turn()
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, now
        elif done < total and now - self._told < PROGRESS_EVERY:
            return
        self._told = now
        share = min(done / total, 1.0) if total else None
        left = (now - self._began) * (1 - share) / share if share else None
        self._tell(phase=RUNNING, stage=stage, progress=share, left=left)


def seconds_of(method: Method, plain: Spec, world: SessionWorld) -> float | None:
    """What a call takes, about: its tokens' arithmetic at this machine's own rate; None where nobody has said."""
    tokens = method.price(plain, world)
    if tokens is None:
        return None
    layout = world.model.layout
    return tokens * prices_of(layout).forward(1, 1, columns=1) / (EFFICIENCY * rate_of(layout))


def wanting(made: Any) -> str:
    """What is to be said of numbers that are none; empty where all are."""
    values = getattr(made, "values", None)
    if not isinstance(values, torch.Tensor) or not values.is_floating_point() or not values.numel():
        return ""
    missing = int((~torch.isfinite(values)).sum())
    if not missing:
        return ""
    return f"{missing} of its {values.numel()} values are no numbers (NaN or infinite)."


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
    """The state with what is on the shelf now; its dictionaries are the model's too."""
    loaded = state.model
    if loaded is not None and shelf.model is loaded.model:
        loaded = loaded.with_shelf(shelf)
    return replace(state, model=loaded, items=shelf_of(shelf))


def shelf_of(shelf: ItemShelf) -> dict[str, Any]:
    """The shelf as the wire has it."""
    return {
        "items": [kept.about for kept in shelf.items.values()],
        "bytes": shelf.bytes,
        "budget": shelf.budget,
        "can_restore": shelf.can_restore,
    }
