"""Yes or no."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from residscope.fields.base import Field


@dataclass(frozen=True, kw_only=True)
class FlagField(Field):
    """A switch."""

    kind: ClassVar[str] = "flag"

    def type(self) -> Any:
        return bool

    def read(self, words: Sequence[str]) -> Any:
        return True

    @property
    def words(self) -> int:
        return 0
