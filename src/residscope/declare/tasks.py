"""Tasks declared: functions that make labelled prompts."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from residscope.declare.plugins import claim
from residscope.fields.base import Writer

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Task:
    """A function of a model, a number of prompts and a seed (and perhaps whether sentences come before) to a PromptSet."""

    id: str
    title: str
    function: Callable[..., Any]

    def __call__(self, model: Any, n: int, *, seed: int = 0, prefixes: bool = False) -> Any:
        return self.function(model, n, seed=seed, **self._more(prefixes))

    def code(self, n: int, writer: Writer, *, seed: int = 0, prefixes: bool = False) -> str:
        """The call as Python."""
        name, module = self.function.__name__, self.function.__module__
        if module.startswith("residscope."):
            name = f"rs.tasks.{name}"
        else:
            writer.need(f"from {module} import {name}")
        more = "".join(f", {key}={value}" for key, value in self._more(prefixes).items())
        return f"{name}(model, n={n}, seed={seed}{more})"

    def _more(self, prefixes: bool) -> dict[str, bool]:
        return {"prefixes": prefixes} if "prefixes" in inspect.signature(self.function).parameters else {}

    @property
    def about(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n\n")[0].replace("\n", " ")


TASKS: dict[str, Task] = {}


def task(id: str, *, title: str) -> Callable[[F], F]:
    """Declare a function of (model, n, *, seed) to a `PromptSet` as a task."""

    def declare(function: F) -> F:
        claim("tasks", id, TASKS.get(id), function)
        TASKS[id] = Task(id, title, function)
        return function

    return declare
