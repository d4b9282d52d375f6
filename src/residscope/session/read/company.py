"""Prompts that several people wait for at once: who runs theirs takes those of the same lengths along."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from residscope.engine.model import Model
from residscope.errors import Cancelled, ResidscopeError
from residscope.world.values import Prompt

R = TypeVar("R")
Ids = tuple[int, ...]


@dataclass(eq=False)
class Asked(Generic[R]):
    """Prompts that somebody waits for. found: by their tokens, those that another's pass has read."""

    model: Model
    prompts: Sequence[Prompt]
    found: dict[Ids, R] = field(default_factory=dict)


class Company(Generic[R]):
    """Who waits for prompts. tokens: those of a pass, in which prompts of one length go together."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._lock = threading.Lock()
        self._asked: list[Asked[R]] = []

    @contextmanager
    def asking(self, model: Model, prompts: Sequence[Prompt]) -> Iterator[Asked[R]]:
        """Inside, others may run these."""
        mine = Asked[R](model, prompts)
        with self._lock:
            self._asked.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._asked.remove(mine)

    def run(
        self, mine: Asked[R], missing: Sequence[Prompt], run: Callable[[Sequence[Prompt]], Sequence[R]]
    ) -> dict[Ids, R]:
        """Run the prompts that are missing of one's own, and others' that need no pass more. Raises what `run` does of one's own.

        One at a time calls this.
        """
        if not missing:
            return {}
        with self._lock:
            others = [other for other in self._asked if other is not mine and other.model is mine.model]
        wanted = [prompt for other in others for prompt in other.prompts if prompt.ids not in other.found]
        beside = self._beside(missing, wanted)
        try:
            found = _by_ids([*missing, *beside], run)
        except Cancelled:
            raise
        except (ResidscopeError, RuntimeError):
            if not beside:
                raise
            return _by_ids(missing, run)  # what cannot be run may be theirs
        for other in others:
            other.found |= {prompt.ids: found[prompt.ids] for prompt in other.prompts if prompt.ids in found}
        return found

    def _beside(self, prompts: Sequence[Prompt], others: Sequence[Prompt]) -> list[Prompt]:
        """Of others, each once, those that the last pass over the prompts of their length has room for."""
        free = {
            length: -many % max(1, self._tokens // length)
            for length, many in Counter(len(prompt.tokens) for prompt in prompts).items()
        }
        seen, found = {prompt.ids for prompt in prompts}, list[Prompt]()
        for prompt in others:
            length = len(prompt.tokens)
            if free.get(length, 0) > 0 and prompt.ids not in seen:
                free[length] -= 1
                seen.add(prompt.ids)
                found.append(prompt)
        return found


def _by_ids(prompts: Sequence[Prompt], run: Callable[[Sequence[Prompt]], Sequence[R]]) -> dict[Ids, R]:
    return {prompt.ids: made for prompt, made in zip(prompts, run(prompts), strict=True)}
