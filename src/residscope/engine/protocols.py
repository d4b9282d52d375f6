"""What the engine asks of an edit and of a readout."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site, SiteTable

Change = tuple[Site, Tensor]  # a sender, and by how much its value is another


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
    reread: Callable[[Site, Sequence[Change]], Tensor] | None = None

    @property
    def rows(self) -> tuple[int, ...] | None:
        return self.batch.rows

    def mine(self, whole: Tensor) -> Tensor:
        """The rows of a tensor that has one for every prompt of the run; itself where it has one for all."""
        return whole if self.rows is None or whole.shape[0] == 1 else whole[list(self.rows)]


@runtime_checkable
class LeastEdit(Protocol):
    """The least that an edit of your own has. The engine takes it, and gives it what else `Edit` has, as it stands there."""

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


@runtime_checkable
class Edit(Protocol):
    """A declarative change at one or more sites; applied per run, in the order given.

    All that the engine ever asks of an edit is here. A class below this one says `places` and `apply`, and what else differs.
    """

    needs_unedited: ClassVar[bool] = False
    """Whether it reads, through `At.unedited`, what the unedited run has at its sites."""
    rereads: ClassVar[bool] = False
    """Whether it asks `At.reread` what a receiver would be, had some senders written something else."""
    prompt_only: ClassVar[bool] = False
    """Whether what it puts there has no value at generated positions."""
    pos: tuple[int, ...] | None = None
    """The positions it is kept to, negative ones counted from each row's own end; None: all, or not known."""
    parts: "tuple[Edit, ...]" = ()
    """The edits that were joined into this one; empty where it is one by itself."""

    def places(self, table: SiteTable) -> list[Site]:
        """The canonical sites it changes; refuses those, and heads or neurons, that this model lacks."""
        raise NotImplementedError

    def apply(self, value: Tensor, at: At) -> Tensor:
        """The new value at a site; never changes `value` in place."""
        raise NotImplementedError

    def reads(self, table: SiteTable) -> list[Site]:
        """Canonical sites earlier in the same run whose values it asks `At.seen` for."""
        return []

    def on(self, prompts: PromptSet) -> "Edit":
        """The edit with named positions and labels resolved, one for each prompt; itself where it has none."""
        return self

    def prepare(self, model: Any) -> Any:
        """The edit with its sources (data sets, prompts) resolved to tensors; itself where it has none."""
        return self

    def overlays(self, layout: Any) -> list[Any]:
        """The weight changes it lays over modules, as `engine.seams.LaidOverlay`; they act from its first site on."""
        return []

    def sends(self, at: At) -> list[Sequence[Change]]:
        """The changes of senders for which `apply` asks `At.reread` here, in that order: a sweep reads for many rows at once."""
        return []

    def joined(self, later: "Edit") -> "Edit | None":
        """One edit that does what both say together; None where the order says it already."""
        return None

    def refuse(self, later: "Edit", sites: Sequence[Site], lengths: tuple[int, ...]) -> None:
        """Raise ClashingEdits where a later edit contradicts this one at the sites they share, in prompts of these lengths."""
        return

    def check_positions(self, length: int, positions: Sequence[int]) -> None:
        """Raise where the edit has nothing to put at one of these positions of a prompt of this length."""
        return

    def kept_to(self, pos: tuple[int, ...]) -> "Edit":
        """The edit at these positions alone, out of its own `pos`."""
        return self


def whole(edit: LeastEdit) -> Edit:
    """An edit with all that the engine asks of one: itself, or one of the least kind with the rest as `Edit` has it."""
    own: Any = edit  # looking a protocol's methods up one by one is slow, and as a rule it is in the class's own line
    return own if Edit in type(edit).__mro__ or isinstance(edit, Edit) else _Whole(edit)


class _Whole(Edit):
    """What an edit says itself, then what `Edit` says."""

    def __init__(self, edit: Any) -> None:
        self.edit = edit
        for name in _ASKED:
            if hasattr(edit, name):
                setattr(self, name, getattr(edit, name))
        self.parts = tuple(map(whole, getattr(edit, "parts", ())))

    def on(self, prompts: PromptSet) -> Edit:
        return whole(self.edit.on(prompts)) if isinstance(self.edit, OfPrompts) else self

    def prepare(self, model: Any) -> Edit:
        return whole(self.edit.prepare(model))

    def places(self, table: SiteTable) -> list[Site]:
        return list(self.edit.places(table))

    def apply(self, value: Tensor, at: At) -> Tensor:
        new: Tensor = self.edit.apply(value, at)
        return new

    def kept_to(self, pos: tuple[int, ...]) -> Edit:
        return whole(replace(self.edit, pos=pos))

    def joined(self, later: Edit) -> Edit | None:
        own = getattr(self.edit, "joined", None)
        both = None if own is None else own(later.edit if isinstance(later, _Whole) else later)
        return None if both is None else whole(both)

    def __getattr__(self, name: str) -> Any:
        if name == "edit":
            raise AttributeError(name)
        return getattr(self.edit, name)

    def __repr__(self) -> str:
        return repr(self.edit)


_ASKED = ("needs_unedited", "rereads", "prompt_only", "pos", "reads", "overlays", "sends", "refuse", "check_positions")


def overlays_of(edits: Iterable[Edit], layout: Any) -> list[Any]:
    """The weight changes among a run's edits, as the engine lays them over their modules."""
    return [laid for edit in edits for laid in edit.overlays(layout)]


@runtime_checkable
class OfPrompts(Protocol):
    """An edit that acts at named positions, or by labels: a run on a PromptSet ties it to that set's first."""

    def on(self, prompts: PromptSet) -> Edit:
        """The edit with its positions and labels resolved, one for each prompt."""


@runtime_checkable
class Readout(Protocol):
    """Sites, and a function of a recording of them to a tensor with a row for each prompt. A pass ends at the last site."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites it reads, as `Model.run` takes them to capture."""

    def __call__(self, recording: Any) -> Tensor: ...


@runtime_checkable
class GradientReadout(Readout, Protocol):
    """A readout of one number a prompt that also says where its slope is asked for: `Sweep.gradients` gives it there."""

    gradients: tuple[str, ...]


@runtime_checkable
class LogitReadout(Readout, Protocol):
    """A readout of the logits at one position of each row: a sweep then computes that position and those columns alone."""

    pos: int

    def columns(self, model: Any, batch: Batch) -> tuple[int, ...] | None:
        """The token ids whose logits it needs, for any of these rows; None: all."""

    def of(self, logits: Tensor, ids: tuple[int, ...] | None, model: Any, batch: Batch) -> Tensor:
        """One number per row, from logits [row, column] whose columns are the tokens `ids` (None: all)."""
