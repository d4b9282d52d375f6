"""Methods declared: a function of a model and data to an item, with progress, cancel, perhaps partial items and a price."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from residscope.declare.base import Declared, FormSchema
from residscope.declare.plugins import claim
from residscope.fields.base import Spec, World

F = TypeVar("F", bound=Callable[..., Any])
GROUPS = (
    "reading",
    "attribution",
    "patching",
    "heads",
    "weights",
    "comparison",
    "directions",
    "evidence",
    "probes",
    "prompts",
    "generation",
    "graphs",
    "methods",
)


class MethodForm(FormSchema):
    group: str
    makes: Annotated[str, "The kind of item that it makes, or makes several of; empty where it says none."]
    function: str


@dataclass(frozen=True, eq=False)
class Method(Declared):
    """A function that a person runs. `steps`: the same as a generator of ever fuller items.

    `tokens` (its price), `refuse` and `parts`: see `method`.
    """

    group: str = "methods"
    steps: Callable[..., Iterator[Any]] | None = None
    tokens: Callable[..., float] | str | None = None
    refuse: Callable[..., None] | None = None
    parts: tuple[str, str] | None = None

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of all its arguments, also of those that are for Python alone."""
        return frozenset(inspect.signature(self.function).parameters)

    @property
    def stepwise(self) -> bool:
        """Whether it gives ever fuller items; else one, which is whole."""
        return self.steps is not None or inspect.isgeneratorfunction(self.function)

    def run(self, plain: Spec, world: World, **watch: Any) -> Iterator[Any]:
        """Items as they come; the last is whole. watch: `progress`, `cancel`, where the function takes them."""
        given = self.resolved(plain, world) | {name: value for name, value in watch.items() if name in self.takes}
        if self.steps is not None:
            yield from self.steps(world.model, **given)
        elif inspect.isgeneratorfunction(self.function):
            yield from self.function(world.model, **given)
        else:
            yield self.function(world.model, **given)

    def look(self, plain: Spec, world: World) -> None:
        """A first look at the arguments: what the fields that are quick to resolve refuse, and the method's own `refuse`."""
        for argument in self.arguments:
            value = getattr(plain, argument.wire)
            if value is not None and argument.field.early:
                argument.field.resolve(value, world)
        if self.refuse is not None:
            self.refuse(world.model, **self.resolved(plain, world, slow=False))

    def price(self, plain: Spec, world: World) -> float | None:
        """Tokens that go through the whole model, about; None where nobody has said."""
        if self.tokens is None:
            return None
        if isinstance(self.tokens, str):
            return float(getattr(plain, self.tokens))
        return float(self.tokens(world.model, **self.resolved(plain, world, slow=False)))

    @property
    def makes(self) -> str:
        """The kind of item that it says it makes, or makes several of; empty where it says none."""
        made = get_type_hints(self.function).get("return")
        made = (get_args(made) or (made,))[-1]
        return getattr(made, "kind", "") if isinstance(made, type) else ""

    def schema(self) -> MethodForm:
        where = f"{self.function.__module__}:{self.function.__qualname__}"
        return {**super().schema(), "group": self.group, "makes": self.makes, "function": where}


METHODS: dict[str, Method] = {}


def method(
    id: str,
    *,
    title: str,
    group: str = "methods",
    steps: Callable[..., Iterator[Any]] | None = None,
    tokens: Callable[..., float] | str | None = None,
    refuse: Callable[..., None] | None = None,
    parts: tuple[str, str] | None = None,
) -> Callable[[F], F]:
    """Declare a function as a method.

        @method("ablation-sweep", title="Ablate everything once", group="patching")
        def ablation_sweep(model, prompts: Annotated[Prompt, fields.prompts()], ...): ...

    It takes a model first; `progress` and `cancel` where it has them; may be a generator of ever fuller items, or have one of
    the same arguments as `steps`. tokens: the argument that says how many tokens go through the whole model, about; or a
    function of the model and the same arguments. refuse: a function of the same that raises, at once, what the method would only
    find out later. parts: of one that makes several items by name, the method that makes one of them, and which of its arguments
    says which: `("pca", "site")`. What is slow to have (another model) reaches tokens and refuse as it is written.
    """

    def declare(function: F) -> F:
        claim("methods", id, METHODS.get(id), function)
        METHODS[id] = Method(id, title, function, group, steps, tokens, refuse, parts)
        return function

    return declare
