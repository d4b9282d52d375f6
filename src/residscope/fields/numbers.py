"""A number: a strength, a share, a length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field


@dataclass(frozen=True, kw_only=True)
class NumberField(Field):
    """A finite number between bounds. strength: it is what a person turns, from `slide[0]` to `slide[1]` by `step`, in `unit`.

    `in_unit_of`: where the unit is what another argument says, the slider of each of its values.
    """

    low: float | None = None
    high: float | None = None
    over: float | None = None
    strength: bool = False
    slide: tuple[float, float] = (-100.0, 100.0)
    step: float = 1.0
    unit: str = ""
    by: tuple[tuple[str, str, tuple[float, float], float, str], ...] = ()
    kind: ClassVar[str] = "number"

    def type(self) -> Any:
        return Annotated[float, Bounds(ge=_written(self.low), le=_written(self.high), gt=_written(self.over))]

    def hints(self) -> dict[str, Any]:
        slider = {"min": self.slide[0], "max": self.slide[1], "step": self.step, "unit": self.unit}
        if not self.strength:
            return {"unit": self.unit} if self.unit else {}
        other = [
            {"where": {name: value}, "min": slide[0], "max": slide[1], "step": step, "unit": unit}
            for name, value, slide, step, unit in self.by
        ]
        return {"strength": slider, "strength_where": other, "unit": self.unit}

    def read(self, words: Sequence[str]) -> Any:
        return float(words[0])


def _written(bound: float | None) -> float | None:
    """A whole bound as 0, not 0.0: `Annotated` keeps the first of two that are equal, and a schema would say either."""
    return int(bound) if bound is not None and bound == int(bound) else bound
