"""Fitting beside the live run, which goes first."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from residscope.directions import Dictionary
from residscope.errors import Cancelled, ResidscopeError, explain
from residscope.session.fit import FitRecipe, code, fit
from residscope.session.kept import Shelf
from residscope.session.loaded import Loaded
from residscope.session.state import Fit, State
from residscope.session.world import need_model

PAUSE = 0.01  # seconds between two looks at whether the live run is done


class FitJobs:
    """One fit at a time, in a thread of its own. What it found comes into the state whole, or, cancelled or failed, not at all.

    now: the session's state. commit: makes a state the session's. lock: held around both. shelf: keeps what was fitted.
    """

    def __init__(
        self, now: Callable[[], State], commit: Callable[[State], None], lock: threading.RLock, shelf: Shelf
    ) -> None:
        self._now, self._commit, self._lock, self._shelf = now, commit, lock, shelf

    def start(self, asked: Fit, recipe: FitRecipe) -> None:
        threading.Thread(target=self._run, args=(asked, recipe), name="residscope-fit", daemon=True).start()

    def _run(self, asked: Fit, recipe: FitRecipe) -> None:
        known = asked

        def current() -> State:
            if self._now().fit is not known:
                raise Cancelled("the fit was cancelled")
            return self._now()

        def report(share: float) -> None:
            nonlocal known
            while current().status.phase == "running":
                time.sleep(PAUSE)
            with self._lock:
                state, now = current(), replace(known, progress=share)
                known = now
                self._commit(replace(state, fit=now))

        try:
            loaded = need_model(current().model)
            found = fit(loaded, recipe, progress=report)
            with self._lock:
                self._commit(self._with_found(current(), found, recipe))
        except Cancelled:
            return
        except Exception as error:
            with self._lock:
                if self._now().fit is known:
                    self._commit(replace(self._now(), fit=replace(known, error=explain(error))))

    def _with_found(self, state: State, found: list[Dictionary], recipe: FitRecipe) -> State:
        loaded = need_model(state.model)
        loaded = loaded.with_fitted(found, code(recipe, loaded))
        return replace(state, model=loaded, fit=None, notices=(*state.notices, *put(self._shelf, loaded)))


def put(shelf: Shelf, loaded: Loaded) -> list[str]:
    """Keep a model's fitted dictionaries on the disk; a notice where that fails, for they stay in the session all the same."""
    try:
        shelf.save(loaded)
    except ResidscopeError as error:
        return [str(error)]
    return []
