"""Tasks declared: functions that make labelled prompts."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from residscope.errors import NameAlreadyDeclared

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Task:
    """A function of a model, a number of prompts and a seed (and perhaps whether sentences come before) to a PromptSet."""

    id: str
    title: str
    function: Callable[..., Any]

    def __call__(self, model: Any, n: int, *, seed: int = 0, prefixes: bool = False) -> Any:
        more = {"prefixes": prefixes} if "prefixes" in inspect.signature(self.function).parameters else {}
        return self.function(model, n, seed=seed, **more)

    @property
    def about(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n\n")[0].replace("\n", " ")


TASKS: dict[str, Task] = {}


def task(id: str, *, title: str) -> Callable[[F], F]:
    """Declare a function of (model, n, *, seed) to a `PromptSet` as a task."""

    def declare(function: F) -> F:
        known = TASKS.get(id)
        if known is not None and known.function.__module__ != function.__module__:
            raise NameAlreadyDeclared("two tasks have one id", received=id, allowed="another id")
        TASKS[id] = Task(id, title, function)
        return function

    return declare
