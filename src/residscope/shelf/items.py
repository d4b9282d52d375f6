"""The shelf: a session's items by name, each a file of its own in the session's folder, within a budget of bytes."""

import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypedDict

from filelock import FileLock, Timeout

from residscope.corpus.vectors import one_vector
from residscope.directions import Dictionary, new_id
from residscope.drafts import sweep
from residscope.engine.generation import Generation
from residscope.engine.model import Model
from residscope.errors import DamagedFile, NameTaken, NotFound, NotWritten, ResidscopeError, ShelfFull, WrongModel
from residscope.incoming import content, mapping, parsed
from residscope.items import Item, load_item
from residscope.probes.probe_map import new_probe_id, probe_in
from residscope.shelf.whole import set_aside, write_whole
from residscope.written import name_of

BUDGET = 2 << 30
MOST_ITEMS = 500
MOST_NAME = 120
MOST_TOLD = 4000  # characters
MOST_DELETED = 10  # deleted items that can be brought back
MOST_BEFORE = 50  # changes of an item that can be taken back
VERSION = 1
DRAFT = re.compile(r"\.(.+\.safetensors\..+|.+\.json\..+|tmp.+)")  # ours, and those of safetensors' own


class ItemAbout(TypedDict):
    name: str
    kind: str
    title: str
    method: str
    made: Annotated[float, "When, in seconds since 1970."]
    bytes: int
    id: Annotated[str | None, "Of a dictionary, what the model has it by; of a probe, what edits say."]
    warnings: list[str]
    cut: Annotated[bool, "Whether its job ended before it was whole."]
    changes: Annotated[int, "How often it was changed since it was made, or taken up from its file."]


class ItemInfo(ItemAbout):
    """Something on the shelf."""

    args: Annotated[dict[str, Any] | None, "What it was asked for; null where that is long."]


@dataclass(frozen=True, eq=False)
class Kept:
    """One item of the shelf, and how it came to be. `code`: lines of Python that make it again; `line`: one expression that does.

    id: of a dictionary or a probe, what it goes by in the session (`pca@resid_post.3`), whatever it is called here. `file`: where
    it is written. before: what the item was before its latest changes, the latest last.
    """

    name: str
    item: Item
    title: str = ""
    method: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    made: float = 0.0
    line: str = ""
    id: str = ""
    file: Path | None = None
    warnings: tuple[str, ...] = ()
    cut: bool = False
    changes: int = 0
    before: tuple[Item, ...] = ()

    @cached_property
    def bytes(self) -> int:
        return self.item.nbytes

    @property
    def about(self) -> ItemInfo:
        return {
            "name": self.name, "kind": self.item.kind, "title": self.title, "method": self.method, "made": self.made,
            "bytes": self.bytes, "args": short_args(self.args), "id": self.id or None,
            "warnings": [*self.warnings], "cut": self.cut, "changes": self.changes,
        }  # fmt: skip


def short_args(args: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked for, where it is short enough to be told again and again."""
    return dict(args) if len(json.dumps(args, ensure_ascii=False)) <= MOST_TOLD else None


@dataclass(frozen=True, eq=False)
class Opened:
    """What was kept of a model before, read but not yet on the shelf; notices of what could not be read."""

    model: Model
    place: Path | None
    kept: Mapping[str, Kept] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class ItemShelf:
    """Items of one model at a time. An item is two files: its tensors, then a word about it, without which it is not there.

    So a process that is killed leaves an item whole or not at all, and a renaming done or not. A file that cannot be read is
    moved aside and named. Every method may be called from any thread; what is read never waits for the disk.
    """

    def __init__(self, folder: Path | None, *, budget: int = BUDGET) -> None:
        self._folder = None if folder is None else folder / "items"
        self._budget = budget
        self._changing = threading.RLock()  # around a change and its writing: one after the other
        self._lock = threading.RLock()  # around what is in memory
        self._model: Model | None = None
        self._place: Path | None = None
        self._kept: dict[str, Kept] = {}
        self._deleted: list[Kept] = []
        self._others: frozenset[str] = frozenset()  # ids of dictionaries that are elsewhere
        self._given: set[str] = set()  # ids that were ever given

    @property
    def model(self) -> Model | None:
        """Whose items these are."""
        return self._model

    @property
    def dictionaries(self) -> dict[str, Kept]:
        """The dictionaries on the shelf, by id."""
        return {kept.id: kept for kept in self.items.values() if isinstance(kept.item, Dictionary)}

    def file(self, name: str) -> Path | None:
        """Where an item is written down; None where nothing is."""
        return self.find(name).file

    @property
    def items(self) -> dict[str, Kept]:
        with self._lock:
            return dict(self._kept)

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self.items.values())

    @property
    def budget(self) -> int:
        return self._budget

    def open(self, model: Model, *, ids: Iterable[str] = ()) -> list[str]:
        """Take up what was kept of a model before; notices of what could not be read. ids: of dictionaries that are elsewhere."""
        opened = self.read(model)
        self.take_up(opened, ids=ids)
        return [*opened.notices]

    def read(self, model: Model) -> Opened:
        """What was kept of a model before; the shelf is as it was until that is taken up."""
        place = None if self._folder is None else self._folder / (model.hash or model.fingerprint())
        if place is None or not place.is_dir():
            return Opened(model, place)
        read: list[Kept] = []
        notices: list[str] = []
        try:
            _sweep(place)
            for about in place.glob("*.json"):
                _read_one(about, model, read, notices)
        except OSError as error:
            notices.append(f"The shelf in {place} cannot be read: {error}.")
        kept: dict[str, Kept] = {}
        for one in sorted(read, key=lambda one: (one.made, str(one.file))):
            name = _free(one.name, kept)  # another process may have given the same
            kept[name] = replace(one, name=name)
        return Opened(model, place, kept, tuple(notices))

    def take_up(self, opened: Opened, *, ids: Iterable[str] = ()) -> None:
        """Make what was read the shelf's. ids: of dictionaries that are elsewhere, which none here may have."""
        with self._changing:
            with self._lock:
                self._model, self._place = opened.model, opened.place
                self._kept, self._deleted = {}, []
                self._others = frozenset(ids)
                self._given = {*self._others, *(kept.id for kept in opened.kept.values())}
                for name, kept in opened.kept.items():
                    self._kept[name] = self._with_id(kept)
            for name, kept in self.items.items():
                if kept.id != opened.kept[name].id and kept.file is not None:
                    with suppress(OSError):  # the id is given again the next time
                        _write_about(kept)

    def close(self) -> None:
        with self._lock:
            self._model, self._place, self._kept, self._deleted = None, None, {}, []

    def _with_id(self, kept: Kept) -> Kept:
        """A dictionary or probe with an id that no other has, or ever had: its own where it has one already."""
        if kept.id and kept.id not in self._others and kept.id not in {other.id for other in self._kept.values()}:
            return kept
        return replace(kept, id=self.new_id(kept.item))

    def new_id(self, item: Item) -> str:
        """An id for a dictionary or a probe, which is given once; "" for what has none."""
        with self._lock:
            if isinstance(item, Dictionary):
                id = new_id(item, self._given)
            elif probe := probe_in(item):
                id = new_probe_id(probe, self._given)
            else:
                return ""
            self._given.add(id)
            return id

    def put(self, kept: Kept, *, of: Model | None = None) -> Kept:
        """Keep an item; `of`: only while the shelf is that model's.

        Raises:
            BadText: its name. ShelfFull, WrongModel: it is not on the shelf. NotWritten: it is, but in no file.
        """
        name = check_name(kept.name)
        if isinstance(kept.item, Generation):
            kept.item.complete()
        with self._changing:
            with self._lock:
                if of is not None and of is not self._model:
                    raise WrongModel("the shelf is another model's by now", received=kept.name)
                self._require_room(kept)
                file = (
                    None if self._place is None else self._place / f"{_plain(name)}-{secrets.token_hex(5)}.safetensors"
                )
                kept = self._with_id(replace(kept, made=kept.made or time.time(), file=file))
                kept = replace(kept, name=_free(name, {*self._kept} | (self._given - {kept.id})))
                self._kept[kept.name] = kept
            _write(kept)
        return kept

    def find(self, name: str) -> Kept:
        """Raises NotFound."""
        kept = self.items.get(name)
        if kept is None:
            known = ", ".join([*self.items][:8])
            raise NotFound("nothing on the shelf has that name", received=name[:200], allowed=known or "it is empty")
        return kept

    def rename(self, name: str, to: str) -> None:
        """Raises NotFound, NameTaken, BadText; NotWritten where the file could not be changed, and the name stays."""
        to = check_name(to)
        with self._changing:
            kept = self.find(name)
            if to != name and (to in self.items or to in self._given - {kept.id}):
                raise NameTaken("another item has that name, or had", received=to, fix="choose another")
            new = replace(kept, name=to)
            if new.file is not None and _about_file(new.file).exists():
                with _writing(name, "it keeps its name"):
                    _write_about(new)
            with self._lock:
                if self._kept.get(name) is kept:
                    self._kept = {
                        new.name if old is kept else key: new if old is kept else old for key, old in self._kept.items()
                    }

    def change(self, name: str, item: Item) -> None:
        """Put another in an item's place, under its name, in its file; `change_back` puts the one before there again.

        Raises:
            NotFound. NotWritten: its file could not be changed, and the item stays as it was.
        """
        with self._changing:
            kept = self.find(name)
            self._put_in_place(replace(kept, item=item, before=(*kept.before, kept.item)[-MOST_BEFORE:]), kept)

    def change_back(self, name: str) -> None:
        """Take the latest change of an item back, if there is one. Raises NotFound, NotWritten."""
        with self._changing:
            kept = self.find(name)
            if kept.before:
                self._put_in_place(replace(kept, item=kept.before[-1], before=kept.before[:-1]), kept)

    def _put_in_place(self, new: Kept, old: Kept) -> None:
        new = replace(new, changes=old.changes + 1)
        if new.file is not None and _about_file(new.file).exists():
            with _writing(old.name, "it stays as it was"), FileLock(_lock_file(new.file.parent)):
                new.item.save(new.file)
        with self._lock:
            if self._kept.get(old.name) is old:
                self._kept[old.name] = new

    def delete(self, name: str) -> None:
        """Take an item off the shelf; `restore` brings the latest back.

        Raises:
            NotFound. NotWritten: its file could not be removed, and it stays.
        """
        with self._changing:
            kept = self.find(name)
            if kept.file is not None:
                with _writing(name, "it is still on the shelf"):
                    _about_file(kept.file).unlink(missing_ok=True)
                with suppress(OSError):  # without a word about it, it is swept up when the shelf is opened
                    kept.file.unlink(missing_ok=True)
            with self._lock:
                if self._kept.get(name) is kept:
                    del self._kept[name]
                    self._deleted = [*self._deleted, kept][-MOST_DELETED:]

    def restore(self) -> Kept | None:
        """Bring back what was deleted last, if anything. Raises ShelfFull, and it may be tried again; NotWritten."""
        with self._changing:
            latest = self._deleted[-1] if self._deleted else None
            if latest is None:
                return None
            try:
                return self.put(latest)
            finally:
                with self._lock:
                    if any(kept.item is latest.item for kept in self._kept.values()):
                        self._deleted = [kept for kept in self._deleted if kept is not latest]

    @property
    def can_restore(self) -> bool:
        return bool(self._deleted)

    def _require_room(self, kept: Kept) -> None:
        if len(self._kept) < MOST_ITEMS and self.bytes + kept.bytes <= self._budget:
            return
        raise ShelfFull(
            "the shelf is full",
            received=f"{kept.name}, {kept.bytes / 1e6:,.1f} MB",
            allowed=f"{self._budget / 1e6:,.0f} MB and {MOST_ITEMS} items in all; {self.bytes / 1e6:,.1f} MB and "
            f"{len(self._kept)} are there",
            fix="delete some items",
        )


def _write(kept: Kept) -> None:
    if kept.file is None:
        return
    with _writing(kept.name, "it is on the shelf until the session ends"):
        try:
            kept.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(_lock_file(kept.file.parent)):
                kept.item.save(kept.file)
                _write_about(kept)
        except BaseException:
            with suppress(OSError):
                kept.file.unlink(missing_ok=True)
            raise


def _write_about(kept: Kept) -> None:
    assert kept.file is not None
    about = {
        "version": VERSION, "name": kept.name, "title": kept.title, "method": kept.method, "args": dict(kept.args),
        "code": kept.code, "made": kept.made, "kind": kept.item.kind, "line": kept.line, "id": kept.id,
        "warnings": [*kept.warnings], "cut": kept.cut,
    }  # fmt: skip
    write_whole(_about_file(kept.file), json.dumps(about, ensure_ascii=False).encode())


@contextmanager
def _writing(name: str, so: str) -> Iterator[None]:
    """Whatever writing an item raises, an item's own `save` too, as NotWritten."""
    try:
        yield
    except Exception as error:
        fix = "free the disk, or set RESIDSCOPE_DATA" if isinstance(error, OSError) else None
        said = str(error) if isinstance(error, ResidscopeError | OSError) else f"{type(error).__name__}: {error}"
        raise NotWritten(f"{name} could not be written down ({said.rstrip('.')}): {so}", fix=fix) from error


def _read_one(about: Path, model: Model, read: list[Kept], notices: list[str]) -> None:
    file = about.with_suffix(".safetensors")
    try:
        told = mapping(parsed(content(about)), "what is said of it")
        if told["version"] != VERSION:
            raise ValueError(f"it is of version {told['version']}, and this Residscope reads {VERSION}")
        words = {name: told[name] for name in ("name", "title", "method", "code")}
        if not all(isinstance(word, str) for word in words.values()) or not isinstance(told["args"], dict):
            raise ValueError("a word about it is not what it should be")
        words["name"] = check_name(words["name"], most=MOST_NAME + 10)
        words |= {name: str(told.get(name, "")) for name in ("line", "id")}
        warned = told.get("warnings", [])
        if not isinstance(warned, list) or not all(isinstance(word, str) for word in warned):
            raise ValueError("its warnings are no list of texts")
        words["warnings"] = tuple(warned)
        cut = told.get("cut", words["name"].endswith(", cut short"))  # as 0.1 said it
        if not isinstance(cut, bool):
            raise ValueError("whether it is whole is not said by yes or no")
        item = load_item(file, model)
        one = Kept(item=item, args=told["args"], made=float(told["made"]), file=file, cut=cut, **words)
        check_fits(one.item, model)
        _ = one.bytes
        read.append(one)
    except Exception as error:  # whatever is wrong with one item, the others are to be had
        if not about.exists():  # another process has deleted it meanwhile
            return
        if isinstance(error, KeyError):
            error = ValueError(f"{error} is missing in it")
        notices.append(set_aside(about, f"{about.stem} of the shelf", error))
        if file.exists():
            set_aside(file, about.stem, error)


def _sweep(place: Path) -> None:
    """Remove what a killed process had begun to write, unless another process is at it."""
    with suppress(Timeout, OSError, NotImplementedError), FileLock(_lock_file(place), timeout=0):
        sweep(place)
        for file in filter(Path.is_file, [*place.iterdir()]):
            draft = DRAFT.match(file.name) is not None
            if draft or (file.suffix == ".safetensors" and not _about_file(file).exists()):
                file.unlink(missing_ok=True)


def _about_file(file: Path) -> Path:
    return file.with_suffix(".json")


def _lock_file(place: Path) -> str:
    return str(place / ".lock")


def _plain(name: str) -> str:
    """A name in letters that every file system takes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "item"


def _free(wanted: str, names: Iterable[str]) -> str:
    taken = {*names}
    return next(n for i in range(1, len(taken) + 2) if (n := wanted if i == 1 else f"{wanted} ({i})") not in taken)


def check_fits(item: Item, model: Model) -> None:
    """Refuse a dictionary of a place that the model has not. Raises DamagedFile, SiteError."""
    if isinstance(item, Dictionary):
        if item.flat:
            where = model.sites.parse(item.site)
            width = model.sites.width(where) * (model.sites.size(where, where.kind.axes[-2]) or 1)
        else:
            width = model.sites.width(one_vector(model, item.site, item.head))
        if item.read.shape[1] != width or not len(item):
            raise DamagedFile(
                f"{item.name} at {item.place} has vectors of width {item.read.shape[1]}, not {width}",
                received=repr(item),
                allowed=f"width {width}",
            )


def of_others(item: Item, model: Model) -> bool:
    """Whether a dictionary says that it was fitted on other weights."""
    told = item.provenance.get("model") if isinstance(item, Dictionary) else None
    return bool(told and model.hash and told != model.hash)


def check_name(name: str, *, most: int = MOST_NAME) -> str:
    """The name without its outer spaces. Raises BadText: empty, too long, or with characters that cannot be seen."""
    return name_of(name, "an item's name", most=most)
