"""Tasks declared: functions that make labelled prompts."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from residscope.declare.plugins import claim
from residscope.errors import BadPrompt
from residscope.fields.base import Writer

F = TypeVar("F", bound=Callable[..., Any])


class TaskForm(TypedDict):
    """label, position: those of its own that a form begins with. prefixes: whether sentences may come before each prompt.

    partners: the kinds of corrupted partners that it offers, its usual one first; none where there is one kind.
    """

    id: str
    title: str
    about: str
    label: str
    position: str
    prefixes: bool
    partners: list[str]


@dataclass(frozen=True, eq=False)
class Task:
    """A function of a model, a number of prompts and a seed (and perhaps whether sentences come before) to a PromptSet.

    label, position: those of its own that a form begins with. find, partners: see `task`.
    """

    id: str
    title: str
    function: Callable[..., Any]
    label: str = ""
    position: str = ""
    find: Callable[[Any, str], Mapping[str, int] | None] | None = None
    partners: tuple[str, ...] = ()

    def __call__(self, model: Any, n: int, *, seed: int = 0, prefixes: bool = False, partner: str | None = None) -> Any:
        """The prompts; partner: one of `partners`, the usual one unless said. Raises BadPrompt, and what the function does."""
        return self.function(model, n, seed=seed, **self._more(prefixes, partner))

    def code(self, n: int, writer: Writer, *, seed: int = 0, prefixes: bool = False, partner: str | None = None) -> str:
        """The call as Python. Raises BadPrompt."""
        name = self.function.__name__
        if self.own:
            name = f"rs.tasks.{name}"
        else:
            writer.need(f"from {self.function.__module__} import {name}")
        more = "".join(f", {key}={value!r}" for key, value in self._more(prefixes, partner).items())
        return f"{name}(model, n={n}, seed={seed}{more})"

    @property
    def own(self) -> bool:
        """Whether it is Residscope's, and no plugin's."""
        return self.function.__module__.startswith("residscope.")

    @property
    def prefixes(self) -> bool:
        """Whether sentences may come before each prompt."""
        return "prefixes" in inspect.signature(self.function).parameters

    def _more(self, prefixes: bool, partner: str | None) -> dict[str, bool | str]:
        if partner is not None and partner not in self.partners:
            raise BadPrompt(
                f"the task {self.id} has no such partner",
                received=repr(partner),
                allowed=", ".join(self.partners) or "one kind, with nothing said",
            )
        return ({"prefixes": prefixes} if self.prefixes else {}) | ({} if partner is None else {"partner": partner})

    def schema(self) -> TaskForm:
        """What a form is drawn from."""
        return {
            "id": self.id, "title": self.title, "about": self.about, "label": self.label, "position": self.position,
            "prefixes": self.prefixes, "partners": [*self.partners],
        }  # fmt: skip

    @property
    def about(self) -> str:
        return (inspect.getdoc(self.function) or "").split("\n\n")[0].replace("\n", " ")


TASKS: dict[str, Task] = {}


def task(
    id: str,
    *,
    title: str,
    label: str = "",
    position: str = "",
    find: Callable[[Any, str], Mapping[str, int] | None] | None = None,
    partners: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Declare a function of (model, n, *, seed) to a `PromptSet` as a task.

    label, position: of its own, those that a form begins with. find: of a model and a text that was typed, where the task's
    positions stand in it; None where it has not the form of the task's prompts. partners: what its argument
    `partner` may be, the usual one first.
    """

    def declare(function: F) -> F:
        claim("tasks", id, TASKS.get(id), function)
        TASKS[id] = Task(id, title, function, label, position, find, partners)
        return function

    return declare
