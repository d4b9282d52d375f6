"""The joined pass: one forward of the stock model in which each strand's rows join the batch where they first differ."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from residscope.engine.forward import lock_of
from residscope.engine.hooks import Hooks, Stop
from residscope.engine.layout import BlockParts
from residscope.engine.passes import Pass, still_masked
from residscope.engine.planner.packing import Pack
from residscope.engine.planner.strands import Base, Strand, gather
from residscope.engine.protocols import At, Edit
from residscope.engine.stock import call
from residscope.engine.windows import prefix_cache
from residscope.model.prompts import Batch
from residscope.model.sites import Site, rank

FINAL = Site("final_norm")


class JoinedPass(Pass):
    """A pass whose rows are strands: each sees the background edits, and its own edits on its own rows alone."""

    def __init__(self, base: Base, pack: Pack, *, capture: Iterable[Site], background: Sequence[Edit]) -> None:
        layout = base.recording.model.layout
        inside = [s for edit in background for s in edit.places(layout.table) if rank(s, layout.sizes.n_layers) < 0]
        self.base, self.pack = base, pack
        index = [row for strand in pack.strands for row in strand.index]
        super().__init__(layout, base.batch.take(index), capture=capture, edits=background, offset=pack.pos)
        for site in inside:  # the base has been through these, and no row of this pass comes by there
            if site.name != "resid_pre":
                self.edits.pop(site, None)
        self.index = index
        self.counts = pack.rows_at(layout.sizes.n_layers)
        self.own: dict[Site, list[tuple[Strand, slice, Batch]]] = {}
        self.spans: list[tuple[Strand, slice]] = []
        first = 0
        for strand in pack.strands:
            here = slice(first, first + len(strand))
            first += len(strand)
            self.spans.append((strand, here))
            batch = base.batch.take(strand.index)
            for site, edits in strand.edits.items():
                self.own.setdefault(site, []).append((strand, here, batch))
                for edit in edits:
                    self.reads.update(edit.reads(layout.table))
        if Site("logits") in self.capture:
            self.capture |= {FINAL}
        self.touched = frozenset(self.capture | self.edits.keys() | self.own.keys() | self.reads)

    @property
    def length(self) -> int:
        return self.base.batch.ids.shape[1] - self.offset

    def edits_at(self, site: Site) -> bool:
        return site in self.edits or site in self.own

    def join(self, layer: int, arriving: Tensor) -> Tensor:
        """The stream at the entry of a block: the rows that are there already, then those that join, edited."""
        site = Site("resid_pre", layer)
        before = self.counts[layer - 1] if layer else 0
        joining = self.index[before : self.counts[layer]]
        if before:
            arriving = self._change(site, arriving, range(before))
        if joining:
            rows = self.base.rows(site, joining)[:, self.offset :].to(arriving.device)
            new = self._own(site, rows, before, self.counts[layer])
            arriving = torch.cat([arriving, new]) if before else new.contiguous()
        if site in self.reads:
            self.read[site] = arriving
        if site in self.capture:
            self.values[site] = arriving
        return arriving

    def visit(self, site: Site, value: Tensor) -> Tensor:
        if site not in self.touched:
            return value
        value = self._change(site, value, range(value.shape[0]))
        if site in self.reads:
            self.read[site] = value
        if site in self.capture:
            self.values[site] = value
        return value

    def _change(self, site: Site, value: Tensor, rows: range) -> Tensor:
        background = self.edits.get(site)
        if background:
            index = self.index[: len(rows)]
            at = self._at(site, self.batch.take(rows), index, slice(0, len(rows)))
            before = value
            for edit in background:
                value = edit.apply(value, at)
            value = still_masked(site, before, value, self._hidden(site, slice(0, len(rows))))
        return self._own(site, value, 0, len(rows))

    def _hidden(self, site: Site, rows: slice) -> Tensor | None:
        """Which keys the queries of some rows cannot see; a mask that is one for all rows stays so."""
        hidden = self.hidden.get(site.layer)
        return hidden if hidden is None or hidden.shape[0] == 1 else hidden[rows]

    def _own(self, site: Site, value: Tensor, first: int, last: int) -> Tensor:
        """Each strand's edits on its own rows, of the rows first to last that `value` holds."""
        changed = False
        for strand, here, batch in self.own.get(site, ()):
            if not first <= here.start < last:
                continue
            if not changed:
                value, changed = value.clone(), True
            mine = slice(here.start - first, here.stop - first)
            part, at = value[mine], self._at(site, batch, strand.index, here)
            before = part
            for edit in strand.edits[site]:
                part = edit.apply(part, at)
            value[mine] = still_masked(site, before, part, self._hidden(site, here))
        return value

    def _at(self, site: Site, batch: Batch, index: Sequence[int], here: slice) -> At:
        def seen(earlier: Site) -> Tensor:
            """This pass's value where the rows were in it by then, else the base's."""
            found = self.read.get(earlier)
            if found is not None and found.shape[0] >= here.stop:
                return found[here]
            return self.base.rows(earlier, index)[:, self.offset :]

        return At(site, self.layout.table, batch, self.offset, lambda s: self.base.held(s, index), seen)

    def prefix(self, layer: int, rows: int) -> tuple[Tensor, Tensor]:
        """The keys and values before the pass's positions, for the first so many rows."""
        at_k, at_v = Site("k", layer), Site("v", layer)
        k, v = (self.base[site][:, : self.offset].transpose(1, 2) for site in (at_k, at_v))
        return gather(k, self.index[:rows]), gather(v, self.index[:rows])


class JoinedHooks(Hooks):
    """Hooks that let the rows of a joined pass in, in front of each block."""

    now: JoinedPass

    def _entry(self, layer: int, parts: BlockParts) -> None:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            joined = self.now.join(layer, args[0] if args else kwargs["hidden_states"])
            kwargs = {name: _spread(name, value, joined.shape[0]) for name, value in kwargs.items()}
            return ((joined, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": joined})

        self._on(parts.block, before=before)


def _spread(name: str, value: Any, rows: int) -> Any:
    """Slopes on the scores, which BLOOM and Falcon build for the rows of the embedding: one here."""
    if name != "alibi" or not isinstance(value, Tensor):
        return value
    return value.repeat(rows, *[1] * (value.ndim - 1))


def run_joined(base: Base, pack: Pack, *, capture: Iterable[Site], background: Sequence[Edit], stop: int) -> JoinedPass:
    """Run one pack through the stock model, to the site of rank `stop`; the pass holds what was captured, a row each.

    Some models shape their last stream by the rows of the embedding: so the forward ends at the final norm in any case.
    At a site of layer l only the rows that had joined by then are there: the first `counts[l]`.
    """
    model = base.recording.model
    start = pack.start
    with lock_of(model.hf), torch.no_grad():
        now = JoinedPass(base, pack, capture=capture, background=background)
        cache = prefix_cache(pack.pos, now.prefix) if pack.pos else None
        ids = base.batch.ids[:1, pack.pos :]  # stands for the rows until the first of them join
        resume = base.rows(Site("resid_pre", start), [0])[:, pack.pos :] if start else None
        with JoinedHooks(now, start=start, resume=resume, stop=stop)(), suppress(Stop):
            call(model.hf, ids, cache=cache)
        if Site("logits") in now.capture:
            now.visit(Site("logits"), model.layout.logits(now.values[FINAL], overlays=now.overlays))
    return now
