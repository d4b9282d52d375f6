"""Cells of edits over many prompts: each batch runs once as it is, each cell from its first changed layer and token on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.protocols import OfPrompts
from residscope.engine.recording import Recording
from residscope.engine.windows import Window
from residscope.methods.activations import batches
from residscope.methods.concept_edit import ConceptEdit
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site, rank
from residscope.progress import Cancel, Progress, stage

Cell = Sequence[Any]


@dataclass(frozen=True, eq=False)
class CellRun:
    """One cell over one batch: `rows` are the prompts' indices, `run` holds what the edits can have changed, `base` the rest."""

    cell: int
    rows: list[int]
    run: Recording
    base: Recording

    def at(self, site: str | Site, where: Sequence[int]) -> Float[Tensor, "prompt ..."]:
        """The value at a site, at each prompt's own token `where` (of an attention pattern: the query's row, head x key)."""
        site = self.run.model.sites.canonical(site)
        axis = next(i for i, name in enumerate(site.kind.axes) if name in ("pos", "query"))
        found = _picked(self.base, site, axis, where)
        later = [row for row, token in enumerate(where) if token >= self.run.offset]
        if site in self.run.held and self.run is not self.base and later:
            found[later] = _picked(self.run, site, axis, [max(token, self.run.offset) for token in where])[later]
        return found

    def logits(self) -> Float[Tensor, "prompt d_vocab"]:
        """The logits at each prompt's own end, under all of the cell's edits."""
        return self.run.logits_at(-1)


def cell_runs(
    model: Model,
    data: PromptSet,
    cells: Sequence[Cell],
    capture: Sequence[str | Site] = (),
    *,
    batch: int = 32,
    what: str = "Answering",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[CellRun]:
    """Every cell over every batch of prompts of like length; `capture` and the end of the stream are there to read.

    Each batch runs once without edits; a cell then runs in a window from the first layer and token that its edits touch, which
    is exact. Edits made from a probe are tied to the prompts; what another edit has for each prompt (a source's rows, draws
    of noise) goes with its prompt. what: the stage that `progress` is told.

    Raises:
        Cancelled: `cancel` said so.
    """
    whole = model.batch(data)
    tied = [
        [(edit.on(data) if isinstance(edit, OfPrompts) else edit).prepare(model) for edit in cell] for cell in cells
    ]
    table = model.sites
    end = Site("resid_post", model.n_layers - 1)
    wanted = {end} | {table.canonical(s) for name in capture for s in table.expand(name)}
    held = {s for cell in tied for edit in cell if edit.needs_unedited for s in edit.places(table)}
    below = {*table.expand("resid_pre"), *table.expand("k"), *table.expand("v")} if any(tied) else set()
    done = 0
    with stage(what, len(data) * len(tied), progress, cancel) as tell:
        for rows in batches(model, data, size=batch):
            part = whole.take(rows).trimmed()
            base = model.run(part, wanted | held | below)
            for i, own in enumerate(tied):
                run = base
                if own:
                    window = _window(model, base, own, rows)
                    run = model.run(part, [s for s in wanted if _inside(s, window.start)], edits=own, window=window)
                yield CellRun(i, rows, run, base)
                done += len(rows)
                tell(done)


def _picked(held: Recording, site: Site, axis: int, where: Sequence[int]) -> Tensor:
    value = held[site].movedim(axis, 1)
    index = torch.tensor(where, device=value.device) - held.offset
    return value[torch.arange(len(where), device=value.device), index]


def _inside(site: Site, start: int) -> bool:
    return site.layer is None or site.layer >= start


def _window(model: Model, base: Recording, edits: Cell, rows: Sequence[int]) -> Window:
    """From the first layer and token that the edits change; everything before is as recorded.

    What holds a site to the unedited run changes nothing by itself, so such an edit may lie anywhere after.
    """
    changing = [edit for edit in edits if not edit.needs_unedited] or list(edits)
    n = model.n_layers
    ranks = [rank(site, n) + (site.name == "resid_pre") for edit in changing for site in edit.places(model.sites)]
    start = min(max(min(ranks, default=0), 0), n - 1)
    tied = [edit.where for edit in changing if isinstance(edit, ConceptEdit) and edit.where is not None]
    pos = min(int(where[rows].min()) for where in tied) if len(tied) == len(changing) else 0
    return Window(base, start=start, pos=pos)


def named(data: PromptSet, rows: Sequence[int], positions: Sequence[str]) -> Mapping[str, list[int]]:
    """The tokens of named positions in some of the prompts."""
    return {name: [data.at(name)[row] for row in rows] for name in positions}
