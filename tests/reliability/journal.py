"""What was asked and what was answered, kept apart from all that is tried, and what a server should therefore show."""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

THERE, GONE, DOUBTFUL = "there", "gone", "doubtful"
Key = tuple[str, str]
"""A kind of thing, and its name."""


class Unanswered(Exception):
    """Nobody knows whether it was done."""


@dataclass(frozen=True)
class Entry:
    """How a thing stands, since when (`time.monotonic`)."""

    stands: str
    since: float


class Journal:
    def __init__(self) -> None:
        self.acknowledged: Counter[str] = Counter()
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self._entries: dict[Key, Entry] = {}
        self._lock = threading.Lock()

    def entries(self) -> dict[Key, Entry]:
        with self._lock:
            return dict(self._entries)

    @contextmanager
    def asking(self, *, made: Collection[Key] = (), gone: Collection[Key] = ()) -> Iterator[None]:
        """Around a request that makes some things and takes others away: what raises `Unanswered` in it leaves them in doubt."""
        keys = {**dict.fromkeys(made, THERE), **dict.fromkeys(gone, GONE)}
        before = self.entries()
        self._stand(dict.fromkeys(keys, DOUBTFUL))
        try:
            yield
        except Unanswered:
            raise
        except BaseException:
            self._stand({key: before[key].stands if key in before else GONE for key in keys})
            raise
        self._stand(keys)
        self.acknowledged.update({kind for kind, _ in keys})

    def _stand(self, keys: dict[Key, str]) -> None:
        with self._lock:
            self._entries |= {key: Entry(stands, time.monotonic()) for key, stands in keys.items()}

    def compare(self, found: Counter[Key], before: dict[Key, Entry], *, started: float, when: str) -> None:
        """Note what a server shows otherwise than was answered before it started, and has not changed while it was asked."""
        now = self.entries()
        for key, entry in before.items():
            if now[key] == entry and entry.since < started:
                if entry.stands == THERE and not found[key]:
                    self.lost.append(f"{when}: {key[0]} {key[1]!r} is not there")
                if entry.stands == GONE and found[key]:
                    self.lost.append(f"{when}: {key[0]} {key[1]!r} is there again")
        self.doubled += [f"{when}: {key[0]} {key[1]!r} {count} times" for key, count in found.items() if count > 1]
