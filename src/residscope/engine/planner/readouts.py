"""What a sweep reads off a pass: metrics from the one position and the columns they name, other readouts from a recording."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from residscope.engine.planner.joined import FINAL, JoinedPass
from residscope.engine.planner.strands import Base, Strand, joins
from residscope.engine.protocols import Edit, LogitReadout, Readout, overlays_of
from residscope.engine.recording import Recording
from residscope.errors import NotRecorded
from residscope.model.prompts import Batch
from residscope.model.sites import Site, positions_axis

_ROWS = 512  # rows unembedded at a time


class ReadoutReader:
    """One readout, and how to get at it: which sites to capture, and how far the pass must go."""

    def __init__(self, readout: Readout, base: Base, edits: Sequence[Edit]) -> None:
        model = base.recording.model
        self.readout, self.base, self.model = readout, base, model
        table, n = model.sites, model.n_layers
        self.overlays = overlays_of(base.recording.edits, model.layout)
        touches_logits = any(site.name == "logits" for edit in edits for site in edit.places(table))
        self.metric = readout if isinstance(readout, LogitReadout) and not touches_logits else None
        if self.metric is not None:
            self.sites = frozenset({FINAL})
            self.ids = self.metric.columns(model, base.batch)
            self.last: list[int] | None = [base.recording.index(self.metric.pos, row) for row in range(len(base.batch))]
        else:
            self.sites = frozenset(table.canonical(s) for name in readout.sites for s in table.expand(name))
            self.last = None
        # the stream before a block is read at that block's own entry, where edits of it join
        self.stop = max((joins(site, n) for site in self.sites), default=-1)

    def of_base(self) -> Tensor:
        """The readout of the base, a row for each prompt."""
        if self.metric is None:
            return self.readout(self.base.recording)
        rows = torch.arange(len(self.base.batch))
        return self._metric(self.base[FINAL][rows, self.last], self.base.batch, self.overlays)

    def of(self, now: JoinedPass) -> list[tuple[Strand, Tensor]]:
        """The readout of each strand of a pass, a row for each of its prompts."""
        if self.metric is None:
            return [(s, self.readout(self._recording(now, s, here))) for s, here in now.spans]
        assert self.last is not None
        at = torch.tensor([self.last[row] - now.offset for row in now.index])
        x = now.values[FINAL][torch.arange(len(at)), at]
        values = self._metric(x, now.batch, self.overlays)
        for strand, here in now.unembedding():
            batch = self.base.batch.take(strand.index)
            values[here] = self._metric(x[here], batch, [*self.overlays, *strand.overlays])
        return [(strand, values[here]) for strand, here in now.spans]

    def of_run(self, strand: Strand, values: Mapping[Site, Tensor], edits: Sequence[Edit]) -> Tensor:
        """The readout of a strand that was run whole, with these edits: a row for each of its prompts."""
        batch = self.base.batch.take(strand.index)
        if self.metric is None:
            return self.readout(
                OfCell(self.model, batch, dict(values), edits=edits, weights=self.base.recording.version)
            )
        assert self.last is not None
        x = values[FINAL][torch.arange(len(strand)), [self.last[row] for row in strand.index]]
        return self._metric(x, batch, overlays_of(edits, self.model.layout))

    def _metric(self, x: Tensor, batch: Batch, overlays: Sequence[Any]) -> Tensor:
        assert self.metric is not None
        numbers = []
        with torch.no_grad():
            for first in range(0, len(x), _ROWS):
                rows = range(first, min(first + _ROWS, len(x)))
                logits = self.model.layout.logits(x[rows.start : rows.stop], self.ids, overlays)
                part = batch if len(rows) == len(batch) else batch.take(rows)
                numbers.append(self.metric.of(logits, self.ids, self.model, part))
        return torch.cat(numbers)

    def _recording(self, now: JoinedPass, strand: Strand, here: slice) -> Recording:
        """What a whole run of the cell would have recorded: the base before the pass's positions and below the strand."""
        values = {}
        for site in self.sites:
            base, own = self.base.rows(site, strand.index), now.values.get(site)
            if own is not None and own.shape[0] >= here.stop:
                axis = positions_axis(site)
                base = torch.cat([base.narrow(axis, 0, now.offset), own[here]], axis)
            values[site] = base
        of_cell = {id(edit): edit for edits in strand.edits.values() for edit in edits}
        edits = (*(() if strand.whole else self.base.recording.edits), *of_cell.values())
        batch = self.base.batch.take(strand.index)
        return OfCell(self.model, batch, values, edits=edits, weights=self.base.recording.version)


class OfCell(Recording):
    """What a readout may read of a cell: the sites it declares."""

    def _recompute(self, sites: list[Site]) -> dict[Site, Tensor]:
        raise NotRecorded(
            "in a sweep, a readout reads only the sites it declares",
            received=", ".join(map(str, sites)),
            allowed=", ".join(map(str, self.sites)),
            fix="add them to the readout's `sites`",
        )
