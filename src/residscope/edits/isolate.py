"""Isolating heads: the other heads of the layer are taken out. Several at one site keep the union of theirs."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Unpack

import torch
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.edits.base import BaseEdit, Where, along, at_positions, indices
from residscope.edits.means import (
    check_positions,
    check_replacement,
    mean_over,
    refuse_open_data,
    replacement,
    require_mean,
    same_replacement,
)
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.errors import BadEdit, ClashingEdits
from residscope.model.sites import Site, SiteTable


@dataclass(frozen=True, eq=False, repr=False)
class Isolate(BaseEdit):
    """Among a site's heads keep these. `parts`: the isolates of one run that were joined into this one. See `isolate`."""

    to: str | Tensor = "zero"
    over: Any = field(default=None)
    by: str | None = None
    averaged: Mapping[str, Any] | None = None
    kind: ClassVar[str] = "isolate"

    def __post_init__(self) -> None:
        check_replacement(self.to, self.over, self.by, self.averaged)
        if self.head is None and self.kv_head is None:
            raise BadEdit("isolate needs the heads to keep", received="none", allowed="head= (kv_head= on k and v)")
        if self.neuron is not None:
            raise BadEdit("isolate keeps heads", received=f"neuron={list(self.neuron)}", allowed="head= or kv_head=")

    def prepare(self, model: Model) -> "Isolate":
        if not isinstance(self.to, str) or self.to != "mean":
            return self
        mean, averaged = mean_over(self, model)
        return replace(self, to=mean, over=None, averaged=averaged)

    def fits(self, table: SiteTable) -> None:
        require_mean(self, table)

    def check_positions(self, length: int, positions: Sequence[int]) -> None:
        check_positions(self, length, positions)

    def joined(self, later: Any) -> "Isolates | None":
        return _join((self,), later)

    def apply(self, value: Tensor, at: At) -> Tensor:
        return _apply((self,), value, at)

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        refuse_open_data(self.over)
        return super().to_dict(tensors)


@dataclass(frozen=True, eq=False, repr=False)
class Isolates(BaseEdit):
    """Isolates of one run that meet at a site: an entry goes where one of them acts and none keeps it."""

    parts: tuple[Isolate, ...] = ()

    def places(self, table: SiteTable) -> list[Site]:
        return [*dict.fromkeys(site for part in self.parts for site in part.places(table))]

    def joined(self, later: Any) -> "Isolates | None":
        return _join(self.parts, later)

    def apply(self, value: Tensor, at: At) -> Tensor:
        return _apply([part for part in self.parts if at.site in part.places(at.table)], value, at)

    @property
    def label(self) -> str:
        return ", ".join(part.label for part in self.parts)


def _join(parts: tuple[Isolate, ...], later: Any) -> Isolates | None:
    if not isinstance(later, Isolate):
        return None
    for part in parts:
        if not same_replacement(part, later):
            raise ClashingEdits(
                "two isolates put different things in the place of the other heads",
                received=f"{part.label}, then {later.label}",
                allowed="one replacement for a layer",
            )
    return Isolates(parts[0].site, parts=(*parts, later))


def _apply(parts: Any, value: Tensor, at: At) -> Tensor:
    axes = at.site.kind.axes
    acts = kept = torch.zeros((1,) * value.ndim, dtype=torch.bool, device=value.device)
    for part in parts:
        index, name = (part.head, "head") if part.head is not None else (part.kv_head, "kv_head")
        where = at_positions(part.pos, value, at)
        here = torch.ones_like(acts[:1]) if where is None else where
        acts, kept = acts | here, kept | (here & along(value, axes.index(name), index))
    new = [replacement(part, value, at) for part in parts]  # all alike, and each asks for positions of its own
    return torch.where(acts & ~kept, new[0], value)


@edit(title="Keep these heads alone", glyph="◎")
def isolate(
    site: Annotated[str, fields.site(only=("z", "result", "q", "k", "v", "pattern", "scores"))],
    *,
    to: Annotated[str | Tensor, fields.choice("zero", "mean")] = "zero",
    over: Annotated[Any, fields.prompts(live=True, when=("to", ("mean",)))] = None,
    by: Annotated[str | None, fields.choice("position", when=("to", ("mean",)))] = None,
    **where: Unpack[Where],
) -> Isolate:
    """Among the heads of a site keep only these (`head=`); the others become zero, their `"mean"` over data, or a tensor.

    The mean is `ablate`'s: without position 0 and attention sinks, or `by="position"`.
    The MLP and the other layers stay. Several isolates at one site keep the union of their heads.
    """
    return Isolate(str(site), to=to, over=over, by=by, **indices(where))
