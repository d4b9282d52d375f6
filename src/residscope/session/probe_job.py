"""Fitting probes beside the live run, which goes first; and reading them."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from residscope.errors import Cancelled, explain
from residscope.fields.prompts import ProbeData
from residscope.session import compute
from residscope.session.intents import find_run
from residscope.session.probe_views import describe_data, place_of, read_vector
from residscope.session.probes import MOST_PROBES, Fitted, Shelf, steps
from residscope.session.state import Probing, State
from residscope.world.loaded import Loaded
from residscope.world.session_world import check_data, find_probe, need_model

PAUSE = 0.01  # seconds between two looks at whether the live run is done


class ProbeJobs:
    """Threads that fit probes into a session's state. A newer fit, a cancel and another model all end the one before.

    now: the session's state. commit: makes a state the session's. lock: held around both.
    """

    def __init__(self, now: Callable[[], State], commit: Callable[[State], None], lock: threading.RLock) -> None:
        self._now, self._commit, self._lock = now, commit, lock
        self._shelf = Shelf()

    def start(self, asked: Probing) -> None:
        threading.Thread(target=self._run, args=(asked,), name="residscope-probe", daemon=True).start()

    def data(self, loaded: Loaded, data: ProbeData) -> dict[str, Any]:
        """Which labels and positions some data has. Raises BadTable, TaskError."""
        check_data(data)
        return describe_data(self._shelf.prompts(loaded.model, data))

    def reading(self, state: State, name: str, *, run: str, pos: int, named: bool) -> dict[str, Any]:
        """What a probe reads in a run at a token; `named`: at its own position, where the prompt is one of its data.

        Raises:
            NotFound, UnknownPosition.
        """
        fitted, found, loaded = (
            find_probe(name, state.probes),
            find_run(state, run),
            need_model(state.model),
        )
        own, label = place_of(fitted, found.prompt.ids)
        at = own if named and own is not None else pos
        compute.check_cell(loaded.model.n_layers, len(found.prompt.tokens), layer=0, pos=at)
        x = compute.vector(state.world(), found.prompt, found.active, site=fitted.probe.site, pos=at)
        return {"run": run, "pos": at, "own": own is not None, "label": label, **read_vector(fitted, x)}

    def _run(self, asked: Probing) -> None:
        known = asked

        def report(now: Probing | None, fitted: Fitted | None = None) -> None:
            nonlocal known
            while self._now().status.phase == "running" and self._now().probing is known:
                time.sleep(PAUSE)
            with self._lock:
                state = self._now()
                if state.probing is not known:
                    raise Cancelled("the probe was cancelled")
                self._commit(replace(state, probing=now, probes=_with_probe(state, fitted)))
                known = now or known

        def tell(stage: str, progress: float | None) -> None:
            report(replace(known, stage=stage, progress=progress))

        try:
            model = need_model(self._now().model).model
            others = tuple(self._now().probes.values())
            for fitted in steps(model, asked.name, asked.recipe, self._shelf, others, tell):
                report(known, fitted)
            report(None)
        except Cancelled:
            return
        except Exception as error:
            with self._lock:
                if self._now().probing is known:
                    self._commit(replace(self._now(), probing=replace(known, progress=None, error=explain(error))))


def _with_probe(state: State, fitted: Fitted | None) -> dict[str, Fitted]:
    """The probes with one more; beyond the most, the oldest that no edit on the stack uses goes."""
    if fitted is None:
        return dict(state.probes)
    probes = {**state.probes, fitted.name: fitted}
    used = {fitted.name, *(getattr(spec, "probe", None) for spec in state.edits)}
    spare = [name for name in probes if name not in used]
    for name in spare[: max(0, len(probes) - MOST_PROBES)]:
        del probes[name]
    return probes
