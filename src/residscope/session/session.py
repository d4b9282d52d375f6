"""The live session: one model, one prompt, a stack of edits, and the runs they made."""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from residscope.declare import Method, shorten
from residscope.declare.plugins import load_plugins
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import Cancelled, DamagedFile, NotFound, ResidscopeError, WrongModel, explain
from residscope.manifest import find_method
from residscope.progress import asking
from residscope.session import fill, wire
from residscope.session.beside import FAILED, LOADING, READY, Second
from residscope.session.from_code import put_edits
from residscope.session.held import HeldRuns
from residscope.session.intents import (
    INTENTS,
    CancelJob,
    DrawingStarted,
    DrawPrompts,
    ExportFeatures,
    Forget,
    ImportDirection,
    Imported,
    ImportItem,
    KeepMade,
    KeepModel,
    KeptNames,
    LoadModel,
    SavedName,
    Start,
    Started,
    is_loaded,
)
from residscope.session.jobs import Job, Jobs, Taker, with_job, with_shelf
from residscope.session.kept import Keeping
from residscope.session.maps import Maps
from residscope.session.memory import Memory, left_by, recall
from residscope.session.queries import QUERIES, Answer, Brought, answer
from residscope.session.queries import checked as parsed
from residscope.session.read.feature_effects import FeatureEffectsReads
from residscope.session.read.feature_exports import ENDING, Exports
from residscope.session.read.features import Features
from residscope.session.read.graph_runs import GraphRuns
from residscope.session.read.graphs import Graphs
from residscope.session.read.prompt_page import Drawing, PromptPages
from residscope.session.read.reads import Reads
from residscope.session.read.tokens import TokenTables
from residscope.session.second import SetOther, load_second
from residscope.session.settle import finished, other_finished, settle, with_model
from residscope.session.shelf_changes import ShelfChange
from residscope.session.stacks import ImportStack, imported
from residscope.session.state import State, changed, to_wire
from residscope.session.worker import FILL, RUN, Worker, beside
from residscope.shelf.items import MOST_NAME, ItemShelf, Kept, check_fits, check_name, of_others
from residscope.shelf.parts import parts_of
from residscope.shelf.shown import read_item
from residscope.world.imported import read_direction, take_in
from residscope.world.limits import Limits
from residscope.world.loaded import Loaded
from residscope.world.old_dictionaries import OldDictionaries
from residscope.world.python import method_code
from residscope.world.session_world import SessionWorld, need_model

Listener = Callable[[int, dict[str, Any]], None]
Gesture = Callable[[str, Any, State], None]
Loader = Callable[..., Any]
T = TypeVar("T")
MOST_DRAWINGS = 4  # jobs that drew prompts for a page, whose lines are put away by the next
PATIENCE, PROGRESS_EVERY = 0.5, 0.1  # seconds: before a run tells how far it is, and between two times


def name_of(source: Any) -> str:
    """What a model to be loaded is called."""
    return source if isinstance(source, str) else "the model"


class Session:
    """Intents in, numbered patches out; one worker thread runs the model, and a newer run replaces an older one.

    An intent is answered at once: it is refused with the state as it was, or accepted, and its results follow as
    patches. Every method may be called from any thread.

    Args:
        load: makes a model of a name (`residscope.load`); `offers` lists what the model picker shows.
        folder: where saved prompts and fitted dictionaries are kept; None keeps them in memory.
        memory: a file that keeps model, prompt, answers and edits, for the next session to go on with; None: no such file.
    """

    def __init__(
        self,
        *,
        load: Loader,
        offers: Callable[[], Sequence[wire.ModelOffer]] = tuple,
        folder: Path | None = None,
        memory: Path | None = None,
    ) -> None:
        load_plugins()
        self._load, self._offers = load, offers
        self._lock = threading.RLock()
        self._held: HeldRuns = HeldRuns(lambda: self._state, self._lock)
        self._old = OldDictionaries(folder)
        self._items = ItemShelf(folder)
        self._queries: dict[str, Brought] = {}
        self._intents: dict[str, Brought] = {}
        self._listeners: list[Listener] = []
        self._gestures: list[Gesture] = []
        self._seq = 0
        self._closed = threading.Event()
        self._loads = 0
        self._wanted: str | None = None  # the model that is on its way
        self._load_thread: threading.Thread | None = None
        self._seconds = 0
        self._loading: threading.Thread | None = None
        self._keeping = Keeping(folder)
        self._memory = None if memory is None else Memory(memory)
        self._left, forgot = self._memory.read() if self._memory else (None, None)
        notices = (forgot,) if forgot else ()
        fresh = State(id=secrets.token_hex(8), notices=notices, models=tuple(offers()))
        self._state: State = self._keeping.load(fresh)
        self._wire = to_wire(self._state)
        self._worker = Worker("residscope-session")
        self._jobs = Jobs(lambda: self._state, self._commit, self._lock, self._worker, self._items)
        self._drawings: list[str] = []
        self.maps: Maps = Maps(lambda: self._state, self._held.stream_of)
        self.token_tables: TokenTables = TokenTables(lambda: self._state)
        self.pages: PromptPages = PromptPages(self._loaded, self._held.kept, self.give_way)
        self.reads: Reads = Reads(lambda: self._state, self._held, self.pages, self._jobs, self._items, self.give_way)
        self.features: Features = Features(lambda: self._state, self._items, self.give_way)
        self.feature_effects: FeatureEffectsReads = FeatureEffectsReads(
            lambda: self._state, self.features, self.give_way
        )
        self.exports: Exports = Exports(lambda: self._state, self.features, self.begin)
        self.graphs: Graphs = Graphs(lambda: self._state, self._items, self.features)
        self.graph_runs: GraphRuns = GraphRuns(lambda: self._state, self.graphs, self.give_way)

    # ── what the doors call ─────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        return self._state

    @property
    def last_model(self) -> str | None:
        """The model that the session before this one was left with."""
        return self._left["model"] if self._left and self._left.get("named", True) else None

    def snapshot(self) -> tuple[int, wire.State]:
        """The whole state as the wire has it, with what others on the folder have kept since, and its number."""
        with self._lock:
            if (now := self._keeping.again(self._state)) is not self._state:
                self._commit(now)
            return self._seq, self._wire.copy()

    def subscribe(self, listener: Listener) -> tuple[int, wire.State, Callable[[], None]]:
        """Every later patch in order, from any thread; a listener must not block. Answers snapshot and clean-up."""
        with self._lock:
            seq, shown = self.snapshot()
            self._listeners.append(listener)

            def stop() -> None:
                with self._lock:
                    if listener in self._listeners:
                        self._listeners.remove(listener)

            return seq, shown, stop

    def on_gesture(self, listener: Gesture) -> Callable[[], None]:
        """Every accepted intent in order: its name, its arguments, the state it left. Answers the clean-up; it must not block."""
        with self._lock:
            self._gestures.append(listener)
        return lambda: self._gestures.remove(listener)

    def bring(self, *, queries: Mapping[str, Brought], intents: Mapping[str, Brought]) -> None:
        """Answer these too, each by whoever brings it: the library's."""
        self._queries, self._intents = dict(queries), dict(intents)

    def intent(self, name: str, args: Any = None, person: Any = None) -> Any:
        """Do what an intent asks, or refuse it and leave everything as it was. person: who asks, for intents that are brought.

        Raises:
            ResidscopeError: the refusal.
        """
        with self.beside():
            return self._intent(name, args, person)

    def _intent(self, name: str, args: Any, person: Any) -> Any:
        if (brought := self._intents.get(name)) is not None:
            return brought.answer(person, parsed(name, brought.args, args))
        if name not in INTENTS:
            known = ", ".join([*INTENTS, *self._intents])
            raise NotFound("there is no such intent", received=shorten(name), allowed=known)
        intent = INTENTS[name]
        checked = parsed(name, intent.args, args)
        if isinstance(checked, ShelfChange):
            return self._change_shelf(checked.change)
        if isinstance(checked, KeepMade):
            return KeptNames(names=self._jobs.keep(checked.job, checked.name))
        if isinstance(checked, ImportDirection):
            return self.import_direction(checked.data)
        if isinstance(checked, ImportStack):
            stack = imported(checked.text)
            return self.change(lambda state: put_edits(state, stack), name)
        if isinstance(checked, ImportItem):
            return self.import_item(checked.data, checked.name)
        if isinstance(checked, Forget) and (kept := self._items.dictionaries.get(checked.id)):
            return self._change_shelf(lambda shelf: shelf.delete(kept.name))
        with self._lock:
            old = self._state
            new, value = intent.apply(old, checked)
            new = self._keeping.keep(old, new)
            if isinstance(checked, Forget) and new.model is not None:
                self._old.save(new.model)
            self._commit(new)
            if not isinstance(checked, Start):
                self._tell_gesture(name, checked)
        if isinstance(checked, Start):
            job = self.begin(find_method(checked.method), checked.args, name=checked.name, keep=checked.keep)
            self._tell_gesture(name, checked)
            return Started(job=job.id, cost=job.cost)
        if isinstance(checked, DrawPrompts):
            return self._draw(checked)
        if isinstance(checked, ExportFeatures):
            return self.exports.start(checked.atlas)
        if isinstance(checked, CancelJob):
            self._jobs.stop(checked.job)
        elif isinstance(checked, SetOther):
            self._ask_second()
        elif isinstance(checked, LoadModel) and not is_loaded(old, checked.name):
            self.load(checked.name)
        elif isinstance(checked, LoadModel | KeepModel):
            with self._lock:
                self._loads += 1  # one that is on its way finds that it is not wanted any more
                self._wanted = None
        return value

    def change(self, change: Callable[[State], tuple[State, T]], gesture: str) -> T:
        """Make a change that code in this process asks for (`session.from_code`), as one step. Raises what it does."""
        with self._lock:
            new, value = change(self._state)
            self._commit(new)
            self._tell_gesture(gesture, None)
        return value

    def _tell_gesture(self, name: str, args: Any) -> None:
        with self._lock:
            for listener in tuple(self._gestures):
                listener(name, args, self._state)

    def query(
        self, name: str, args: Any = None, person: Any = None, *, gone: Callable[[], bool] = lambda: False
    ) -> Answer:
        """The answer to a question, as JSON or as safetensors; nothing changes. gone: whether nobody waits for it any more.

        Raises what the query refuses, and Cancelled where nobody waits.
        """
        with self.beside(gone):
            if (brought := self._queries.get(name)) is not None:
                found: Answer = brought.answer(person, parsed(name, brought.args, args))
                return found
            if name not in QUERIES:
                known = ", ".join([*QUERIES, *self._queries])
                raise NotFound("there is no such query", received=shorten(name), allowed=known)
            return answer(self, name, args)

    def beside(self, gone: Callable[[], bool] = lambda: False) -> AbstractContextManager[None]:
        """Forwards inside let live runs go first, and stop at the next block once nobody waits, or the session is closed."""
        return beside(self._worker, lambda: self._closed.is_set() or gone())

    def load(self, source: Any, *, named: str | None = None, **options: Any) -> None:
        """Load a model in a thread of its own, while the one that is here goes on; a newer load stops an older one.

        named: what gives a model that comes as an object.
        """
        with self._lock:
            self._loads += 1
            number, self._wanted = self._loads, name_of(source)
            self._status(phase="loading", detail="Loading", progress=None, error=None, wanted=self._wanted)
            self._load_thread = threading.Thread(
                target=self._load_job, args=[source, named, options, number], name="residscope-load", daemon=True
            )
            self._load_thread.start()

    def _ask_second(self) -> None:
        """Load the second model that the state asks for, and run it."""
        with self._lock:
            self._seconds += 1
            number, asked = self._seconds, self._state.second.phase == LOADING
        if asked:  # in a thread of its own: live runs do not wait for a download
            self._loading = threading.Thread(
                target=self._second_job, args=[number], name="residscope-second", daemon=True
            )
            self._loading.start()

    def refresh(self) -> None:
        """Take the model as it is now, after its weights, hooks or settings were changed: certify it, and run everything again.

        Raises:
            ModelError: it fails a check of its certificate, or is of no kind that is served any more; nothing is changed then.
        """
        state = self._state
        loaded = need_model(state.model)
        self._status(phase="running", detail="Certifying the model as it is now", progress=None)
        try:
            fresh = loaded.again()
        except BaseException:
            self._status(phase=state.status.phase, detail=state.status.detail, progress=state.status.progress)
            raise
        with self._lock:
            now = self._state
            if now.model is None or now.model.model is not loaded.model:
                raise WrongModel("another model was loaded meanwhile", received=loaded.model.name)
            self._held.clear()
            self._jobs.forget()
            self.graph_runs.forget()
            status = replace(now.status, phase="running", detail="", progress=None, error=None, wanted=None)
            gone: dict[str, Any] = {"runs": (), "compared": None, "baseline": None, "edited": None, "without": {}}
            beside = now.companion and replace(now.companion, outcome=None)
            new = replace(now, model=fresh, status=status, version=now.version + 1, companion=beside, **gone)
            self._commit(with_shelf(new, self._items))
            self._tell_gesture("refresh", None)

    def keep(self, name: str, item: Any) -> str:
        """Put an item of code's on the shelf; answers the name it has there. Raises BadText, ShelfFull, NotWritten."""
        kept: list[Kept] = []
        made = Kept(name, item, title="From code")
        self._change_shelf(lambda shelf: kept.append(shelf.put(made, of=self.model)))
        return kept[0].name

    def take_off(self, name: str) -> None:
        """Delete an item of the shelf. Raises NotFound."""
        self._change_shelf(lambda shelf: shelf.delete(name))

    @property
    def items(self) -> Mapping[str, Any]:
        """What is on the shelf, by name."""
        return {name: kept.item for name, kept in self._items.items.items()}

    def file(self, name: str, ending: str) -> tuple[str, bytes]:
        """A file to keep: an item of the shelf in the form of an ending, or (.zip) the pages that a job of this name has written.

        Its name and its bytes. Raises NotFound, WrongEnding.
        """
        return self.exports.file(name) if ending == ENDING else self.reads.item_file(name, ending)

    def wait(self, timeout: int | float | None = None) -> bool:
        """Until every run and every number that follows it is there."""
        if (load := self._load_thread) is not None and load is not threading.current_thread():
            load.join(timeout)
            if load.is_alive():
                return False
        done = self._worker.wait(timeout)
        if done and (loading := self._loading) is not None:
            loading.join(timeout)
            done = not loading.is_alive() and self._worker.wait(timeout)
        return done and self._jobs.wait(timeout)

    def give_way(self) -> None:
        """Until no live run waits: what is done beside them calls this now and then."""
        self._worker.quiet(RUN)

    def begin(
        self,
        method: Method,
        args: Any,
        *,
        name: str = "",
        taker: Taker | None = None,
        world: SessionWorld | None = None,
        keep: bool = True,
    ) -> Job:
        """Queue a method as a job. taker: takes what it makes, instead of the shelf. world: what the arguments mean. keep: False
        leaves what it makes with the job.

        Raises:
            BadArguments, and what a first look at the arguments refuses.
        """
        world = world or self._state.world()
        plain = method.check(args)
        method.look(plain, world)
        code = method_code(method, plain, world) if taker is None else ""
        job = self._jobs.new(method, plain, world, name=name, code=code, taker=taker, keep=keep)
        try:
            with self._lock:
                if need_model(self._state.model).model is not world.model:
                    raise WrongModel(
                        "another model was loaded meanwhile", received=world.loaded.model.name, fix="start it again"
                    )
                self._commit(replace(self._state, jobs=with_job(self._state.jobs, job)))
                self._jobs.start(job)
        except BaseException:
            self._jobs.drop(job)
            raise
        return job

    def _draw(self, asked: DrawPrompts) -> DrawingStarted:
        """Draw prompts for a page in a job; a newer one stops those before, and what is held already is not drawn again."""
        drawing, loaded = asked.model_dump(mode="json"), self._loaded()
        key = json.dumps(drawing, sort_keys=True)
        if (known := self.pages.known(key)) is not None:
            return {"job": known, "ready": True}
        for earlier in self._drawings:  # under way: it stops; ended: its line goes, what it drew stays
            with contextlib.suppress(NotFound):
                self.intent("cancel", {"job": earlier})
        job = self.begin(find_method("draw-prompts"), drawing, taker=Drawing(self.pages, loaded, key))
        self._drawings = [*self._drawings[-MOST_DRAWINGS:], job.id]
        return {"job": job.id, "ready": False}

    def _change_shelf(self, change: Callable[[ItemShelf], object]) -> None:
        change(self._items)
        with self._lock:
            self._commit(with_shelf(self._state, self._items))

    def stop(self) -> None:
        """Stop what runs, as soon as it can be stopped, and start nothing more; waits for nothing."""
        self._remember_job()
        self._closed.set()
        self._loads += 1
        self._seconds += 1
        self._jobs.stop_all()
        self._worker.look_again()

    def close(self) -> None:
        """Stop what runs, and wait until it has stopped, for some seconds."""
        self.stop()
        self._worker.close()
        self._jobs.close()
        self.exports.close()

    # ── what is read ────────────────────────────────────────────────────────────────────────────────────────

    def notify(self, text: str) -> None:
        """Something that everybody who has the page open is to read."""
        with self._lock:
            self._commit(replace(self._state, notices=(*self._state.notices, text)))

    def limit(self, limits: Limits) -> None:
        """What whoever asks may have of this machine, from now on."""
        with self._lock:
            self._commit(replace(self._state, limits=limits))

    def tell_present(self, names: tuple[str | None, ...]) -> None:
        """Who has the page open now: a name, or none, for each window."""
        with self._lock:
            self._commit(replace(self._state, present=names))

    def tell_library(self) -> None:
        """There is a library; and, from then on, somebody has changed it: whoever shows it reads it again."""
        with self._lock:
            known = self._state.library
            self._commit(replace(self._state, library=0 if known is None else known + 1))

    def import_direction(self, data: bytes) -> SavedName:
        """Take in a direction from safetensors bytes; answers the reference to it."""
        with self._lock:
            name, direction = read_direction(data, self._loaded(), self._state.directions)
            self._commit(replace(self._state, directions={**self._state.directions, name: direction}))
        return {"kind": "saved", "name": name}

    def import_item(self, data: bytes, name: str) -> Imported:
        """Take an item's file in, or each of several in one; answers their names. A dictionary is the model's too; one of other
        weights is told to be.

        Raises:
            DamagedFile, SiteError, ShelfFull, WrongModel.
        """
        model, name = self.model, check_name(name or "imported")
        parts, names, notices = parts_of(read_item(data, model)), [], []
        if not parts:
            raise DamagedFile("the file holds no dictionaries", received=f"{len(data)} bytes")
        for item in parts.values():
            check_fits(item, model)
        try:
            for part, item in parts.items():
                wanted = f"{name[: MOST_NAME // 2]}, {part[: MOST_NAME // 2 - 2]}" if part else name
                kept = self._items.put(Kept(wanted, item, "Imported"), of=model)
                names.append(kept.name)
                if of_others(item, model):
                    notices.append(f"{kept.name} was fitted on other weights than this model's.")
        finally:
            with self._lock:
                self._commit(with_shelf(replace(self._state, notices=(*self._state.notices, *notices)), self._items))
        return {"name": names[0], "names": names}

    @property
    def model(self) -> Model:
        """Raises ModelNotFound where none is loaded yet."""
        return self._loaded().model

    def adopt(self, direction: Direction, *, id: str) -> SavedName:
        """Take in a direction of the library; answers the reference to it."""
        with self._lock:
            name, taken = take_in(direction, self._loaded(), self._state.directions, id=id)
            self._commit(replace(self._state, directions={**self._state.directions, name: taken}))
        return {"kind": "saved", "name": name}

    # ── the worker's jobs ───────────────────────────────────────────────────────────────────────────────────

    def _load_job(self, source: Any, named: str | None, options: Mapping[str, Any], number: int) -> None:
        label = name_of(source)
        told = 0.0

        def tell(**fields: Any) -> None:
            with self._lock:
                if number == self._loads:
                    self._status(phase="loading", wanted=label, **fields)

        def wanted(done: int | None = None) -> None:
            self._go_on()
            if number != self._loads:
                raise Cancelled("another model was chosen")

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal told
            wanted()
            if time.monotonic() - told > PROGRESS_EVERY or done == total:
                told = time.monotonic()
                share = min(done / total, 1.0) if total else None
                tell(detail=f"{label}: {stage}", progress=share)

        tell(detail=f"Loading {label}", progress=None)
        try:
            with asking(wanted, wanted):
                model = source if hasattr(source, "certificate") else self._load(source, progress=progress, **options)
            wanted()
            loaded = Loaded.of(model, source=source if isinstance(source, str) else named, **options)
            loaded, notice = self._old.load(loaded)
            offers = tuple(self._offers())
            opened = self._items.read(loaded.model)
        except Exception as error:
            if number == self._loads and not self._closed.is_set():
                self._wanted = None
                said = f"{label} could not be loaded."
                self._status(phase="failed", detail=said, progress=None, error=explain(error), wanted=label)
            return
        with self._lock:
            if number == self._loads:
                self._wanted = None
                self._held.clear()
                self.maps.clear()
                self.graph_runs.forget()
                new = with_model(self._state, loaded)
                notices = new.notices if notice is None else (*new.notices, notice)
                if stopped := sum(not job.ended for job in self._state.jobs):
                    notices = (*notices, f"Jobs belong to the model before: {stopped} stopped.")
                self._jobs.stop_all()
                self._jobs.forget()
                self._items.take_up(opened, ids=loaded.dictionaries)
                notices = (*notices, *opened.notices)
                new = with_shelf(replace(new, models=offers, notices=notices, shelf=self._items, jobs=()), self._items)
                left, self._left = self._left, None
                self._commit(new if left is None else recall(new, left))
                self._ask_second()

    def _second_job(self, number: int) -> None:
        state, told = self._state, 0.0

        def wanted() -> bool:
            return number == self._seconds and state.model is not None and self._state.second.phase == LOADING

        def tell(**fields: Any) -> None:
            nonlocal told
            if time.monotonic() - told > PROGRESS_EVERY and wanted():
                told = time.monotonic()
                with self._lock:
                    self._commit(replace(self._state, second=replace(self._state.second, **fields)))

        if not wanted():
            return
        try:
            found = load_second(state, self._load, wanted, tell)
        except Cancelled:
            return
        with self._lock:
            if (
                wanted()
                and self._state.model is not None
                and need_model(self._state.model).model is need_model(state.model).model
            ):
                self._commit(replace(self._state, second=found, compared=None))
        self._worker.submit("other", self._other_job, priority=FILL)

    def _other_job(self) -> None:
        """The second model on the same prompt, unedited and with the same edits, once the session's own run is there."""
        state = self._state
        loaded, prompt = state.second.loaded, state.prompt
        if loaded is None or prompt is None or state.model is None or state.status.phase != "idle":
            return

        def turn(done: int | None = None) -> None:
            self._go_on()
            if state.version != self._state.version or self._state.second.loaded is not loaded:
                raise Cancelled("a newer run takes its place")

        def held(active: Any) -> Any:
            return self._held.result(loaded, prompt, active, state, weights=loaded.model.hash)[0]

        error = None
        try:
            with asking(turn, turn):
                base = held(())
                turn()
                try:
                    edited = held(state.active) if state.active else None
                except ResidscopeError as refused:
                    if isinstance(refused, Cancelled):
                        raise
                    edited, error = None, explain(refused)
        except Cancelled:
            return
        except Exception as failure:
            with self._lock:
                gone = Second(loaded.source or "", FAILED, "Its run failed.", error=explain(failure))
                if self._state.second.loaded is loaded:
                    self._commit(replace(self._state, second=gone))
            return
        with self._lock:
            if state.version == self._state.version and self._state.second.loaded is loaded:
                new = other_finished(self._state, loaded, base, edited)
                self._commit(
                    replace(new, second=replace(new.second, phase=READY, detail="", progress=None, error=error))
                )

    def _run_job(self) -> None:
        state = self._state
        if state.model is None or state.prompt is None:
            return
        try:
            with asking(tell := self._run_told(state), tell):
                base, base_ms = self._held.result(state.model, state.prompt, (), state)
                if state.version != self._state.version:
                    return
                edited, edited_ms = (
                    self._held.result(state.model, state.prompt, state.active, state) if state.active else (None, None)
                )
        except Cancelled:
            return
        except Exception as error:
            if state.version == self._state.version:
                self._status(phase="failed", detail="The run failed.", progress=None, error=explain(error))
            return
        with self._lock:
            if state.version == self._state.version:
                ms = edited_ms if edited_ms is not None else base_ms
                self._commit(finished(self._state, base, edited, forward_ms=ms))
                if self._wanted is not None:
                    self._status(phase="loading", detail=f"Loading {self._wanted}", wanted=self._wanted)
        self._worker.submit("other", self._other_job, priority=FILL)
        self._worker.submit("fill", self._fill_job, priority=FILL)

    def _run_told(self, state: State) -> Callable[[], None]:
        """What a run asks in front of each block: it tells how far it is, once it takes long; a newer one takes its place."""
        began, told, blocks = time.monotonic(), 0.0, -1
        assert state.model is not None
        total = state.model.model.n_layers * (2 if state.active else 1)

        def tell(done: int | None = None) -> None:
            nonlocal told, blocks
            self._go_on()
            if state.version != self._state.version:
                raise Cancelled("a newer run takes its place")
            blocks, now = blocks + (done is None), time.monotonic()
            if now - began > PATIENCE and now - told > PROGRESS_EVERY and self._lock.acquire(blocking=False):
                try:  # whoever has the lock may wait for the model, which this run has
                    told = now
                    self._status(detail="Reading the prompt", progress=min(blocks / total, 1.0))
                finally:
                    self._lock.release()

        return tell

    def _fill_job(self) -> None:
        """One forward of what is still missing, then the next: a new run stops it, and has the rest made when it is done."""
        state = self._state
        task = fill.next_task(state)
        if task is None:
            return

        def tell(done: int | None = None) -> None:
            self._go_on()
            if self._worker.waiting(RUN):
                raise Cancelled("a live run goes first")

        try:
            with asking(tell, tell):
                result = fill.do(task, state)
        except Cancelled:
            return
        with self._lock:
            self._commit(fill.merge(self._state, state, task, result))
        self._worker.submit("fill", self._fill_job, priority=FILL)

    def _go_on(self) -> None:
        """Raises Cancelled once the session is closed."""
        if self._closed.is_set():
            raise Cancelled("the session is closed")

    def _remember_job(self) -> None:
        self._remember(durable=True)

    def _remember(self, *, durable: bool) -> None:
        """Keep what the next session goes on with. A disk that cannot be written is said once."""
        left = left_by(self._state)
        if self._memory is None or left is None:
            return
        try:
            self._memory.write(left, durable=durable)
        except OSError as error:
            path, self._memory = self._memory.path, None
            notice = f"The session cannot be kept for the next start: {path} cannot be written ({error.strerror})."
            with self._lock:
                self._commit(replace(self._state, notices=(*self._state.notices, notice)))

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _commit(self, new: State) -> None:
        """Make a state the session's: settle it, tell everybody what changed, start the run it needs."""
        with self._lock:
            old = self._state
            new = settle(old, new)
            shown = to_wire(new)
            patch = changed(self._wire, shown)
            self._state, self._wire = new, shown
            if patch:
                self._seq += 1
                for listener in tuple(self._listeners):
                    listener(self._seq, patch)
            if new.version != old.version:
                self._worker.submit("run", self._run_job, priority=RUN)
            elif new.saved != old.saved or new.companion is not old.companion:
                self._worker.submit("fill", self._fill_job, priority=FILL)
            parts = ("model", "prompt", "companion", "metric", "edits")
            turned = new.second.name != old.second.name
            if self._memory and (turned or any(getattr(new, part) != getattr(old, part) for part in parts)):
                self._remember(durable=False)  # before it is answered: a server that is killed has kept it
                self._worker.submit("remember", self._remember_job, priority=FILL)

    def _status(self, **fields: Any) -> None:
        with self._lock:
            self._commit(replace(self._state, status=replace(self._state.status, **fields)))

    def _loaded(self) -> Loaded:
        return need_model(self._state.model)
