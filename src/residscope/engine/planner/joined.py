"""The joined pass: one forward of the stock model in which each strand's rows join the batch where they first differ."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from residscope.engine.branches import Asked, Branches
from residscope.engine.passes import Pass, Rows, still_masked
from residscope.engine.planner.packing import Pack
from residscope.engine.planner.strands import Base, Strand, gather, joins
from residscope.engine.protocols import At, Change, Edit
from residscope.model.prompts import Batch
from residscope.model.sites import Site, positions_axis

FINAL = Site("final_norm")
Own = tuple[
    Strand, Batch, slice, slice
]  # a strand at a site: its prompts, its rows of the pass, where those stand in a value


class JoinedPass(Pass):
    """A pass whose rows are strands: each sees the background edits, and its own edits on its own rows alone."""

    def __init__(self, base: Base, pack: Pack, *, capture: Iterable[Site], background: Sequence[Edit]) -> None:
        layout = base.recording.model.layout
        self.base, self.pack, self.n = base, pack, layout.sizes.n_layers
        self.index = [row for strand in pack.strands for row in strand.index]
        super().__init__(layout, base.batch.take(self.index), capture=capture, edits=background, offset=pack.pos)
        self.counts = pack.rows_at(self.n)
        self.own: dict[Site, dict[int, tuple[Strand, Batch, slice]]] = {}
        self.spans: list[tuple[Strand, slice]] = []
        self.entered: Tensor | None = None  # the first stream of those that part at the embedding
        self.at: list[int] | None = None  # the one position of each row that is read at the end; None: any may be
        first = 0
        for strand in pack.strands:
            here = slice(first, first + len(strand))
            first += len(strand)
            self.spans.append((strand, here))
            rows = range(here.start, here.stop) if len(pack.strands) > 1 else None
            self.overlays += [replace(laid, rows=rows) for laid in strand.overlays]
            batch = base.batch.take(strand.index)
            for site, edits in strand.edits.items():
                self.own.setdefault(site, {})[here.start] = strand, batch, here
                for edit in edits:
                    self.reads.update(edit.reads(layout.table))
        if Site("logits") in self.capture:
            self.capture |= {FINAL}
        self._rereading = self.rereading()
        self.awaited = {site for site in self.capture if joins(site, self.n) >= 0}
        self.touched = frozenset(self.capture | self.edits.keys() | self.own.keys() | self.reads)

    @property
    def length(self) -> int:
        return self.base.batch.ids.shape[1] - self.offset

    def edits_at(self, site: Site) -> bool:
        return self.edited(site)

    def edited(self, site: Site) -> bool:
        return site in self.edits or site in self.own

    def rereading(self) -> set[Site]:
        own = {site: [e for strand, *_ in of.values() for e in strand.edits[site]] for site, of in self.own.items()}
        return super().rereading() | {site for site, edits in own.items() if any(edit.rereads for edit in edits)}

    def unembedding(self) -> Iterator[tuple[Strand, slice]]:
        """The strands that have an unembedding of their own, and their rows."""
        for strand, here in self.spans:
            if any(laid.module is self.layout.unembed for laid in strand.overlays):
                yield strand, here

    # ── what the hooks call ─────────────────────────────────────────────────────────────────────────────────

    def join(self, layer: int, arriving: Tensor) -> Tensor:
        """The stream at the entry of a block, or of the final norm: the rows that are there already, then those that join."""
        site = self.entry(layer)
        before, after = self.counts[layer - 1] if layer else 0, self.counts[layer]
        if before:
            arriving = self._change(site, arriving, range(before))
        if after > before:
            rows = self.base.rows(site, self.index[before:after])[:, self.offset :].to(arriving.device)
            new = self._change(site, rows, range(before, after), background=False)
            if layer == 0 and self.entered is not None:
                new = torch.cat([self.entered, new[len(self.entered) :]])
            arriving = torch.cat([arriving, new]) if before else new.contiguous()
        self._keep(site, arriving)
        return arriving

    def visit(self, site: Site, value: Tensor) -> Tensor:
        if site not in self.touched or joins(site, self.n) < 0 or site == self.entry(self.n):
            return value  # before the rows join, or at their joining
        value = self._change(site, value, range(value.shape[0]))
        self._keep(site, value)
        return value

    def again(self, site: Site, value: Tensor, rows: Rows) -> Tensor:
        return self._change(site, value, range(value.shape[0]) if rows is None else rows, reread=False)

    def seen_by(self, site: Site, rows: Rows) -> Tensor:
        """This pass's value for the rows that were in it by then, the base's for the others."""
        rows = range(len(self.index)) if rows is None else rows
        own = self.read.get(site)
        there = 0 if own is None else own.shape[0]
        if own is not None and all(row < there for row in rows):
            return own[_span(rows)]
        axis = positions_axis(site)
        values = self.base.rows(site, [self.index[row] for row in rows])
        values = values.narrow(axis, self.offset, values.shape[axis] - self.offset)
        mine = [i for i, row in enumerate(rows) if row < there]
        if own is not None and mine:
            values = values.clone()
            values[mine] = own[[rows[i] for i in mine]]
        return values

    def prefix(self, layer: int, rows: int) -> tuple[Tensor, Tensor]:
        """The keys and values before the pass's positions, for the first so many rows; a second reading does not look at them."""
        at_k, at_v = Site("k", layer), Site("v", layer)
        k, v = (self.base[site][:, : self.offset].transpose(1, 2) for site in (at_k, at_v))
        index = [*self.index[:rows], *[0] * (rows - len(self.index))]
        return gather(k, index), gather(v, index)

    # ── edits ───────────────────────────────────────────────────────────────────────────────────────────────

    def entry(self, layer: int) -> Site:
        return Site("resid_pre", layer) if layer < self.n else Site("resid_post", self.n - 1)

    def _change(
        self, site: Site, value: Tensor, rows: Sequence[int], *, background: bool = True, reread: bool = True
    ) -> Tensor:
        """A site's edits on some rows of the pass: the background's on all, then each strand's own on its rows.

        Without `background` for rows of the base, which has been through it.
        """
        common = self.edits.get(site, []) if background else []
        own = self._own(site, rows)
        if not common and not own:
            return value
        ats = self._asking(site, rows, common, own) if reread and site in self._rereading else {}
        before = value
        if common:
            at = self._at(site, self.batch.take(rows), rows)
            for edit in common:
                value = edit.apply(value, ats.get((id(edit), None), at))
            value = still_masked(site, before, value, self._hidden(site, rows))
        if own:
            unchanged, value = before, value.clone()
        for strand, batch, here, mine in own:
            part = first = (unchanged if strand.whole else value)[mine]
            at = self._at(site, batch, range(here.start, here.stop))
            for edit in strand.edits[site]:
                part = edit.apply(part, ats.get((id(edit), mine.start), at))
            value[mine] = still_masked(site, first, part, self._hidden(site, range(here.start, here.stop)))
        return value

    def _own(self, site: Site, rows: Sequence[int]) -> list[Own]:
        """The strands with edits of a site whose rows are among these, which hold each strand's one after another."""
        own = self.own.get(site)
        if not own:
            return []
        if isinstance(rows, range):
            starts = ((start, start - rows.start) for start in own if rows.start <= start < rows.stop)
        else:
            starts = ((row, i) for i, row in enumerate(rows) if row in own)
        strands = []
        for start, i in starts:
            strand, batch, here = own[start]
            strands.append((strand, batch, here, slice(i, i + len(strand))))
        return strands

    def _asking(
        self, site: Site, rows: Sequence[int], common: Sequence[Edit], own: Sequence[Own]
    ) -> dict[tuple[int, int | None], At]:
        """What the edits that ask for second readings are given: all that they ask for at a site is read in one go."""
        branches = self.reread
        assert isinstance(branches, Branches)
        takers = [((id(edit), None), edit, self.batch.take(rows), rows) for edit in common if edit.rereads]
        takers += [
            ((id(edit), mine.start), edit, batch, range(here.start, here.stop))
            for strand, batch, here, mine in own
            for edit in strand.edits[site]
            if edit.rereads
        ]
        ats = {key: self._at(site, batch, rows) for key, _, batch, rows in takers}
        asked = [(key, Asked(rows, changes)) for key, edit, _, rows in takers for changes in edit.sends(ats[key])]
        read = branches.several(site, [reading for _, reading in asked]) if asked else None
        answers: dict[tuple[int, int | None], list[Tensor]] = {}
        first = 0
        for key, reading in asked:
            assert read is not None
            assert reading.rows is not None
            answers.setdefault(key, []).append(read[first : first + len(reading.rows)])
            first += len(reading.rows)

        def given(key: tuple[int, int | None], rows: Sequence[int]) -> Any:
            waiting = answers.get(key, [])[::-1]

            def reread(receiver: Site, changes: Sequence[Change]) -> Tensor:
                if waiting and receiver == site:
                    return waiting.pop()
                return branches.several(receiver, [Asked(rows, changes)])

            return reread

        return {key: replace(ats[key], reread=given(key, rows)) for key, _, _, rows in takers}

    def _hidden(self, site: Site, rows: Sequence[int]) -> Tensor | None:
        """Which keys the queries of some rows cannot see; a mask that is one for all rows stays so."""
        hidden = self.hidden.get(site.layer)
        return hidden if hidden is None or hidden.shape[0] == 1 else hidden[_span(rows)]

    def _at(self, site: Site, batch: Batch, rows: Sequence[int]) -> At:
        index = [self.index[row] for row in rows]
        return At(
            site,
            self.layout.table,
            batch,
            self.offset,
            lambda s: self.base.unedited_at(s, index),
            lambda s: self.seen_by(s, rows),
        )


class EmbeddingPass(JoinedPass):
    """The rows that part at the embedding, up to the first block: they then join the others there."""

    def visit(self, site: Site, value: Tensor) -> Tensor:
        if site not in self.touched:
            return value
        value = self._change(site, value, range(value.shape[0]))
        self._keep(site, value)
        return value

    def rows_of(self, count: int) -> Sequence[int]:
        return range(len(self.index))  # one row of positions stands for all


def _span(rows: Sequence[int]) -> Any:
    """Rows as an index: a slice, which copies nothing, where they stand one after another."""
    return slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
