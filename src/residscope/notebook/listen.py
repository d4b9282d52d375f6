"""Callbacks on what changes, in a thread of their own, one after the other: one that fails is shown, and the session goes on."""

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from residscope.errors import NotFound
from residscope.session import Session
from residscope.session.state import State
from residscope.world.given import key_of

Callback = Callable[[str, Any], object]
KEYS: dict[str, Callable[[State], Any]] = {
    "prompt": lambda state: state.prompt and (state.prompt.text, state.prompt.ids),
    "companion": lambda state: state.companion and (state.companion.prompt.text, state.companion.prompt.ids),
    "other": lambda state: (state.second.name, state.second.phase),
    "edits": lambda state: tuple((key_of(spec), spec.enabled) for spec in state.edits),
    "selection": lambda state: state.selection,
    "metric": lambda state: state.metric and (state.metric.positive.id, state.metric.negative.id),
    "items": lambda state: tuple((item["name"], item["made"]) for item in state.items["items"]),
    "model": lambda state: id(state.model),
    "run": lambda state: (state.version, state.status.phase == "idle", state.edited or state.baseline),
}
"""What may be listened to, and what of a state tells whether it has changed. "run": the numbers of a run are there."""


class Listeners:
    """value: what a callback is given beside the name."""

    def __init__(self, session: Session, value: Callable[[str], Any]) -> None:
        self._session, self._value = session, value
        self._wake = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._callbacks: list[tuple[Callback, frozenset[str]]] = []
        self._seen = self._look()
        self._stop = session.subscribe(lambda seq, patch: self._wake.set())[2]
        self._thread: threading.Thread | None = None

    def add(self, callback: Callback, names: tuple[str, ...]) -> Callable[[], None]:
        """Answers what takes it off again. Raises NotFound: nothing of that name changes."""
        if unknown := [name for name in names if name not in KEYS]:
            raise NotFound("nothing of that name changes", received=repr(unknown[0]), allowed=", ".join(KEYS))
        entry = (callback, frozenset(names or KEYS))
        with self._lock:
            self._callbacks.append(entry)
            if self._thread is None:
                self._seen = self._look()
                self._thread = threading.Thread(target=self._work, name="residscope-callbacks", daemon=True)
                self._thread.start()

        def off() -> None:
            with self._lock:
                if entry in self._callbacks:
                    self._callbacks.remove(entry)

        return off

    def close(self) -> None:
        self._closed = True
        self._stop()
        self._wake.set()

    def _look(self) -> dict[str, Any]:
        state = self._session.state
        return {name: key(state) for name, key in KEYS.items()}

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            found, seen = self._look(), self._seen
            self._seen = found
            for name in KEYS:
                if found[name] != seen[name] and not (name == "run" and not found["run"][1]):
                    self._call(name)

    def _call(self, name: str) -> None:
        with self._lock:
            wanted = [callback for callback, names in self._callbacks if name in names]
        for callback in wanted:
            try:
                callback(name, self._value(name))
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                called = getattr(callback, "__name__", "a callback")
                self._session.notify(f"{called} failed on a change of the {name}: {type(error).__name__}: {error}")
