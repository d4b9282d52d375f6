"""Strands: where each cell of a sweep first differs from the base run, and where it provably does not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.engine.protocols import At, Edit
from residscope.engine.recording import Recording
from residscope.model.prompts import Batch
from residscope.model.sites import KINDS, Site, SiteTable, rank

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

    def held(self, site: Site, index: Sequence[int]) -> Tensor:
        """What the unedited run has there, a row each."""
        return gather(self.unedited[site], index)


@dataclass(frozen=True, eq=False)
class Strand:
    """Some prompts of one cell that part from the base at the same block and position.

    `index` are rows of the base. Below `layer` and before `pos` the rows are the base's own.
    """

    cell: int
    index: tuple[int, ...]
    layer: int
    pos: int
    edits: Mapping[Site, tuple[Edit, ...]]

    def __len__(self) -> int:
        return len(self.index)


def gather(x: Tensor, index: Sequence[int]) -> Tensor:
    """Rows of x by index; a view where x has only one."""
    return x.expand(len(index), *x.shape[1:]) if x.shape[0] == 1 else x[list(index)]


def by_site(edits: Iterable[Edit], table: SiteTable) -> dict[Site, tuple[Edit, ...]]:
    """Edits by the sites they change, sites in the order of the forward pass and edits in the order given."""
    found: dict[Site, list[Edit]] = {}
    for edit in edits:
        for site in edit.places(table):
            found.setdefault(site, []).append(edit)
    n = table.sizes.n_layers
    return {site: tuple(found[site]) for site in sorted(found, key=lambda s: (rank(s, n), _ORDER[s.name]))}


def alone(edits: Sequence[Edit], table: SiteTable) -> bool:
    """Whether a cell must run by itself: it changes weights, or the embedding, or has a module read a second time."""
    n = table.sizes.n_layers
    return any(
        getattr(edit, "overlays", None) is not None
        or getattr(edit, "rereads", False)
        or any(rank(site, n) < 0 and site.name != "resid_pre" for site in edit.places(table))
        for edit in edits
    )


def first_block(edits: Sequence[Edit], table: SiteTable) -> int:
    """The first block that a cell can change anything in."""
    n = table.sizes.n_layers
    ranks = [rank(site, n) + (site.name == "resid_pre") for edit in edits for site in edit.places(table)]
    return min(max(min(ranks, default=0), 0), n - 1)


def strands_of(cell: int, edits: Sequence[Edit], base: Base, *, last: Sequence[int] | None = None) -> list[Strand]:
    """Where each prompt of a cell parts from the base; none for a prompt on which the cell changes nothing.

    Each edit is applied to the base's own values, in the order of the forward pass: where all of them give those values back,
    so would the run, since nothing before them differed. `last`: the position each row's readout reads; what first changes
    after it is not seen.
    """
    table, n = base.recording.model.sites, base.recording.model.n_layers
    sites = by_site(edits, table)
    rows = len(base.batch)
    layer = torch.full((rows,), n)
    pos = torch.full((rows,), base.batch.ids.shape[1])
    for site, here in sites.items():
        block = min(max(rank(site, n) + (site.name == "resid_pre"), 0), n - 1)
        changed = _changed(site, here, base)
        any_changed = changed.any(1)
        layer = torch.where(any_changed, layer.clamp_max(block), layer)
        first = changed.int().argmax(1)
        pos = torch.where(any_changed, torch.minimum(pos, first), pos)
    parted: dict[tuple[int, int], list[int]] = {}
    for row, (block, first) in enumerate(zip(layer.tolist(), pos.tolist(), strict=True)):
        if block < n and first < base.batch.lengths[row] and (last is None or first <= last[row]):
            parted.setdefault((block, first), []).append(row)
    return [Strand(cell, tuple(index), block, first, sites) for (block, first), index in parted.items()]


def _changed(site: Site, edits: Iterable[Edit], base: Base) -> Bool[Tensor, "batch pos"]:
    """Which positions of which prompts the edits of one site change in the base's own values."""
    value, table = base[site], base.recording.model.sites
    every = range(len(base.batch))
    at = At(site, table, base.batch, 0, lambda s: base.held(s, every), lambda s: base[s])
    new = value
    for edit in edits:
        new = edit.apply(new, at)
    if new is value:
        return torch.zeros(value.shape[0], base.batch.ids.shape[1], dtype=torch.bool)
    axis = positions_axis(site)
    different = (new != value).movedim(axis, 1)
    return different.flatten(2).any(2).cpu()


def positions_axis(site: Site) -> int:
    """Which axis of a site's tensor the positions of the run stand on."""
    axes = site.kind.axes
    return axes.index("query" if "query" in axes else "pos")
