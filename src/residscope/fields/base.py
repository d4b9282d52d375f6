"""What all fields share, and what they ask of the door that a value comes through."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A shape of the wire: unknown fields, NaN and type guesses are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@runtime_checkable
class World(Protocol):
    """What a plain value is resolved against: a model, a live prompt, and everything that has a name here."""

    @property
    def model(self) -> Any:
        """The model. Raises ModelNotFound."""

    def position(self, name: str) -> int:
        """Where the live prompt has a named position. Raises UnknownPosition."""

    def prompts(self, ref: Any) -> Any:
        """Prompts as `model.run` takes them."""

    def source(self, ref: Any) -> Any:
        """A recording, or a prompt, that values are taken from."""

    def direction(self, ref: Any) -> Any: ...

    def dictionary(self, id: str) -> Any: ...

    def probe(self, name: str) -> Any: ...

    def atlas(self, name: str) -> Any: ...

    def item(self, name: str, kind: str) -> Any:
        """An item of a kind."""

    def text(self, ref: Any) -> Any:
        """A corpus."""

    def place(self, source: str) -> str:
        """Where files lie that may be opened. Raises OwnersAlone."""

    def endpoint(self, ref: Any) -> Any:
        """A service that may be asked. Raises OwnersAlone, NoEndpoint."""

    def metric(self, ref: Any) -> Any: ...

    def edits(self, ref: Any) -> tuple[Any, ...]: ...

    def other(self, name: str) -> Any:
        """Another model of the same shapes. Raises ModelError, OtherModel."""


@runtime_checkable
class Writer(Protocol):
    """The same as Python: each gives an expression, and keeps the lines that have to stand before it."""

    def need(self, line: str) -> None:
        """A line, an import for one, that is to stand before the rest."""

    def position(self, name: str) -> int: ...

    def prompts(self, ref: Any) -> str: ...

    def source(self, ref: Any) -> str: ...

    def direction(self, ref: Any) -> str: ...

    def dictionary(self, id: str) -> str: ...

    def atlas(self, name: str) -> str: ...

    def probe(self, name: str) -> str: ...

    def item(self, name: str) -> str: ...

    def text(self, ref: Any) -> str: ...

    def metric(self, ref: Any) -> str: ...

    def edits(self, ref: Any) -> str: ...

    def other(self, name: str) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Field:
    """One kind of thing a person may be asked for.

    title: its label; the argument's own name unless said. help: a sentence. name: what the wire calls it, where that is not the
    argument's name. when, unless: (argument, words) where it means something, and where not: a form leaves it out elsewhere.
    """

    title: str = ""
    help: str = ""
    name: str = ""
    when: tuple[str, tuple[str, ...]] | None = None
    unless: tuple[str, tuple[str, ...]] | None = None

    kind: ClassVar[str] = ""
    early: ClassVar[bool] = False  # whether resolving it is quick, so that it is done before the job is taken
    slow: ClassVar[bool] = False  # whether it loads what is large: a price, and a first look, take it as it is written

    def type(self) -> Any:
        """What pydantic checks a plain value by."""
        raise NotImplementedError

    def hints(self) -> dict[str, Any]:
        """What the page's form has to know beside the type."""
        return {}

    def plain(self, default: Any) -> Any:
        """A function's default as the wire has it."""
        if isinstance(default, tuple):
            return [*default] if default else None
        return default

    def applies(self, plain: Any) -> bool:
        """Whether it means something among these arguments."""
        if self.when is not None and getattr(plain, self.when[0], None) not in self.when[1]:
            return False
        return self.unless is None or getattr(plain, self.unless[0], None) not in self.unless[1]

    def unsaid(self, plain: Any) -> Any:
        """The plain value that stands where none was given, among these arguments; None where nothing does."""
        return None

    def resolve(self, value: Any, world: World) -> Any:
        """What the function is given. Raises what the world does, in its words."""
        return value

    def code(self, value: Any, writer: Writer) -> str:
        """The value as an expression of Python."""
        return repr(value)

    def read(self, words: Sequence[str]) -> Any:
        """The plain value out of what was typed on a command line: as many words as `words` says."""
        return words[0]

    @property
    def words(self) -> int:
        """How many words of a command line it takes."""
        return 1

    @property
    def repeated(self) -> bool:
        """Whether its option may be given several times."""
        return False

    @property
    def example(self) -> str:
        """What a help page shows in its place."""
        return self.kind.upper()
