"""The shelf: a session's items by name, each a file of its own in the session's folder, within a budget of bytes."""

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residscope.corpus.vectors import one_vector
from residscope.directions import Dictionary, new_id
from residscope.engine.model import Model
from residscope.errors import DamagedFile, NameTaken, NotFound, ResidscopeError, ShelfFull, WrongModel
from residscope.items import Item, load_item
from residscope.session.saved import set_aside, write_whole

BUDGET = 2 << 30
MOST_ITEMS = 500
MOST_NAME = 120


@dataclass(frozen=True, eq=False)
class Kept:
    """One item of the shelf, and how it came to be. `code`: lines of Python that make it again; `line`: one expression that does.

    id: of a dictionary, what it goes by in the session (`pca@resid_post.3`), whatever it is called here.
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

    @property
    def about(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.item.kind, "title": self.title, "method": self.method, "made": self.made,
            "bytes": self.item.nbytes, "id": self.id or None,
        }  # fmt: skip


class ItemShelf:
    """Items of one model at a time. What is written down is written whole; a file that cannot be read is moved aside and named.

    Every method may be called from any thread; none holds the session's lock while it writes.
    """

    def __init__(self, folder: Path | None, *, budget: int = BUDGET) -> None:
        self._folder = None if folder is None else folder / "items"
        self._budget = budget
        self._lock = threading.RLock()
        self._place: Path | None = None
        self._kept: dict[str, Kept] = {}
        self._deleted: list[Kept] = []
        self._model: Model | None = None
        self._others: frozenset[str] = frozenset()
        self._given: set[str] = set()

    @property
    def model(self) -> Model | None:
        """Whose items these are."""
        return self._model

    @property
    def dictionaries(self) -> dict[str, Kept]:
        """The dictionaries among the items, by id."""
        return {kept.id: kept for kept in self.items.values() if kept.id}

    @property
    def items(self) -> dict[str, Kept]:
        with self._lock:
            return dict(self._kept)

    @property
    def bytes(self) -> int:
        return sum(kept.item.nbytes for kept in self.items.values())

    @property
    def budget(self) -> int:
        return self._budget

    def open(self, model: Model, *, ids: Iterable[str] = ()) -> list[str]:
        """Take up what was kept of a model before; notices of what could not be read. ids: of dictionaries that are elsewhere."""
        place = None if self._folder is None else self._folder / (model.hash or model.fingerprint())
        found: dict[str, Kept] = {}
        notices: list[str] = []
        for about in sorted(place.glob("*.json")) if place is not None and place.is_dir() else ():
            file = about.with_suffix(".safetensors")
            try:
                told = json.loads(about.read_text())
                item = load_item(file, model)
                check_fits(item, model)
                facts = {name: told[name] for name in ("name", "title", "method", "args", "code", "made")}
                kept = Kept(**facts, item=item, line=told.get("line", ""), id=told.get("id", ""))
                found[kept.name] = kept
            except (ResidscopeError, OSError, ValueError, KeyError, TypeError) as error:
                notices.append(set_aside(about, f"{about.stem} of the shelf", error))
                if file.exists():
                    set_aside(file, about.stem, error)
        with self._lock:
            self._model, self._place, self._kept, self._deleted = model, place, {}, []
            self._others = frozenset(ids)
            self._given = {*self._others, *(kept.id for kept in found.values())}
            for kept in sorted(found.values(), key=lambda kept: kept.made):
                self._kept[kept.name] = self._with_id(kept)
        for kept in [kept for kept in self.items.values() if kept.id != found[kept.name].id]:
            self._describe(kept)
        return notices

    def close(self) -> None:
        with self._lock:
            self._model, self._place, self._kept, self._deleted = None, None, {}, []

    def _with_id(self, kept: Kept) -> Kept:
        """A dictionary with an id that no other has, or ever had: its own where it has one already."""
        if not isinstance(kept.item, Dictionary):
            return kept
        if kept.id and kept.id not in self._others and kept.id not in {other.id for other in self._kept.values()}:
            return kept
        id = new_id(kept.item, self._given)
        self._given.add(id)
        return replace(kept, id=id)

    def name_for(self, wanted: str) -> str:
        """The name, with a number where another item has it."""
        with self._lock:
            names = (wanted if i == 1 else f"{wanted} ({i})" for i in range(1, len(self._kept) + 2))
            return next(name for name in names if name not in self._kept)

    def put(self, kept: Kept, *, of: Model | None = None) -> Kept:
        """Keep an item. of: the model it was made on. Raises ShelfFull; WrongModel where another model's items are here by now;
        ResidscopeError where it is on the shelf, but cannot be written down.
        """
        check_name(kept.name)
        with self._lock:
            if of is not None and self._model is not None and of is not self._model:
                raise WrongModel("another model was loaded meanwhile", received=kept.name)
            if len(self._kept) >= MOST_ITEMS or self.bytes + kept.item.nbytes > self._budget:
                raise ShelfFull(
                    "the shelf is full",
                    received=f"{kept.name}, {kept.item.nbytes / 1e6:,.1f} MB",
                    allowed=f"{self._budget / 1e6:,.0f} MB and {MOST_ITEMS} items in all; {self.bytes / 1e6:,.1f} MB and "
                    f"{len(self._kept)} are there",
                    fix="delete some items",
                )
            kept = self._with_id(replace(kept, name=self.name_for(kept.name), made=kept.made or time.time()))
            self._kept[kept.name] = kept
        self._write(kept)
        return kept

    def find(self, name: str) -> Kept:
        """Raises NotFound."""
        kept = self.items.get(name)
        if kept is None:
            known = ", ".join([*self.items][:8])
            raise NotFound("nothing on the shelf has that name", received=name[:200], allowed=known or "it is empty")
        return kept

    def rename(self, name: str, to: str) -> None:
        """Raises NotFound, NameTaken."""
        check_name(to)
        with self._lock:
            kept = self.find(name)
            if to != name and to in self._kept:
                raise NameTaken("another item has that name", received=to, fix="choose another")
            new = replace(kept, name=to)
            self._kept = {to if key == name else key: new if key == name else old for key, old in self._kept.items()}
        self._write(new)
        if to != name:
            self._remove(name)

    def delete(self, name: str) -> None:
        """Take an item off the shelf; `restore` brings the latest back. Raises NotFound."""
        with self._lock:
            kept = self.find(name)
            del self._kept[name]
            self._deleted = [*self._deleted, kept][-10:]
        self._remove(name)

    def restore(self) -> Kept | None:
        """Bring back what was deleted last, if anything."""
        with self._lock:
            kept = self._deleted.pop() if self._deleted else None
        return None if kept is None else self.put(kept)

    @property
    def can_restore(self) -> bool:
        return bool(self._deleted)

    def _write(self, kept: Kept) -> None:
        if self._place is None:
            return
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            kept.item.save(self._file(kept.name))
            self._describe(kept)
        except OSError as error:
            raise ResidscopeError(
                f"{kept.name} is on the shelf, but could not be written down: {error}",
                received=self._place,
                fix="free the disk, or set RESIDSCOPE_DATA",
            ) from None

    def _describe(self, kept: Kept) -> None:
        """Write down what an item is, beside its file."""
        told = {"version": 1, "name": kept.name, "title": kept.title, "method": kept.method, "args": dict(kept.args)}
        about = told | {
            "code": kept.code, "made": kept.made, "kind": kept.item.kind, "line": kept.line, "id": kept.id,
        }  # fmt: skip
        write_whole(self._file(kept.name).with_suffix(".json"), json.dumps(about, ensure_ascii=False).encode())

    def file(self, name: str) -> Path | None:
        """Where an item is written down; None where nothing is."""
        return None if self._place is None else self._file(name)

    def _remove(self, name: str) -> None:
        if self._place is not None:
            for ending in (".json", ".safetensors"):
                self._file(name).with_suffix(ending).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        """A file's name that no other item's is, on file systems that do not tell capitals apart either."""
        import hashlib

        assert self._place is not None
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "item"
        return self._place / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.safetensors"


def check_fits(item: Item, model: Model) -> None:
    """Refuse a dictionary of a place that the model has not. Raises DamagedFile, SiteError."""
    if isinstance(item, Dictionary):
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


def check_name(name: str) -> None:
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise ResidscopeError("an item needs a name", received=repr(name[:200]), allowed=f"1 to {MOST_NAME} characters")
