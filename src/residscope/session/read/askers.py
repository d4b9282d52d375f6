"""Whoever asks for what takes a while: of each only the latest question is answered, and none that nobody waits for."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from residscope.errors import Cancelled

KEPT_ASKERS = 64


class Askers:
    """Those who ask, by a name that each page has of its own. One question is answered at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._number = 0
        self._under: set[str] = set()

    @contextmanager
    def asking(self, asker: str) -> Iterator[Callable[[], bool]]:
        """The asker's turn: a function that says whether another question of theirs has come since, or they have left.

        Raises Cancelled where that is so already when it is their turn.
        """
        with self._guard:
            self._number += 1
            number = self._asked[asker] = self._number
            self._asked.move_to_end(asker)
            while len(self._asked) > KEPT_ASKERS:
                self._asked.popitem(last=False)
        with self._turn:
            if self._asked.get(asker) != number:
                raise Cancelled("something else has been asked for since", fix="ask for it again")
            with self._guard:
                self._under.add(asker)
            try:
                yield lambda: self._asked.get(asker) != number
            finally:
                with self._guard:
                    self._under.discard(asker)

    def leave(self, asker: str) -> bool:
        """Nobody waits for what this asker asked for last: whether it was under way."""
        with self._guard:
            self._asked.pop(asker, None)
            return asker in self._under
