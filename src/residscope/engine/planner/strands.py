"""Strands: where each cell of a sweep first differs from the base run, and where it provably does not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.engine.protocols import At, Change, Edit, overlays_of
from residscope.engine.recording import Recording
from residscope.engine.seams import LaidOverlay
from residscope.model.prompts import Batch
from residscope.model.sites import KINDS, Site, SiteTable, positions_axis, rank

_ORDER = {name: i for i, name in enumerate(KINDS)}


@dataclass(frozen=True)
class Base:
    """The run all cells are compared with: background edits only, on every prompt."""

    recording: Recording
    unedited: Mapping[Site, Tensor]

    @property
    def batch(self) -> Batch:
        return self.recording.batch

    def __getitem__(self, site: Site) -> Tensor:
        return self.recording[site]

    def rows(self, site: Site, index: Sequence[int]) -> Tensor:
        """The base's values for some of its prompts, a row each; a view where there is only one prompt."""
        return gather(self[site], index)

    def unedited_at(self, site: Site, index: Sequence[int]) -> Tensor:
        """What the unedited run has there, a row each."""
        return gather(self.unedited[site], index)


@dataclass(frozen=True, eq=False)
class Strand:
    """Some prompts of one cell that part from the base at the same block and position.

    `index` are rows of the base. In front of block `layer` (-1: of the embedding; n_layers: of the final norm) and before `pos`
    the rows are the base's own. `whole`: the edits stand for the background's too, since some of them mean something together.
    `apart`: it shares its pass with no other.
    """

    cell: int
    index: tuple[int, ...]
    layer: int
    pos: int
    edits: Mapping[Site, tuple[Edit, ...]]
    overlays: tuple[LaidOverlay, ...] = ()
    whole: bool = False
    apart: bool = False

    def __len__(self) -> int:
        return len(self.index)


def gather(x: Tensor, index: Sequence[int]) -> Tensor:
    """Rows of x by index; a view where x has only one."""
    return x.expand(len(index), *x.shape[1:]) if x.shape[0] == 1 else x[list(index)]


def by_site(edits: Iterable[Edit], table: SiteTable) -> dict[Site, tuple[Edit, ...]]:
    """Edits by the sites they change, sites in the order of the forward pass and edits in the order given."""
    grouped: dict[Site, list[Edit]] = {}
    for edit in edits:
        for site in edit.places(table):
            grouped.setdefault(site, []).append(edit)
    n = table.sizes.n_layers
    return {site: tuple(grouped[site]) for site in sorted(grouped, key=lambda s: (rank(s, n), _ORDER[s.name]))}


def joins(site: Site, n_layers: int) -> int:
    """The block in front of which rows join a pass at the latest, if they are to differ at a site: -1 the embedding, n_layers
    the final norm."""
    stream = site.name == "resid_pre" or site == Site("resid_post", n_layers - 1)
    return rank(site, n_layers) + stream


def strands_of(
    cell: int,
    edits: Sequence[Edit],
    base: Base,
    *,
    together: Sequence[Edit] | None = None,
    last: Sequence[int] | None = None,
) -> list[Strand]:
    """Where each prompt of a cell parts from the base; none for a prompt on which the cell changes nothing.

    Each edit is applied to the base's own values, in the order of the forward pass: where all of them give those values back,
    so would the run, since nothing before them differed. What an edit asks to have read a second time counts as changed
    wherever a sender is. `last`: the position each row's readout reads; what first changes after it is not seen. `together`:
    all edits of the run, where some of the cell's and the background's mean something together: the base has been through
    those of the background, so the rows join in front of them.
    """
    table, n = base.recording.model.sites, base.recording.model.n_layers
    layout = base.recording.model.layout
    overlays = tuple(overlays_of(edits, layout))
    apart = any(not _of_rows(laid.module, layout) for laid in overlays)
    rows = len(base.batch)
    if together is not None:
        old = {id(edit) for edit in base.recording.edits}
        new = [edit for edit in together if id(edit) not in old]
        lowest = min(rank(site, n) for edit in (*new, *edits) for site in edit.places(table))
        every = tuple(range(rows))
        return [Strand(cell, every, max(-1, lowest), 0, by_site(together, table), overlays, whole=True, apart=apart)]
    sites = by_site(edits, table)
    layer = torch.full((rows,), n + 1)
    pos = torch.full((rows,), base.batch.ids.shape[1])
    for site, here in sites.items():
        changed = _changed(site, here, base)
        any_changed = changed.any(1)
        layer = torch.where(any_changed, layer.clamp_max(joins(site, n)), layer)
        first = changed.int().argmax(1)
        pos = torch.where(any_changed, torch.minimum(pos, first), pos)
    rows_by_start: dict[tuple[int, int], list[int]] = {}
    for row, (block, first) in enumerate(zip(layer.tolist(), pos.tolist(), strict=True)):
        if block <= n and first < base.batch.lengths[row] and (last is None or first <= last[row]):
            rows_by_start.setdefault((block, 0 if layout.whole else first), []).append(row)
    return [
        Strand(cell, tuple(index), block, first, sites, overlays, apart=apart)
        for (block, first), index in rows_by_start.items()
    ]


def _of_rows(module: Any, layout: Layout) -> bool:
    """Whether a module works on each row of a pass: what others make in front of the blocks, the rows share."""
    own = [layout.embed, layout.unembed, *(parts.block for parts in layout.blocks)]
    if layout.pos_embed is not None and "pos_embed" not in layout.table.absent:
        own.append(layout.pos_embed)
    return any(module is part for whole in own for part in whole.modules())


def _changed(site: Site, edits: Iterable[Edit], base: Base) -> Bool[Tensor, "batch pos"]:
    """Which positions of which prompts the edits of one site change in the base's own values."""
    value, layout = base[site], base.recording.model.layout
    every = range(len(base.batch))

    def reread(receiver: Site, changes: Sequence[Change]) -> Tensor:
        moved = torch.stack([(change != 0).flatten(2).any(2) for _, change in changes]).any(0)
        new = base[receiver].clone()
        new[moved.expand(len(new), -1)] = float("nan")  # something else, whatever it is
        return new

    at = At(site, layout.table, base.batch, 0, lambda s: base.unedited_at(s, every), lambda s: base[s], reread=reread)
    new = value
    for edit in edits:
        if edit.overlays(layout):
            return torch.ones(value.shape[0], base.batch.ids.shape[1], dtype=torch.bool)
        new = edit.apply(new, at)
    if new is value:
        return torch.zeros(value.shape[0], base.batch.ids.shape[1], dtype=torch.bool)
    axis = positions_axis(site)
    different = (new != value).movedim(axis, 1)
    return different.flatten(2).any(2).cpu()
