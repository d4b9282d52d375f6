"""A service that answers questions: where it is, which of its models, and which environment variable holds its key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, Spec, World, Writer


class EndpointRef(Spec):
    """url: its base, in front of `/chat/completions`. key: the name of an environment variable, never the key."""

    url: str = Bounds(min_length=1, max_length=400)
    model: str = Bounds(min_length=1, max_length=200)
    key: str | None = Bounds(default=None, max_length=100)


@dataclass(frozen=True, kw_only=True)
class EndpointField(Field):
    """An OpenAI-compatible endpoint; on a command line one word, `URL MODEL KEY`, or `URL MODEL` where there is no key."""

    kind: ClassVar[str] = "endpoint"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return EndpointRef

    def resolve(self, value: Any, world: World) -> Any:
        return world.endpoint(value)

    def code(self, value: Any, writer: Writer) -> str:
        key = "" if value.key is None else f", key={value.key!r}"
        return f"rs.features.Endpoint({value.url!r}, {value.model!r}{key})"

    def read(self, words: Sequence[str]) -> Any:
        return read_endpoint(words[0])

    @property
    def example(self) -> str:
        return '"URL MODEL KEY_VARIABLE"'


def read_endpoint(words: str) -> dict[str, Any]:
    """`URL MODEL`, or `URL MODEL KEY`. Raises ValueError."""
    url, model, *key = words.split()
    if len(key) > 1:
        raise ValueError("an address, a model and perhaps the environment variable of a key")
    return {"url": url, "model": model, "key": key[0] if key else None}
