"""What the engine asks of an edit and of a readout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from residscope.model.prompts import Batch
from residscope.model.sites import Site, SiteTable


@dataclass(frozen=True)
class At:
    """Where an edit is being applied: the site, the rows' tokens, and the position the tensor's first row stands for."""

    site: Site
    table: SiteTable
    batch: Batch
    offset: int
    unedited: Callable[[Site], Tensor]


@runtime_checkable
class Edit(Protocol):
    """A declarative change at one or more sites; applied per run, in the order given."""

    @property
    def needs_unedited(self) -> bool:
        """Whether it reads, through `At.unedited`, what the unedited run has at its sites."""

    def places(self, table: SiteTable) -> list[Site]:
        """The canonical sites it changes; refuses those, and heads or neurons, that this model lacks."""

    def prepare(self, model: Any) -> Any:
        """The edit with its sources (data sets, prompts) resolved to tensors; itself where it has none."""

    def apply(self, value: Tensor, at: At) -> Tensor:
        """The new value at a site; never changes `value` in place."""


@runtime_checkable
class Readout(Protocol):
    """Sites, and a function of a recording of them. The engine stops at the last site it needs."""

    sites: tuple[str, ...]

    def __call__(self, recording: Any) -> Tensor: ...
