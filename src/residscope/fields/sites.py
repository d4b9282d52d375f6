"""A site, or the name of one in every layer."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field as Bounds

from residscope.fields.base import Field, World


@dataclass(frozen=True, kw_only=True)
class SiteField(Field):
    """`z.9`; with `every`, a name without its layer too, `z`: all of them. only: these names alone. groups: words for several.

    usual: the name that a form begins with.
    """

    every: bool = False
    only: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    usual: str = ""
    kind: ClassVar[str] = "site"

    def type(self) -> Any:
        return Annotated[str, Bounds(min_length=1, max_length=200)]

    def hints(self) -> dict[str, Any]:
        return {"every": self.every, "only": list(self.only), "groups": list(self.groups), "usual": self.usual}

    def resolve(self, value: Any, world: World) -> Any:
        if value not in self.groups:
            world.model.sites.expand(value)
        return value

    @property
    def example(self) -> str:
        return "SITE"
