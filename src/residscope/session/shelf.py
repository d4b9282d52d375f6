"""The shelf: a session's items by name, each a file of its own in the session's folder, within a budget of bytes."""

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residscope.engine.model import Model
from residscope.errors import NameTaken, NotFound, ResidscopeError, ShelfFull
from residscope.items import Item, load_item
from residscope.session.saved import set_aside, write_whole

BUDGET = 2 << 30
MOST_ITEMS = 500
MOST_NAME = 120
MOST_TOLD = 4000  # characters


@dataclass(frozen=True, eq=False)
class Kept:
    """One item of the shelf, and how it came to be. `code`: lines of Python that make it again."""

    name: str
    item: Item
    title: str = ""
    method: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    made: float = 0.0

    @property
    def about(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.item.kind, "title": self.title, "method": self.method, "made": self.made,
            "bytes": self.item.nbytes, "args": short_args(self.args),
        }  # fmt: skip


def short_args(args: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked for, where it is short enough to be told again and again."""
    return dict(args) if len(json.dumps(args, ensure_ascii=False)) <= MOST_TOLD else None


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

    def open(self, model: Model) -> list[str]:
        """Take up what was kept of a model before; notices of what could not be read."""
        place = None if self._folder is None else self._folder / (model.hash or model.fingerprint())
        found, notices = {}, []
        for about in sorted(place.glob("*.json")) if place is not None and place.is_dir() else ():
            file = about.with_suffix(".safetensors")
            try:
                told = json.loads(about.read_text())
                item = load_item(file, model)
                kept = Kept(
                    **{name: told[name] for name in ("name", "title", "method", "args", "code", "made")}, item=item
                )
                found[kept.name] = kept
            except (ResidscopeError, OSError, ValueError, KeyError, TypeError) as error:
                notices.append(set_aside(about, f"{about.stem} of the shelf", error))
                if file.exists():
                    set_aside(file, about.stem, error)
        with self._lock:
            self._place, self._kept, self._deleted = place, found, []
        return notices

    def close(self) -> None:
        with self._lock:
            self._place, self._kept, self._deleted = None, {}, []

    def name_for(self, wanted: str) -> str:
        """The name, with a number where another item has it."""
        with self._lock:
            names = (wanted if i == 1 else f"{wanted} ({i})" for i in range(1, len(self._kept) + 2))
            return next(name for name in names if name not in self._kept)

    def put(self, kept: Kept) -> Kept:
        """Keep an item. Raises ShelfFull; ResidscopeError where it is on the shelf, but cannot be written down."""
        check_name(kept.name)
        with self._lock:
            if len(self._kept) >= MOST_ITEMS or self.bytes + kept.item.nbytes > self._budget:
                raise ShelfFull(
                    "the shelf is full",
                    received=f"{kept.name}, {kept.item.nbytes / 1e6:,.1f} MB",
                    allowed=f"{self._budget / 1e6:,.0f} MB and {MOST_ITEMS} items in all; {self.bytes / 1e6:,.1f} MB and "
                    f"{len(self._kept)} are there",
                    fix="delete some items",
                )
            kept = replace(kept, name=self.name_for(kept.name), made=kept.made or time.time())
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
        told = {"version": 1, "name": kept.name, "title": kept.title, "method": kept.method, "args": dict(kept.args)}
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            kept.item.save(self._file(kept.name))
            about = told | {"code": kept.code, "made": kept.made, "kind": kept.item.kind}
            write_whole(self._file(kept.name).with_suffix(".json"), json.dumps(about, ensure_ascii=False).encode())
        except OSError as error:
            raise ResidscopeError(
                f"{kept.name} is on the shelf, but could not be written down: {error}",
                received=self._place,
                fix="free the disk, or set RESIDSCOPE_DATA",
            ) from None

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


def check_name(name: str) -> None:
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise ResidscopeError("an item needs a name", received=repr(name[:200]), allowed=f"1 to {MOST_NAME} characters")
