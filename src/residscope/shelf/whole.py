"""Lists in one JSON file each that survive `kill -9` at any moment, and that several processes keep at once."""

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from filelock import FileLock

from residscope.drafts import replace_whole
from residscope.errors import NotWritten
from residscope.incoming import content, parsed

VERSION = 1
T = TypeVar("T")


class KeptList(ABC, Generic[T]):
    """The file is replaced whole, never written in place; a damaged one is moved aside and named.

    Each process writes what it changed itself into what stands there, under a lock: what another kept or deleted meanwhile stays
    kept or deleted.
    """

    NAME: ClassVar[str]
    """The file's name without its ending, and of the list in it."""
    WHAT: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{self.NAME}.json"
        self._seen: tuple[T, ...] = ()
        self._stamp: object = None

    @staticmethod
    @abstractmethod
    def parse(row: Any) -> T:
        """Raises ValueError."""

    @staticmethod
    @abstractmethod
    def told(one: T) -> Any:
        """As JSON."""

    @staticmethod
    @abstractmethod
    def key(one: T) -> Hashable:
        """What tells one from another."""

    @staticmethod
    def apart(one: T, taken: Collection[Hashable]) -> T:
        """One whose key another process has given to something else meanwhile, under a key of its own."""
        return one

    def load(self) -> tuple[tuple[T, ...], str | None]:
        """The list, and a notice where the file could not be read. One that was read before is written down anew then."""
        self._stamp = _stamp(self.path)
        notice = None
        try:
            self._seen = self._read()
        except FileNotFoundError:
            self._seen = ()
        except (OSError, ValueError) as error:
            if self.stale:  # another process has moved it aside, or written a whole one
                return self.load()
            if self._seen:
                return self._anew()
            notice = set_aside(self.path, f"The {self.WHAT}", error)
        return self._seen, notice

    def _anew(self) -> tuple[tuple[T, ...], str | None]:
        try:
            return self.save(self._seen)
        except NotWritten as error:
            return self._seen, str(error)

    def save(self, wanted: Sequence[T]) -> tuple[tuple[T, ...], str | None]:
        """Write a list down; answers it with what others have changed since it was read, and a notice where the file was damaged.

        Raises NotWritten where the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                merged, notice = self._merged(tuple(wanted))
                rows = [self.told(one) for one in merged]
                text = json.dumps({"version": VERSION, self.NAME: rows}, ensure_ascii=False, indent=1)
                write_whole(self.path, text.encode())
                self._stamp = _stamp(self.path)
        except (OSError, NotImplementedError) as error:
            raise NotWritten(
                f"the {self.WHAT} could not be saved: {error}",
                received=self.path,
                fix="free the disk, or set RESIDSCOPE_DATA to a folder that can be written and locked",
            ) from None
        self._seen = merged
        return merged, notice

    def _merged(self, wanted: tuple[T, ...]) -> tuple[tuple[T, ...], str | None]:
        try:
            there = self._read()
        except FileNotFoundError:
            return wanted, None
        except ValueError as error:
            moved = set_aside(self.path, f"The {self.WHAT}", error)
            return wanted, f"{moved} What this session holds of them was written down anew."
        if there == self._seen:
            return wanted, None
        before, now = ({self.key(one): one for one in ones} for ones in (self._seen, wanted))
        changed = {key: one for key, one in now.items() if key not in before or before[key] != one}
        others = {self.key(one): one for one in there if before.get(self.key(one)) != one}
        for key in [key for key, one in changed.items() if key in others and others[key] != one]:
            changed[key] = self.apart(changed.pop(key), {*others, *now, *before})
        deleted = before.keys() - now.keys() - others.keys()  # what another made of it meanwhile was not seen here
        mine = [*changed.values()]
        keys = {self.key(one) for one in mine}
        kept = (one for one in there if self.key(one) not in deleted and self.key(one) not in keys)
        return (*kept, *mine), None

    @property
    def stale(self) -> bool:
        """Whether another process may have written since."""
        return _stamp(self.path) != self._stamp

    def _read(self) -> tuple[T, ...]:
        told = parsed(content(self.path))
        if not isinstance(told, dict) or told.get("version") != VERSION:
            raise ValueError(f"not a file of {self.NAME} of version {VERSION}")
        rows = told.get(self.NAME)
        if not isinstance(rows, list):
            raise ValueError(f"{self.NAME} is no list")
        return tuple(self.parse(row) for row in rows)


class SavedPrompts(KeptList[str]):
    """The texts of the prompts that were kept."""

    NAME, WHAT = "prompts", "saved prompts"

    @staticmethod
    def parse(row: Any) -> str:
        if not isinstance(row, str):
            raise ValueError("prompts is not a list of texts")
        return row

    @staticmethod
    def told(one: str) -> str:
        return one

    @staticmethod
    def key(one: str) -> str:
        return one


def set_aside(path: Path, what: str, error: Exception) -> str:
    """Move a file that cannot be read out of the way; the notice that says so."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    try:
        path.rename(aside)
    except OSError as failure:
        return f"{what} in {path} cannot be read ({error}) and could not be moved aside ({failure})."
    return f"{what} could not be read ({error}); the file was moved to {aside}."


def _stamp(path: Path) -> object:
    """What is another once the file was replaced."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_mtime_ns, told.st_size


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """A reader sees the old file or the new one; it is its owner's alone."""
    replace_whole(path, lambda draft: draft.write_bytes(data), private=True, durable=durable)
