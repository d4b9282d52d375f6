"""The numbers of the latest runs: kept while they are looked at, or computed again."""

from collections.abc import Callable
from threading import RLock

from residscope.declare import EditSpec
from residscope.session import compute
from residscope.session.compute import Elsewhere, Held, Latest
from residscope.session.editing import find_run
from residscope.session.state import State
from residscope.world.loaded import Loaded
from residscope.world.values import Prompt, Run, RunKey, run_key


class HeldRuns:
    """What the runs of a session's model are made of. now: its state; what comes back for another model is not kept."""

    def __init__(self, now: Callable[[], State], lock: RLock) -> None:
        self._now, self._lock = now, lock
        self._kept: Latest[RunKey, Held] = Latest()
        self._aside: Latest[tuple[RunKey, str, int | None], Elsewhere] = Latest()

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._aside.clear()

    def kept(self, prompt: Prompt) -> Held | None:
        """The unedited run of a prompt, where its stream is still held; nothing is computed."""
        with self._lock:
            return self._kept.get(run_key(prompt, ()))

    def of(self, run: str) -> tuple[Held, Loaded]:
        """A run of the history. Raises NotFound."""
        state = self._now()
        found = find_run(state, run)
        loaded = state.loaded_of(found)
        return self.result(loaded, found.prompt, found.active, state, weights=found.weights)[0], loaded

    def result(
        self, loaded: Loaded, prompt: Prompt, active: tuple[EditSpec, ...], state: State, *, weights: str = ""
    ) -> tuple[Held, float | None]:
        """A run's numbers: kept, or computed (with the milliseconds it took). weights: the second model's hash, of its runs."""
        key = run_key(prompt, active, weights)
        with self._lock:
            held = self._kept.get(key)
        if held is not None:
            return held, None
        held = compute.forward(state.world(), prompt, active, loaded.model)
        with self._lock:
            if self._serves(loaded):
                self._kept.put(key, held)
        return held, held.seconds * 1000

    def stream_of(self, loaded: Loaded, run: Run, state: State) -> Held:
        """A run that is held, or computed again, on the model it is of."""
        return self.result(loaded, run.prompt, run.active, state, weights=run.weights)[0]

    def elsewhere(self, loaded: Loaded, run: Run, state: State, site: str, head: int | None) -> Elsewhere:
        """A run at one site of every layer: kept, or computed."""
        key = run.key, site, head
        with self._lock:
            held = self._aside.get(key)
        if held is None:
            held = compute.elsewhere(state.world(), run.prompt, run.active, loaded.model, site=site, head=head)
            with self._lock:
                if self._serves(loaded):
                    self._aside.put(key, held)
        return held

    def _serves(self, loaded: Loaded) -> bool:
        state = self._now()
        return any(now is not None and loaded.model is now.model for now in (state.model, state.second.loaded))
