"""What the library answers: frozen values, ready for the wire with `to_dict`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import signature
from residscope.engine.model import Model
from residscope.views.view import Plain


class _Plain:
    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass


class Blind(TypedDict):
    """What the blind tests of one description say, over `people` but its author; `author` and `mine`: their own scores."""

    people: int
    mean: float | None
    interval: Annotated[list[float], Plain(tuple[float, float])] | None
    author: float | None
    mine: float | None


@dataclass(frozen=True)
class Description(_Plain):
    """`up` and `down` count votes, one a person; `mine` is the asker's own: 1, -1, or 0 for none.

    `blind`: None without any test.
    """

    id: str
    direction: str
    author: str
    text: str
    up: int
    down: int
    mine: Annotated[int, Plain(Literal[1, -1, 0])]
    blind: Blind | None
    version: int
    created: str
    updated: str


@dataclass(frozen=True)
class Comment(_Plain):
    """What somebody says of a direction."""

    id: str
    direction: str
    author: str
    text: str
    created: str


@dataclass(frozen=True)
class Entry(_Plain):
    """A saved direction without its vectors. `votes` sums those for and against all its descriptions; `version` counts edits.

    `here`: whether it was found in the model that a session has loaded; None where there is none.
    """

    id: str
    owner: str
    name: str
    model: str
    model_hash: str
    site: str
    head: int | None
    space: str
    tensors: str
    votes: int
    comments: int
    description: str | None
    version: int
    created: str
    updated: str
    here: bool | None = None


@dataclass(frozen=True)
class Whole(_Plain):
    """An entry with everything said of it, descriptions best first."""

    entry: Entry
    provenance: Mapping[str, Any]
    descriptions: tuple[Description, ...]
    comments: tuple[Comment, ...]


@dataclass(frozen=True)
class Page(_Plain):
    """Entries in order; `after` asks for those that follow (None: there are no more)."""

    entries: tuple[Entry, ...]
    after: str | None


@dataclass(frozen=True)
class Alike(_Plain):
    """Saved directions that are one and the same, best described first; `descriptions` counts what is said of all of them."""

    entries: tuple[Entry, ...]
    descriptions: int


@dataclass(frozen=True)
class SavedFeature(_Plain):
    """A saved direction that is one of a dictionary's, by its number there."""

    index: int
    entry: Entry


@dataclass(frozen=True)
class SavedFeatures(_Plain):
    """What is saved of one dictionary, the best described first."""

    features: tuple[SavedFeature, ...]


@dataclass(frozen=True)
class Somebody(_Plain):
    """What one person has done here; `votes`: those for less those against what they wrote, by others."""

    name: str
    since: str
    directions: int
    descriptions: int
    votes: int


@dataclass(frozen=True, eq=False)
class ModelKey:
    """How a model is known again: by hash, or (in another dtype, or read by other versions of the libraries) by a few weights."""

    hash: str
    name: str
    signature: Float[Tensor, "n"]

    @classmethod
    def of(cls, model: Model) -> "ModelKey":
        return cls(model.fingerprint(), model.name, signature(model).detach().float().cpu())

    def same(self, other: "ModelKey") -> bool:
        mine, theirs = self.signature, other.signature
        return self.hash == other.hash or (
            mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-2, atol=1e-3)
        )


def told(microseconds: int) -> str:
    """A time as ISO 8601 has it, in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
