"""Edits and directions as the wire says them: checked shapes, not yet tied to a model."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from residscope.errors import BadEdit, MalformedJSON

SHOWN = {"label", "glyph", "delta", "inert", "error"}  # what the session adds when it shows an edit


class Spec(BaseModel):
    """A shape of the wire: unknown fields, NaN and type guesses are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PcaRef(Spec):
    kind: Literal["pca"]
    site: str
    weights: dict[str, float] = Field(min_length=1)

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
    index: int = Field(ge=0)
    weight: float


class SavedTerm(Spec):
    saved: str
    weight: float


class MixRef(Spec):
    """A weighted sum of directions, at unit length; at the first one's site unless another is given."""

    kind: Literal["mix"]
    terms: list[DictionaryTerm | SavedTerm] = Field(min_length=1, max_length=400)
    site: str | None = None


DirectionRef = Annotated[PcaRef | LogitDiffRef | TokenRef | SavedRef | MixRef, Field(discriminator="kind")]
Indices = int | Annotated[list[int], Field(min_length=1, max_length=100_000)] | None


class _Edit(Spec):
    id: str | None = Field(default=None, max_length=64)
    enabled: bool = True
    site: str
    pos: Indices = None
    head: Indices = None
    kv_head: Indices = None
    neuron: Indices = None


class Ablate(_Edit):
    kind: Literal["ablate"]
    to: Literal["zero", "mean"] = "zero"


class Scale(_Edit):
    kind: Literal["scale"]
    factor: float


class Steer(_Edit):
    kind: Literal["steer"]
    direction: DirectionRef
    strength: float
    unit: Literal["norm", "sd"] = "norm"


class ProjectOut(_Edit):
    kind: Literal["project_out"]
    direction: DirectionRef


class Freeze(_Edit):
    kind: Literal["freeze"]


class _ProbeEdit(_Edit):
    """Sets what a probe of the session reads: `to` is one of its classes, or "neutral"."""

    probe: str
    to: str


class Lrqp(_ProbeEdit):
    kind: Literal["lrqp"]
    log_alpha: float = Field(default=10.0, ge=-700, le=700)
    covariance: Literal["total", "within"] = "total"


class SetConcept(_ProbeEdit):
    kind: Literal["set_concept"]
    method: Literal["mean_difference", "project_out", "constant_dose"]
    dose: float | None = Field(default=None, gt=0)


class TaskData(Spec):
    """Prompts of `residscope.tasks`, by name."""

    kind: Literal["task"]
    task: str
    n: int = Field(default=120, ge=2, le=2000)
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    prefixes: bool = False


class FileData(Spec):
    """A table of labelled prompts: the file's name and its text."""

    kind: Literal["file"]
    name: str = Field(min_length=1, max_length=200)
    text: str = Field(repr=False)


ProbeData = Annotated[TaskData | FileData, Field(discriminator="kind")]


class ProbeRecipe(Spec):
    """All that a probe depends on, beside the model."""

    data: ProbeData
    site: str
    position: str
    label: str


EditSpec = Ablate | Scale | Steer | ProjectOut | Freeze | Lrqp | SetConcept
_EDIT: TypeAdapter[EditSpec] = TypeAdapter(Annotated[EditSpec, Field(discriminator="kind")])
_REF: TypeAdapter[DirectionRef] = TypeAdapter(DirectionRef)

KINDS = ("ablate", "scale", "steer", "project_out", "freeze", "lrqp", "set_concept")


def parse_edits(raw: Sequence[Any]) -> tuple[EditSpec, ...]:
    """Edits out of JSON, each with an id of its own.

    >>> parse_edits([{"kind": "ablate", "site": "z.3", "head": 1}])[0].id
    'e1'
    """
    specs = [_parse_edit(item, where=f"edits[{i}]") for i, item in enumerate(raw)]
    taken = [spec.id for spec in specs if spec.id]
    if len(taken) != len(set(taken)):
        raise BadEdit("two edits have one id", received=", ".join(taken), allowed="an id once in a stack, or none")
    fresh = (f"e{n}" for n in range(1, 10**9) if f"e{n}" not in taken)
    return tuple(spec if spec.id else spec.model_copy(update={"id": next(fresh)}) for spec in specs)


def parse_ref(raw: Any) -> DirectionRef:
    try:
        return _REF.validate_python(raw)
    except ValidationError as error:
        raise MalformedJSON(
            f"the direction does not parse: {reasons(error)}",
            received=shorten(raw),
            allowed="an object with kind pca, logit_diff, token, saved or mix",
        ) from None


def reasons(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    found = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors(include_url=False)[:4]]
    return "; ".join(f"{place}: {message}" if place else message for place, message in found)


def shorten(raw: Any, *, limit: int = 200) -> str:
    text = repr(raw)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _parse_edit(raw: Any, *, where: str) -> EditSpec:
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key not in SHOWN}
    try:
        return _EDIT.validate_python(raw)
    except ValidationError as error:
        raise BadEdit(
            f"{where} does not parse: {reasons(error)}",
            received=shorten(raw),
            allowed=f"an object with kind ({', '.join(KINDS)}), site, and what that kind takes",
        ) from None
