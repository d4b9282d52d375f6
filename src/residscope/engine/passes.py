"""A pass: one forward under way, with what it must change and what it must keep."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.engine.protocols import At, Edit
from residscope.model.prompts import Batch
from residscope.model.sites import Site

INSIDE_ATTENTION = ("q", "k", "v", "scores", "pattern", "z")


@cache
def attention_sites(layer: int) -> tuple[Site, ...]:
    """The sites inside a layer's attention, in the order they are computed."""
    return tuple(Site(name, layer) for name in INSIDE_ATTENTION)


class Pass:
    """What one forward captures and edits. Hooks call `visit` at each site it touches."""

    def __init__(
        self,
        layout: Layout,
        batch: Batch,
        *,
        capture: Iterable[Site],
        edits: Iterable[Edit] = (),
        offset: int = 0,
        unedited: Mapping[Site, Tensor] | None = None,
        below: Callable[[Site], Tensor] | None = None,
    ) -> None:
        self.layout, self.batch, self.offset = layout, batch, offset
        self.capture = frozenset(capture)
        self.edits: dict[Site, list[Edit]] = {}
        self.reads: set[Site] = set()
        self.overlays: list[Any] = []
        for edit in edits:
            if (overlays := getattr(edit, "overlays", None)) is not None:
                self.overlays += overlays(layout)
            self.reads.update(edit.reads(layout.table))
            for site in edit.places(layout.table):
                self.edits.setdefault(site, []).append(edit)
        self.unedited = unedited or {}
        self.below = below
        self.rereads: Pass | None = None  # the pass that this one reads a second time for
        self.reread: Callable[..., Tensor] | None = None  # set by the hooks, for edits that ask for it
        self.values: dict[Site, Tensor] = {}
        self.read: dict[Site, Tensor] = {}
        self.touched = self.capture | self.edits.keys() | self.reads
        self.layer_of = {id(parts.attn): layer for layer, parts in enumerate(layout.blocks)}
        wide = layout.family.softmax_dtype == "float32"
        self.softmax_dtype = torch.promote_types(layout.dtype, torch.float32) if wide else layout.dtype

    def touches(self, site: Site) -> bool:
        return site in self.touched

    def visit(self, site: Site, value: Tensor) -> Tensor:
        """Apply the site's edits in order, keep the outcome if asked for, and return it.

        Returns `value` itself, the same object, where there was nothing to change.
        """
        if site not in self.touched:
            return value
        edits = self.edits.get(site)
        if edits:
            at = At(
                site,
                self.layout.table,
                self.batch,
                self.offset,
                self.unedited.__getitem__,
                self.seen,
                reread=self.reread,
            )
            for edit in edits:
                value = edit.apply(value, at)
        if site in self.reads:
            self.read[site] = value
        if site in self.capture:
            self.values[site] = value
        return value

    def seen(self, site: Site) -> Tensor:
        """What this run had at an earlier site that an edit reads; below a window, what its base had."""
        if site in self.read or self.below is None:
            return self.read[site]
        return self.below(site)[:, self.offset :]

    @property
    def length(self) -> int:
        """How many positions the forward is over."""
        return self.batch.ids.shape[1] - self.offset

    @property
    def inside_attention(self) -> bool:
        return any(site.name in INSIDE_ATTENTION for site in self.touched)
