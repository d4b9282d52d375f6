"""A direction: a component, a mix, a token's, a logit difference, or one that has a name here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Bounds
from pydantic import field_validator

from residscope.fields.base import Field, Spec, World, Writer


class PcaRef(Spec):
    """Components of the model's own PCA at a site, by weight."""

    kind: Literal["pca"]
    site: str
    weights: dict[str, float] = Bounds(min_length=1)

    @field_validator("weights")
    @classmethod
    def _indices(cls, weights: dict[str, float]) -> dict[str, float]:
        if not all(key.isascii() and key.isdigit() and len(key) < 7 for key in weights):
            raise ValueError("weights are keyed by component, counted from zero")
        return weights


class LogitDiffRef(Spec):
    kind: Literal["logit_diff"]
    positive: str
    negative: str


class TokenRef(Spec):
    kind: Literal["token"]
    token: str


class SavedRef(Spec):
    kind: Literal["saved"]
    name: str


class DictionaryTerm(Spec):
    dictionary: str
    index: int = Bounds(ge=0)
    weight: float


class SavedTerm(Spec):
    saved: str
    weight: float


class MixRef(Spec):
    """A weighted sum of directions, at unit length; at the first one's site unless another is given."""

    kind: Literal["mix"]
    terms: list[DictionaryTerm | SavedTerm] = Bounds(min_length=1, max_length=400)
    site: str | None = None


AnyDirection = PcaRef | LogitDiffRef | TokenRef | SavedRef | MixRef
DirectionRef = Annotated[AnyDirection, Bounds(discriminator="kind")]
SeveralDirections = Annotated[list[DirectionRef], Bounds(min_length=1, max_length=400)]


def read_direction(words: str) -> dict[str, Any]:
    """`PC 7@resid_post.23`, `logit: Mary, John`, `token: Mary`, `DICTIONARY[3]`, or the name of a direction (a file's, too)."""
    kind, colon, rest = words.partition(":")
    if words.startswith("PC ") and "@" in words:
        index, _, site = words.removeprefix("PC ").partition("@")
        return {"kind": "pca", "site": site, "weights": {index.strip(): 1.0}}
    if colon and kind == "logit" and rest.count(",") == 1:
        positive, negative = rest.split(",")
        return {"kind": "logit_diff", "positive": positive, "negative": negative}
    if colon and kind == "token":
        return {"kind": "token", "token": rest}
    id, bracket, index = words.removesuffix("]").rpartition("[")
    if words.endswith("]") and bracket and index.isdigit():
        return {"kind": "mix", "terms": [{"dictionary": id, "index": int(index), "weight": 1.0}]}
    return {"kind": "saved", "name": words}


@dataclass(frozen=True, kw_only=True)
class DirectionField(Field):
    """One direction; with `several`, one or more."""

    several: bool = False
    kind: ClassVar[str] = "direction"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return DirectionRef | SeveralDirections if self.several else DirectionRef

    def hints(self) -> dict[str, Any]:
        return {"several": self.several}

    def resolve(self, value: Any, world: World) -> Any:
        if isinstance(value, list):
            return [world.direction(ref) for ref in value]
        return world.direction(value)

    def code(self, value: Any, writer: Writer) -> str:
        if isinstance(value, list):
            return f"[{', '.join(writer.direction(ref) for ref in value)}]"
        return writer.direction(value)

    def read(self, words: Sequence[str]) -> Any:
        return read_direction(words[0])

    @property
    def example(self) -> str:
        return '"PC 7@resid_post.23"'
