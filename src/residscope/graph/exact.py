"""Exact edges: each feature is taken out of the run in turn, and every later feature is read again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.edits.features import joined
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import Sweep, sweep
from residscope.engine.protocols import At, Edit, LeastEdit
from residscope.engine.recording import Recording
from residscope.graph import last
from residscope.graph.nodes import ERROR, Level
from residscope.graph.setting import Setting
from residscope.model.sites import Site, SiteTable
from residscope.progress import Cancel, Progress, asking, stage

ROWS = 256  # rows encoded at once


class Changed(Edit):
    """A known change of a site's value, the same for every row."""

    site: Site
    change: Float[Tensor, "pos d"]

    def places(self, table: SiteTable) -> list[Site]:
        return [self.site]

    def apply(self, value: Tensor, at: At) -> Tensor:
        change = self.change[at.offset : at.offset + value.shape[1]].to(value)
        return value + change.reshape(change.shape[0], *value.shape[2:])


@dataclass(frozen=True, eq=False)
class Removed(Changed):
    """A change that is held as it is."""

    site: Site
    change: Float[Tensor, "pos d"]
    label: str = "a change of the stream"

    def __repr__(self) -> str:
        return self.label


@dataclass(frozen=True, eq=False)
class TakenOut(Changed):
    """What one source of a level writes, multiplied by `scale`: worked out where it is applied, since there may be thousands."""

    level: Level
    source: "Source"
    keep: Bool[Tensor, " pos"]
    scale: float

    @property
    def site(self) -> Site:  # type: ignore[override]
        return self.level.write_site

    @property
    def change(self) -> Float[Tensor, "pos d"]:  # type: ignore[override]
        pos = self.source.pos
        where = self.keep if pos is None else torch.arange(len(self.keep)) == pos
        return (self.scale - 1) * self.level.written(self.source.index) * where[:, None].to(self.level.error)

    def __repr__(self) -> str:
        return f"{self.level.id} {'error' if self.source.index == ERROR else self.source.index}"


@dataclass(frozen=True, eq=False)
class Values:
    """A readout of what stands at some sites, at one position or at all of them."""

    where: tuple[Site, ...]
    at: int | None

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(map(str, self.where))

    def __call__(self, recording: Any) -> Float[Tensor, "row pos width"]:
        flat = [recording[site].flatten(2) for site in self.where]
        flat = flat if self.at is None else [x[:, self.at : self.at + 1] for x in flat]
        return torch.cat(flat, -1)

    def split(self, values: Tensor, widths: Sequence[int]) -> list[Tensor]:
        return list(torch.split(values, list(widths), -1))


@dataclass(frozen=True, eq=False)
class Source:
    """One thing to take out: which feature of a level (ERROR: what it leaves out), at which position (None: at all kept ones)."""

    index: int
    pos: int | None


@dataclass(frozen=True, eq=False)
class Effects:
    """What some sources of a level do to the features of another: coordinates of the base less those without the source.

    values[row, pos, feature]: of the rows' sources, at the positions read.
    """

    rows: tuple[int, ...]
    target: int
    values: Float[Tensor, "row pos n"]


def planned(
    model: Model,
    prompt: Prompt,
    level: Level,
    sources: Sequence[Source],
    targets: Sequence[Level],
    *,
    keep: Tensor,
    at: int | None,
    scale: float,
    background: Sequence[LeastEdit],
    memory: int | None,
) -> Sweep:
    """The sweep that takes each source of a level out in turn and reads the targets' sites."""
    cells = [removed(level, source, keep=keep, scale=scale) for source in sources]
    sites = tuple(dict.fromkeys(target.read_site for target in targets))
    return sweep(model, prompt, cells, Values(sites, at), background, memory=memory)


def removed(level: Level, source: Source, *, keep: Tensor, scale: float) -> TakenOut:
    """The edit that multiplies what a source writes by `scale`: at its position, or at all that are kept."""
    return TakenOut(level, source, keep, scale)


def effects(
    plan: Sweep,
    targets: Sequence[tuple[int, Level]],
    *,
    progress: Progress = None,
    cancel: Cancel = None,
    what: str = "Taking features out",
) -> Iterator[Effects]:
    """The effects of the plan's sources, as its passes end. Raises SweepCancelled."""
    readout = plan.readout
    assert isinstance(readout, Values)
    widths = [next(t.x.shape[-1] for _, t in targets if t.read_site == site) for site in readout.where]
    base: list[Tensor] = []
    waiting: list[tuple[int, Tensor]] = []

    def encoded() -> Iterator[Effects]:
        if not waiting:
            return
        rows = tuple(cell for cell, _ in waiting)
        parts = dict(zip(readout.where, readout.split(torch.stack([x for _, x in waiting]), widths), strict=True))
        for (number, target), before in zip(targets, base, strict=True):
            after = target.dictionary.encode(parts[target.read_site], model=plan.model)
            yield Effects(rows, number, before - after)
        waiting.clear()

    for answers in plan.each(progress, cancel, what=what):
        if answers.cell is None:
            parts = dict(zip(readout.where, readout.split(answers.values[0], widths), strict=True))
            base = [t.dictionary.encode(parts[t.read_site], model=plan.model) for _, t in targets]
            continue
        waiting.append((answers.cell, answers.values[0]))
        if sum(x.shape[0] for _, x in waiting) >= ROWS:
            yield from encoded()
    yield from encoded()


def effects_of(
    setting: Setting,
    level: Level,
    sources: Sequence[Source],
    targets: Sequence[tuple[int, Level]],
    *,
    at: int | None,
    scale: float,
    memory: int | None,
    progress: Progress,
    cancel: Cancel,
) -> Iterator[Effects]:
    """What each source of a level does to the targets: by one block at one position where that is all, else on the planner."""
    read = [target for _, target in targets]
    watch: dict[str, Any] = {
        "progress": progress,
        "cancel": cancel,
        "what": f"Taking features of {level.id} out",
    }
    if at is not None and last.fits(level, read, setting.model, at=at, background=setting.background):
        where: dict[str, Any] = {"keep": setting.keep, "at": at, "scale": scale}
        return effects_at(setting.model, setting.record, level, sources, targets, **where, **watch)
    plan = planned(
        setting.model, setting.batch, level, sources, read, keep=setting.keep, at=at, scale=scale,
        background=setting.background, memory=memory,
    )  # fmt: skip
    return effects(plan, targets, **watch)


def effects_at(
    model: Model,
    record: Recording,
    level: Level,
    sources: Sequence[Source],
    targets: Sequence[tuple[int, Level]],
    *,
    keep: Tensor,
    at: int,
    scale: float,
    progress: Progress = None,
    cancel: Cancel = None,
    what: str = "Taking features out",
) -> Iterator[Effects]:
    """The same effects at one position, where one block leads to every target: `graph.last`. Raises Cancelled."""
    layer = last.entry_of(level, model)
    assert layer is not None
    cells = [removed(level, source, keep=keep, scale=scale) for source in sources]
    sites = tuple(dict.fromkeys(target.read_site for _, target in targets))
    base = record[Site("resid_pre", layer)]
    before = {number: target.coordinates[at] for number, target in targets}
    with stage(what, len(sources), progress, cancel, yields=True) as tell:
        for some, change in last.passes(model, cells, base.shape[1]):
            with asking(tell, cancel):
                values = last.read_at(model, record.batch, layer, base + change.to(base), at, sites)
            for number, target in targets:
                x = joined(target.dictionary, values[target.read_site])
                after = target.dictionary.encode(x, model=model)
                yield Effects(tuple(some), number, before[number] - after)
            tell(some.stop)


class Strongest:
    """The strongest edges between two levels, of any number: in order of size, then of source, position and feature."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.weight = torch.zeros(0)
        self.key = torch.zeros(0, 3, dtype=torch.int64)

    def add(self, found: Effects) -> None:
        values = found.values.float().cpu()
        row, pos, feature = values.nonzero(as_tuple=True)
        self.take(torch.tensor(found.rows, dtype=torch.int64)[row], pos, feature, values[row, pos, feature])

    def take(
        self,
        sources: Int[Tensor, " some"],
        pos: Int[Tensor, " some"],
        feature: Int[Tensor, " some"],
        weight: Float[Tensor, " some"],
    ) -> None:
        """More of them, one by one."""
        if len(self.weight) >= self.most:
            may = weight.abs() >= self.weight.abs().min()
            sources, pos, feature, weight = sources[may], pos[may], feature[may], weight[may]
        self.weight = torch.cat([self.weight, weight])
        self.key = torch.cat([self.key, torch.stack([sources, pos, feature], 1)])
        if len(self.weight) > 4 * self.most:
            self._cut()

    def sorted(self) -> tuple[Float[Tensor, " edge"], Int[Tensor, "edge 3"]]:
        """Weights, and source, position read (of those read) and feature of each."""
        self._cut()
        return self.weight, self.key

    def _cut(self) -> None:
        order = torch.arange(len(self.weight))
        for column in (2, 1, 0):
            order = order[self.key[order, column].argsort(stable=True)]
        order = order[self.weight[order].abs().argsort(descending=True, stable=True)][: self.most]
        self.weight, self.key = self.weight[order], self.key[order]


def sources_of(level: Level, keep: Tensor, *, each: bool, errors: bool) -> list[Source]:
    """What there is to take out of a level: its active features, and its error; at each position by itself, or at all at once."""
    if not each:
        return [Source(i, None) for i in level.active(keep)] + ([Source(ERROR, None)] if errors else [])
    positions = [int(p) for p in keep.nonzero()[:, 0]]
    found = [Source(int(i), p) for p in positions for i in level.coordinates[p].nonzero()[:, 0]]
    return found + ([Source(ERROR, p) for p in positions] if errors else [])
