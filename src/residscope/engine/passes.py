"""A pass: one forward under way, with what it must change and what it must keep."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.engine.preparing import join
from residscope.engine.protocols import At, Edit, overlays_of
from residscope.model.prompts import Batch
from residscope.model.sites import Site, rank

LONG = 2048  # tokens from which a forward's own intermediate values are worth making in pieces
_LARGE = 1 << 26  # bytes
MASKED = ("scores", "pattern")
AT_THE_END = ("mlp_post_scale", "mlp_raw", "mlp_out")  # of a block, which may as well come to its end
FIRST = Site("resid_pre", 0)
INSIDE_ATTENTION = ("q", "k", "v", "scores", "pattern", "z")


@cache
def attention_sites(layer: int) -> tuple[Site, ...]:
    """The sites inside a layer's attention, in the order they are computed."""
    return tuple(Site(name, layer) for name in INSIDE_ATTENTION)


def still_masked(site: Site, before: Tensor, after: Tensor, hidden: Tensor | None) -> Tensor:
    """Edited scores or pattern, what the mask keeps out kept out: a query reads no other keys, whatever an edit puts there.

    Scores stay where they are as good as minus infinity; a pattern stays zero at the keys whose scores are (`hidden`).
    """
    if after is before or site.name not in MASKED:
        return after
    if site.name == "scores":
        return torch.where(masked(before), before, after)
    return after if hidden is None else after.masked_fill(hidden, 0.0)


def masked(scores: Tensor) -> Bool[Tensor, "..."]:
    """Where the mask keeps a key from a query. A module of a float64 model may mask in float32, whose least counts there too."""
    least = torch.finfo(torch.float32 if scores.dtype == torch.float64 else scores.dtype).min
    return scores < least / 4


Rows = Sequence[int] | None  # rows of a pass; None: all, in order


class Stop(Exception):
    """Raised inside a forward when the last site that is needed has been visited."""


class _Slab:
    """One piece of memory for the streams that a run of many tokens keeps.

    Kept where they were made, they would lie among what the forward makes and lets go of, and no gap between them would
    be of use again: twice the memory for long prompts.
    """

    def __init__(self, layout: Layout, batch: Batch, capture: Iterable[Site], offset: int) -> None:
        d = layout.sizes.d_model
        streams = [site for site in capture if site.kind.axes == ("batch", "pos", "d_model")]
        rows, length = batch.ids.shape
        large = len(streams) * rows * (length - offset) * d * layout.dtype.itemsize >= _LARGE
        n = layout.sizes.n_layers
        # those that a session keeps side by side, so that they are one tensor (`memory.together`)
        order = sorted(streams, key=lambda site: (site.name != "resid_pre", rank(site, n), str(site)))
        self._places = {site: i for i, site in enumerate(order)} if large else {}
        self._shape = (rows, length - offset, d)
        self._memory: Tensor | None = None
        self._begun: Site | None = None  # whose place is the forward's own

    def put(self, site: Site, value: Tensor) -> Tensor:
        """The value, in its place in the slab where it has one."""
        place = self._place(site, value)
        if place is None or site == self._begun:
            return value
        return place.copy_(value)

    def begin(self, embedded: Tensor) -> Tensor:
        """What the embedding gives, where block 0's stream is to stand: the forward holds it to its end."""
        place = self._place(FIRST, embedded)
        if place is None:
            return embedded
        self._begun = FIRST
        return place.copy_(embedded)

    def _place(self, site: Site, value: Tensor) -> Tensor | None:
        if site not in self._places or value.shape != self._shape or value.requires_grad:
            return None
        if self._memory is None:
            self._memory = value.new_empty((len(self._places), *self._shape))
        alike = self._memory.device == value.device and self._memory.dtype == value.dtype
        return self._memory[self._places[site]] if alike else None


class Pass:
    """What one forward captures and edits. Hooks call `visit` at each site it touches.

    It joins those of its edits that mean something together. `earlier` are edits that the stream which it starts from, in
    front of the block `start`, has been through already: they act from there on alone, but a second reading of what was
    written below asks for all of them.
    """

    def __init__(
        self,
        layout: Layout,
        batch: Batch,
        *,
        capture: Iterable[Site],
        edits: Iterable[Edit] = (),
        earlier: Iterable[Edit] = (),
        offset: int = 0,
        start: int = 0,
        unedited: Mapping[Site, Tensor] | None = None,
        below: Callable[[Site], Tensor] | None = None,
    ) -> None:
        self.layout, self.batch, self.offset, self.start = layout, batch, offset, start
        self.capture = frozenset(capture)
        self.edits: dict[Site, list[Edit]] = {}
        self.reads: set[Site] = set()
        old = join([*earlier], layout.table, batch.lengths)
        new = join([*edits], layout.table, batch.lengths)
        self.overlays = overlays_of([*old, *new], layout)
        self._new: dict[Site, list[Edit]] = {}
        for edit in new:
            for site in edit.places(layout.table):
                self._new.setdefault(site, []).append(edit)
        for edit in (*old, *new):
            self.reads.update(edit.reads(layout.table))
            for site in edit.places(layout.table):
                self.edits.setdefault(site, []).append(edit)
        self.unedited = unedited or {}
        self.below = below
        self.rereads: Pass | None = None  # the pass that this one reads a second time for
        self.reread: Callable[..., Tensor] | None = None  # set by the hooks, for edits that ask for it
        self.hidden: dict[int | None, Tensor] = {}
        self.values: dict[Site, Tensor] = {}
        self._slab = _Slab(layout, batch, self.capture, offset)
        self.read: dict[Site, Tensor] = {}
        self.awaited = set(self.capture)
        self.ends = (
            False  # whether the forward may end in the middle of a block, where all that is awaited has been seen
        )
        self.touched = self.capture | {site for site in self.edits if self.acting(site)} | self.reads
        self.layer_of = {id(parts.attn_core): layer for layer, parts in enumerate(layout.blocks) if parts.attn_core}
        self.changed_z = {layer for layer, parts in enumerate(layout.blocks) if parts.z_changed}
        wide = layout.family.softmax_dtype == "float32"
        self.softmax_dtype = torch.promote_types(layout.dtype, torch.float32) if wide else layout.dtype

    def touches(self, site: Site) -> bool:
        return site in self.touched

    def acting(self, site: Site) -> Sequence[Edit]:
        """The edits that this pass applies at a site."""
        above = rank(site, self.layout.sizes.n_layers) >= self.start or not self.start
        return (self.edits if above else self._new).get(site, ())

    def _before(self, site: Site) -> bool:
        """Whether the forward comes by a site on its way to the stream it starts from, which was made without it."""
        return self.start > 0 and rank(site, self.layout.sizes.n_layers) < self.start - 1

    def hide(self, layer: int, scores: Tensor) -> None:
        """Remember which keys each query cannot see, where the pattern is to be edited."""
        if self.edits_at(Site("pattern", layer)):
            self.hidden[layer] = masked(scores)

    def edits_at(self, site: Site) -> bool:
        """Whether anything changes the site, for any row."""
        return bool(self.acting(site))

    def visit(self, site: Site, value: Tensor) -> Tensor:
        """Apply the site's edits in order, keep the outcome if asked for, and return it.

        Returns `value` itself, the same object, where there was nothing to change.
        """
        if site not in self.touched or self._before(site):
            return value
        value = self._applied(site, value, self.acting(site))
        self._keep(site, value)
        return value

    def begin(self, embedded: Tensor) -> Tensor:
        """What the embedding gives, in the memory of the stream that is kept of it, where the run is long."""
        return self._slab.begin(embedded)

    def again(self, site: Site, value: Tensor, rows: Rows) -> Tensor:
        """The value at a site in a second reading of some rows, with the run's own edits of it."""
        return self._applied(site, value, self.edits.get(site, ()))

    def edited(self, site: Site) -> bool:
        """Whether the run has edits of a site, acting in this pass or not."""
        return site in self.edits

    def rereading(self) -> set[Site]:
        """The sites whose edits ask for second readings."""
        return {site for site, edits in self.edits.items() if any(edit.rereads for edit in edits)}

    def _applied(self, site: Site, value: Tensor, edits: Sequence[Edit]) -> Tensor:
        if not edits:
            return value
        unedited = self.unedited.__getitem__
        at = At(site, self.layout.table, self.batch, self.offset, unedited, self.seen, reread=self.reread)
        before = value
        for edit in edits:
            value = edit.apply(value, at)
        return still_masked(site, before, value, self.hidden.get(site.layer))

    def _keep(self, site: Site, value: Tensor) -> None:
        if site in self.reads:
            self.read[site] = value
        if site in self.capture:
            self.values[site] = self._slab.put(site, value)
            self.awaited.discard(site)
            if self.ends and not self.awaited and site.name not in AT_THE_END:
                raise Stop

    def seen_by(self, site: Site, rows: Rows) -> Tensor:
        """`seen`, for some of the rows."""
        value = self.seen(site)
        return value if rows is None else value[[*rows]]

    def rows_of(self, count: int) -> Sequence[int]:
        """Which rows of the pass `count` rows of a module's tensors are."""
        return range(count)

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
    def long(self) -> bool:
        """Whether one block alone takes so long that it is to be stopped within."""
        return self.batch.ids.shape[0] * self.length >= LONG and self.layout.device.type == "cpu"

    @property
    def inside_attention(self) -> bool:
        return any(site.name in INSIDE_ATTENTION for site in self.touched)
