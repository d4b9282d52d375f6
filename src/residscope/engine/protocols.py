"""What the engine asks of an edit and of a readout."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site, SiteTable


@dataclass(frozen=True)
class At:
    """Where an edit is being applied: the site, the rows' tokens, and the position the tensor's first entry stands for.

    `unedited(site)` is what the unedited run has there, `seen(site)` what this run had at an earlier site that the edit
    `reads`: both for these rows. `rows` says which of the sweep's or data set's prompts each row stands for (None: all, in
    order), so that a tensor with a row for every prompt is cut to these by `mine`. `reread(receiver, changes)` is what a
    receiver (q, k, v, mlp_in, final_norm) would be, had it alone read a stream in which these senders' values were changed
    by so much.
    """

    site: Site
    table: SiteTable
    batch: Batch
    offset: int
    unedited: Callable[[Site], Tensor]
    seen: Callable[[Site], Tensor]
    reread: Callable[[Site, Sequence[tuple[Site, Tensor]]], Tensor] | None = None

    @property
    def rows(self) -> tuple[int, ...] | None:
        return self.batch.rows

    def mine(self, whole: Tensor) -> Tensor:
        """The rows of a tensor that has one for every prompt of the run; itself where it has one for all."""
        return whole if self.rows is None or whole.shape[0] == 1 else whole[list(self.rows)]


@runtime_checkable
class Edit(Protocol):
    """A declarative change at one or more sites; applied per run, in the order given."""

    @property
    def needs_unedited(self) -> bool:
        """Whether it reads, through `At.unedited`, what the unedited run has at its sites."""

    def places(self, table: SiteTable) -> list[Site]:
        """The canonical sites it changes; refuses those, and heads or neurons, that this model lacks."""

    def reads(self, table: SiteTable) -> list[Site]:
        """Canonical sites earlier in the same run whose values it asks `At.seen` for."""

    def prepare(self, model: Any) -> Any:
        """The edit with its sources (data sets, prompts) resolved to tensors; itself where it has none."""

    def apply(self, value: Tensor, at: At) -> Tensor:
        """The new value at a site; never changes `value` in place."""


def overlays_of(edits: Iterable[Edit], layout: Any) -> list[Any]:
    """The weight changes among a run's edits, as the engine lays them over their modules."""
    laid: list[Any] = []
    for edit in edits:
        if (overlays := getattr(edit, "overlays", None)) is not None:
            laid += overlays(layout)
    return laid


@runtime_checkable
class OfPrompts(Protocol):
    """An edit that acts at named positions, or by labels: a run on a PromptSet ties it to that set's first."""

    def on(self, prompts: PromptSet) -> Edit:
        """The edit with its positions and labels resolved, one for each prompt."""


@runtime_checkable
class Readout(Protocol):
    """Sites, and a function of a recording of them. The engine stops at the last site it needs."""

    sites: tuple[str, ...]

    def __call__(self, recording: Any) -> Tensor: ...


@runtime_checkable
class LogitReadout(Readout, Protocol):
    """A readout of the logits at one position of each row: a sweep then computes that position and those columns alone."""

    pos: int

    def columns(self, model: Any, batch: Batch) -> tuple[int, ...] | None:
        """The token ids whose logits it needs, for any of these rows; None: all."""

    def of(self, logits: Tensor, ids: tuple[int, ...] | None, model: Any, batch: Batch) -> Tensor:
        """One number per row, from logits [row, column] whose columns are the tokens `ids` (None: all)."""
