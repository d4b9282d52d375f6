"""A site, or the name of one in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World


@dataclass(frozen=True, kw_only=True)
class SiteField(Field):
    """`z.9`; with `several`, a list; with `every`, a name without its layer too, `z`: all of them.

    only: these names alone. groups: words for several sites. usual: the name that a form begins with.
    """

    every: bool = False
    only: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    usual: str = ""
    several: bool = False
    kind: ClassVar[str] = "site"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        one = Annotated[str, Bounds(min_length=1, max_length=200)]
        return Annotated[list[one], Bounds(min_length=1, max_length=200)] if self.several else one

    def hints(self) -> dict[str, Any]:
        return {
            "every": self.every,
            "only": list(self.only),
            "groups": list(self.groups),
            "usual": self.usual,
            "several": self.several,
        }

    def resolve(self, value: Any, world: World) -> Any:
        for name in value if isinstance(value, list) else [value]:
            if name not in self.groups:
                world.model.sites.expand(name)
        return value

    def read(self, words: Sequence[str]) -> Any:
        return [part.strip() for part in words[0].split(",")] if self.several else words[0]

    @property
    def example(self) -> str:
        return "SITE"
