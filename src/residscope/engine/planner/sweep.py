"""`rs.sweep`: one readout of many cells of edits, each with the number of a plain forward of its own, for far less."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.engine.forward import forward
from residscope.engine.gradients import gradients
from residscope.engine.memory import budget, out_of_memory
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.naming import label_of, unit_of
from residscope.engine.passes import INSIDE_ATTENTION
from residscope.engine.planner.outcomes import Answers, Cost, Gradients
from residscope.engine.planner.packing import Pack, pack
from residscope.engine.planner.pricing import OVERHEAD_TOKENS, prices_of, rate_of
from residscope.engine.planner.readouts import ReadoutReader
from residscope.engine.planner.running import run_joined
from residscope.engine.planner.strands import Base, Strand, strands_of
from residscope.engine.preparing import join, prepare, sources_kept
from residscope.engine.protocols import Edit, GradientReadout, LeastEdit, LogitReadout, Readout
from residscope.engine.recording import Recording
from residscope.engine.seams import NotByRow
from residscope.engine.turns import in_turn
from residscope.engine.windows import whole_cache
from residscope.errors import BadSweep, SweepCancelled, SweepInterrupted, WeightsChanged
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, asking, stage
from residscope.results import Result

Cell = LeastEdit | Sequence[LeastEdit]
_LONG = {"k": "keys", "v": "values"}
_TOKENS = 8192  # a pass with more tokens than this is no faster per token
_CACHED = 2048  # nor with more than these on a CPU, whose caches they leave


@dataclass(frozen=True)
class Part:
    """Some of the prompts: their base, what to read, and the passes for them."""

    base: Base
    reader: ReadoutReader
    packs: list[Pack]


class Sweep:
    """A planned sweep: `cost` before running, `run()` for the numbers, `partial` for what a run that ended early had."""

    def __init__(
        self,
        model: Model,
        batch: Batch,
        cells: Sequence[Sequence[Edit]],
        readout: Readout,
        background: Sequence[Edit],
        *,
        memory: int | None,
        together: int | None = None,
    ) -> None:
        model.follow()
        self.model, self.batch, self.readout, self.size = model, batch, readout, together
        with sources_kept():
            self.background = prepare(model, background, batch.lengths)
            self.cells = [prepare(model, cell, batch.lengths) for cell in cells]
        self.together = [self._together(cell) for cell in self.cells]
        self.memory = budget(model.device) if memory is None else memory
        self.partial: Result | None = None
        self.prices = prices_of(model.layout)
        self._version = model.weights_version()
        self._kept: dict[int, Part] = {}
        self._chunks = self._split()

    def _together(self, cell: Sequence[Edit]) -> tuple[Edit, ...] | None:
        """Background and cell as one run has them, where some of them mean something together; else None."""
        both = join([*self.background, *cell], self.model.sites, self.batch.lengths)
        return both if len(both) < len(self.background) + len(cell) else None

    # ── planning ────────────────────────────────────────────────────────────────────────────────────────────

    def _split(self) -> list[tuple[int, ...]]:
        """Prompts in parts of like length whose base fits into half of the memory."""
        s = self.model.layout.sizes
        table, every = self.model.sites, [edit for cell in (*self.cells, self.background) for edit in cell]
        sites = {site for edit in every for site in (*edit.places(table), *edit.reads(table))}
        longest = self.batch.ids.shape[1]
        wide = {"d_model": s.d_model, "key": longest}
        captured = sum(
            _product(self.model.sites.size(site, a) or wide.get(a, 1) for a in site.kind.axes[1:] if a != "pos")
            for site in sites
        )
        each = (s.n_layers * (s.d_model + 2 * s.n_kv_heads * s.d_head) + captured) * longest * self.model.dtype.itemsize
        most = max(1, min(self.memory // 2 // each, self.size or len(self.batch)))
        if most >= len(self.batch) and self.size is None:
            return [tuple(range(len(self.batch)))]
        order = sorted(range(len(self.batch)), key=lambda row: self.batch.lengths[row])
        return [tuple(order[first : first + most]) for first in range(0, len(order), most)]

    def _part(self, number: int) -> Part:
        """One part, planned: its base run, then where each cell parts from it. The first is kept, the others made anew."""
        if number in self._kept:
            return self._kept[number]
        rows = self._chunks[number]
        batch = self.batch if len(self._chunks) == 1 and self.size is None else self.batch.take(rows)
        batch = batch if self.size is None else batch.trimmed()
        base, reader = self._base(batch)
        n, length = self.model.n_layers, batch.ids.shape[1]
        of_cells = zip(self.cells, self.together, strict=True)
        strands = [
            strand
            for i, (cell, together) in enumerate(of_cells)
            for strand in strands_of(i, cell, base, together=together, last=reader.last)
            if strand.layer <= reader.stop  # what first changes above is not read
        ]
        most = _CACHED if self.model.device.type == "cpu" else _TOKENS
        tokens = max(length, min(most, self.memory // 2 // self.prices.bytes))
        part = Part(base, reader, pack(strands, length=length, n_layers=n, tokens=tokens))
        if number == 0:
            self._kept[0] = part
        return part

    def _base(self, batch: Batch) -> tuple[Base, ReadoutReader]:
        model, table = self.model, self.model.sites
        every = [edit for cell in (self.background, *self.cells) for edit in cell]
        sites = {*table.expand("resid_pre"), Site("final_norm")} if any(self.cells) else set[Site]()
        sites |= {site for cell in self.cells for edit in cell for site in edit.places(table)}
        sites |= {site for edit in every for site in edit.reads(table)}
        sites.add(Site("resid_post", model.n_layers - 1))
        if isinstance(self.readout, LogitReadout):
            sites.add(Site("final_norm"))
        sites |= {table.canonical(s) for name in self.readout.sites for s in table.expand(name) if s.name != "logits"}
        held_sites = {site for edit in every if edit.needs_unedited for site in edit.places(table)}
        late = any(self.cells) and not model.layout.whole  # passes of later positions, which need what stands before
        keys_values = [*table.expand("k"), *table.expand("v")] if late else []
        inside = any(s.name in INSIDE_ATTENTION for e in self.background for s in e.places(table))
        if inside:
            sites.update(keys_values)  # a cache would have them as they were before their edits
        cache = whole_cache() if keys_values and not inside else None
        with in_turn(model.hf):
            unedited = forward(model.layout, batch, capture=held_sites) if held_sites else {}
            values = forward(model.layout, batch, capture=sites, edits=self.background, unedited=unedited, cache=cache)
            if cache is not None:
                values |= {s: getattr(cache.layers[s.layer], _LONG[s.name]).transpose(1, 2) for s in keys_values}
            version = model.weights_version()
        recording = Recording(model, batch, values, edits=self.background, unedited=unedited, weights=version)
        base = Base(recording, unedited)
        return base, ReadoutReader(self.readout, base, every)

    def check(self) -> None:
        """Plan the first part of the prompts, and so refuse at once what cannot be run."""
        self._part(0)

    @property
    def cost(self) -> Cost:
        """FLOPs, seconds and bytes, before running. Where the prompts make several parts, the first one's times their number."""
        part, times = self._part(0), len(self._chunks)
        n, length = self.model.n_layers, part.base.batch.ids.shape[1]
        flops = sum(p.flops(self.prices, length, part.reader.stop) for p in part.packs)
        flops += self.prices.forward(len(part.base.batch), length)
        calls = sum(max(0, min(n, part.reader.stop + 1) - p.start) for p in part.packs) + n
        overhead = calls * OVERHEAD_TOKENS * max(self.prices.block)
        most = max((p.rows * (length - p.pos) for p in part.packs), default=0) * self.prices.bytes
        rows = sum(p.rows for p in part.packs)
        return Cost(
            flops=flops * times,
            plain_flops=self.prices.forward(len(self.batch) * len(self.cells), self.batch.ids.shape[1]),
            seconds=(flops + overhead) * times / rate_of(self.model.layout),
            bytes=part.base.recording.nbytes + most,
            passes=self.passes,
            rows=rows * times,
            unchanged=len(self.cells) * len(self.batch) - rows * times,
        )

    @property
    def passes(self) -> int:
        """How many passes a run takes. Where the prompts make several parts, the first one's times their number."""
        part = self._part(0)
        return len(part.packs) * len(self._chunks)

    def of(self, cells: Sequence[Sequence[Edit]], *, model: Model | None = None) -> "Sweep":
        """The same sweep of other cells, or on a copy of the model."""
        return Sweep(
            model or self.model,
            self.batch,
            cells,
            self.readout,
            self.background,
            memory=self.memory,
            together=self.size,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """A few words for each cell."""
        return tuple(", ".join(map(str, cell)) for cell in self.cells)

    def baseline(self) -> Tensor:
        """The readout with the background edits alone, a row for each prompt."""
        return self.unchanged()[0]

    def unchanged(self) -> tuple[Tensor, Bool[Tensor, "cell prompt"]]:
        """The baseline, and which cells are it: those that change nothing the readout sees, provably and without a run."""
        baseline: Tensor | None = None
        same = torch.ones(len(self.cells), len(self.batch), dtype=torch.bool)
        for number, rows in enumerate(self._chunks):
            part = self._part(number)
            base = part.reader.of_base()
            baseline = base.new_empty((len(self.batch), *base.shape[1:])) if baseline is None else baseline
            baseline[list(rows)] = base
            same[:, list(rows)] = ~self._pending(part)
        assert baseline is not None
        return baseline, same

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, progress: Progress = None, cancel: Cancel = None, *, what: str = "Sweeping") -> Result:
        """The readout of every cell: a `Result` over cell and prompt (and what further axes the readout has).

        progress: called with (stage, done, total) or (done, total) rows after each pass; True or False: a bar, or none; None: a
        bar in a terminal. cancel: a function, or a `threading.Event`, asked after each pass and in front of each block. what: the
        stage's name.

        Raises:
            SweepCancelled, and where Ctrl-C came SweepInterrupted: with what was finished as its `partial` (NaN elsewhere).
            WeightsChanged: since it was planned.
        """
        began, halved, done = time.monotonic(), 0, 0
        values: Tensor | None = None

        def finished() -> Result | None:
            self.partial = None if values is None else self._result(values, began, halved, done)
            return self.partial

        for answers in self._answers(progress, cancel, what, finished):
            if values is None:
                shape = (len(self.batch), *answers.values.shape[1:])
                self.base = answers.values.new_full(shape, float("nan"))
                values = answers.values.new_full((len(self.cells), *shape), float("nan"))
            if answers.cell is None:
                self.base[list(answers.prompts)] = answers.values
            else:
                values[answers.cell, list(answers.prompts)] = answers.values.to(values.dtype)
                done += len(answers.prompts)
            halved += answers.halved
        result = finished()
        assert result is not None
        return result

    def each(self, progress: Progress = None, cancel: Cancel = None, *, what: str = "Sweeping") -> Iterator[Answers]:
        """The readout as the passes end, for what is too large to keep of every cell; of each part of the prompts its base first.

        Raises:
            SweepCancelled: without a `partial`. WeightsChanged: since it was planned.
        """
        return self._answers(progress, cancel, what, None)

    def _answers(
        self, progress: Progress, cancel: Cancel, what: str, partial: Callable[[], Result | None] | None
    ) -> Iterator[Answers]:
        total, done = len(self.cells) * len(self.batch), 0
        stopped: dict[str, Any] = {"cancelled": SweepCancelled, "interrupted": SweepInterrupted}
        with stage(what, total, progress, cancel, yields=True, partial=partial, **stopped) as tell:
            for number, rows in enumerate(self._chunks):
                with asking(tell, cancel):
                    part = self._part(number)
                    base = part.reader.of_base()
                yield Answers(None, rows, base)
                pending = self._pending(part)
                for cell, of_cell in enumerate(pending.tolist()):
                    index = [i for i, waits in enumerate(of_cell) if not waits]
                    if index:
                        done += len(index)
                        yield Answers(cell, tuple(rows[i] for i in index), base[index])
                tell(done)
                for cell, of_strand, values, halved in self._rows(part, lambda: asking(tell, cancel)):
                    done += len(of_strand)
                    yield Answers(cell, tuple(rows[i] for i in of_strand), values, halved)
                    tell(done)

    def gradients(self, sites: Iterable[str | Site] | None = None) -> Gradients:
        """d readout / d value at some sites, in the base run (the background's edits and no others), for each prompt.

        The readout gives one number a prompt. sites: those that the readout itself names, unless said (`GradientReadout`).

        Raises:
            BadSweep: no sites. NoGradient, QuantisedModel: there are none.
        """
        wanted = self.readout.gradients if sites is None and isinstance(self.readout, GradientReadout) else sites
        if not wanted:
            raise BadSweep(
                "gradients are taken at sites",
                received="none",
                fix="say sites=, or let the readout name its `gradients`",
            )
        self.model.require_exact_weights("gradients")
        values: dict[Site, list[Tensor]] = {}
        slopes: dict[Site, list[Tensor]] = {}
        for rows in self.with_graphs():
            batch = self.batch if len(rows) == len(self.batch) else self.batch.take(rows)
            recording, grads = gradients(self.model, batch, self.readout, wanted, edits=self.background)
            for site, slope in grads.items():
                values.setdefault(site, []).append(recording[site])
                slopes.setdefault(site, []).append(slope)
        whole_values, whole_slopes = ({s: torch.cat(parts) for s, parts in of.items()} for of in (values, slopes))
        return Gradients(whole_values, whole_slopes, self.model.sites)

    def with_graphs(self) -> list[range]:
        """Prompts whose graphs fit into half of the sweep's memory together."""
        each = self.prices.bytes * self.model.n_layers * self.batch.ids.shape[1]
        most = max(1, self.memory // 2 // each)
        return [range(first, min(first + most, len(self.batch))) for first in range(0, len(self.batch), most)]

    def _pending(self, part: Part) -> Tensor:
        pending = torch.zeros(len(self.cells), len(part.base.batch), dtype=torch.bool)
        for p in part.packs:
            for s in p.strands:
                pending[s.cell, list(s.index)] = True
        return pending

    def _rows(
        self, part: Part, asks: Callable[[], AbstractContextManager[None]]
    ) -> Iterator[tuple[int, Sequence[int], Tensor, int]]:
        """Cell, prompts and values, as the passes end, each in `asks()`; and how often memory ran out on the way to them."""
        waiting = part.packs[::-1]
        halved = 0
        while waiting:
            if self.model.weights_version() != self._version:
                raise WeightsChanged(
                    "the model's weights have changed since the sweep was planned", fix="plan it again"
                )
            now = waiting.pop()
            try:
                with asks():
                    finished = self._run(part, now)
            except NotByRow:  # each cell by itself then: its rows have one weight
                waiting += reversed(now.halves())
                continue
            except Exception as error:
                if not out_of_memory(error) or now.rows == 1:
                    raise
                halved += 1
                waiting += reversed(now.halves())
                continue
            for strand, values in finished:
                yield strand.cell, strand.index, values, halved
                halved = 0

    def _run(self, part: Part, now: Pack) -> list[tuple[Strand, Tensor]]:
        if self.model.layout.fed:
            return [(strand, self._whole(part, strand)) for strand in now.strands]
        reader, behind = part.reader, self.background
        done = run_joined(part.base, now, capture=reader.sites, background=behind, stop=reader.stop, last=reader.last)
        return part.reader.of(done)

    def _whole(self, part: Part, strand: Strand) -> Tensor:
        """The readout of a strand from a run of its prompts by themselves: its blocks are given more than the stream."""
        model, base = self.model, part.base
        edits = self.together[strand.cell] or (*self.background, *self.cells[strand.cell])
        batch = base.batch.take(strand.index)
        unedited = {site: base.unedited_at(site, strand.index) for site in base.unedited}
        values = forward(model.layout, batch, capture=part.reader.sites, edits=edits, unedited=unedited)
        return part.reader.of_run(strand, values, edits)

    def _result(self, values: Tensor, began: float, halved: int, done: int) -> Result:
        about = {
            "method": "sweep",
            **self.model.provenance,
            "seconds": round(time.monotonic() - began, 3),
            "rows": [done, len(self.cells) * len(self.batch)],
        }
        if halved:
            about["notes"] = f"memory ran out {halved} times; the batch was halved each time"
        further = tuple(f"axis_{i}" for i in range(values.ndim - 2))
        dims, coords = ("cell", "prompt", *further), {"edits": self.labels}
        name, unit = label_of(self.readout, self.model), unit_of(self.readout)
        return Result(values, dims, coords, {"edits": "cell"}, name=name, unit=unit, provenance=about)


def sweep(
    model: Model,
    prompts: Prompt,
    cells: Sequence[Cell],
    readout: Readout,
    background: Sequence[LeastEdit] = (),
    *,
    bos: bool | None = None,
    memory: int | None = None,
    batch: int | None = None,
) -> Sweep:
    """Plan one readout of many cells of edits. `.cost` prices it, `.run()` gives a `Result` over cell and prompt.

    cells: each an edit, or several in order. readout: a metric, or any function of a recording of the sites it declares.
    background: edits under which all cells run. memory: bytes to stay within (half of what is free, unless said). batch: so many
    prompts at a time, of like length and without the padding that they share: for a readout whose shape is one for all lengths,
    and edits that fit prompts of any.

    Under causal attention an edit at layer l and position p can change only layers >= l and positions >= p. So cells that
    part from the base at one position share a pass over the positions from there on, which each joins at its own layer; and
    cells that give back the base's own values are answered from it. The numbers are those of one plain forward per cell.

    Raises:
        BadSweep: no cells. PromptError, SiteError, EditError: as `Model.run` would, before anything is run.
    """
    if not cells:
        raise BadSweep("a sweep needs cells", received="none", allowed="a list of edits, or of tuples of edits")
    several = [tied(cell, prompts) for cell in cells]
    rows, before = model.batch(prompts, bos=bos), tied(background, prompts)
    plan = Sweep(model, rows, several, readout, before, memory=memory, together=batch)
    plan.check()
    return plan


def _product(sizes: Iterator[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
