"""Which position of a source's prompt stands for which of the run's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic import Field as Bounds

from residscope.fields.base import Field, World, Writer

MOST_PAIRS = 100_000
_Place = Annotated[int, Bounds(ge=0)]


def _listed(value: Any) -> Any:
    """{"4": 5} as [[4, 5]]: in JSON a key is text."""
    if not isinstance(value, Mapping):
        return value
    return [[int(to) if isinstance(to, str) and to.isdecimal() else to, taken] for to, taken in value.items()]


def _each_once(value: Any) -> Any:
    if not isinstance(value, str) and len({to for to, _ in value}) < len(value):
        raise ValueError("a position of the prompt stands for one of the source's alone")
    return value


AlignRef = Annotated[
    Literal["prefix", "suffix", "tokens"]
    | Annotated[
        list[Annotated[list[_Place], Bounds(min_length=2, max_length=2)]], Bounds(min_length=1, max_length=MOST_PAIRS)
    ],
    BeforeValidator(_listed),
    AfterValidator(_each_once),
]


def _mapping(value: Any) -> Any:
    return value if isinstance(value, str) else dict(value)


@dataclass(frozen=True, kw_only=True)
class AlignField(Field):
    """ "prefix", "suffix", "tokens" (by the fewest changes that make one prompt of the other), or pairs [to, from]."""

    kind: ClassVar[str] = "align"

    def type(self) -> Any:
        return AlignRef

    def resolve(self, value: Any, world: World) -> Any:
        return _mapping(value)

    def code(self, value: Any, writer: Writer) -> str:
        return repr(_mapping(value))

    def read(self, words: Sequence[str]) -> Any:
        if ":" not in words[0]:
            return words[0].strip()
        return [[int(place) for place in pair.split(":")] for pair in words[0].split(",")]

    @property
    def example(self) -> str:
        return "prefix|suffix|tokens|4:5,6:7"
