"""Edges by gradients: what taking each feature out would do to first order, or on the way from all of a level to none of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.slopes import Marked
from residscope.graph.drawn import Drawn
from residscope.graph.estimates.numbers import Encode, Graphed, Numbers, entry_of, of_level, of_tokens, parts_of
from residscope.graph.exact import Removed, Source, removed
from residscope.graph.nodes import Level
from residscope.graph.setting import Setting, targets_of
from residscope.progress import Cancel, Progress, stage

STEPS = 10


def by_gradient(drawn: Drawn, *, reach: str, scale: float, progress: Progress, cancel: Cancel) -> None:
    """a_j - a_j' to first order, for every active j and all sources at once: one backward pass for each j.

        weight(i -> j) = (1 - scale) sum over positions of (d a_j / d y) . a_i write_i

    y is what the run has at the sources' write site: a_i is all that moves, the error and whatever else stands there are passed
    through. On log-probabilities of next tokens likewise. Marks et al. (2024), arXiv:2403.19647, with an effect on every later
    feature in the place of one metric.
    """
    setting, jobs = drawn.setting, asked(drawn, reach, _activations(drawn.setting.model))
    with stage("Taking gradients", sum(len(numbers) for numbers, _ in jobs), progress, cancel) as tell:
        done = 0
        for numbers, levels in jobs:
            sites = tuple(dict.fromkeys(setting.levels[number].write_site for number in levels))
            run = Graphed.of(setting, [numbers.site], Marked(sites), start=min(map(entry_of, sites)))
            for some, slopes in run.slopes(numbers):
                for number in levels:
                    level, sources = setting.levels[number], drawn.sources[number]
                    found = parts_of(level, sources, slopes[level.write_site], keep=setting.keep, scale=scale)
                    put(drawn, number, numbers, some, found)
                done += len(some)
                tell(done)


def by_integration(drawn: Drawn, *, reach: str, scale: float, progress: Progress, cancel: Cancel) -> None:
    """The same with the mean slope along a straight way, from the run to one in which all the level's sources are scaled.

        weight(i -> j) = (1 - scale) sum over positions of mean_t (d a_j / d y)(y + t (scale - 1) sum_i a_i write_i) . a_i write_i

    t: the middles of 10 equal steps from 0 to 1. One way for all sources of a level, so that their weights sum to what taking
    all of them out together does to a_j, to the steps' own error (completeness); not each to its own a_j - a_j'. Sundararajan et
    al. (2017), arXiv:1703.01365; Marks et al. (2024), arXiv:2403.19647.
    """
    setting, jobs = drawn.setting, asked(drawn, reach, _activations(drawn.setting.model))
    total = STEPS * sum(len(numbers) * len(levels) for numbers, levels in jobs)
    with stage("Taking gradients", total, progress, cancel) as tell:
        done = 0
        for number, sources in drawn.sources.items():
            level, own = setting.levels[number], [numbers for numbers, levels in jobs if number in levels]
            if not own:
                continue
            whole = together(level, sources, setting, scale)
            sums = [torch.zeros(len(sources), len(numbers)) for numbers in own]
            for step in range(STEPS):
                moved = Removed(level.write_site, (step + 0.5) / STEPS * whole, level.id)
                run = Graphed.of(
                    setting,
                    [numbers.site for numbers in own],
                    Marked((level.write_site,)),
                    [moved],
                    start=entry_of(level.write_site),
                )
                for numbers, into in zip(own, sums, strict=True):
                    for some, slopes in run.slopes(numbers):
                        found = parts_of(level, sources, slopes[level.write_site], keep=setting.keep, scale=scale)
                        into[:, some.start : some.stop] += found.float().cpu() / STEPS
                        done += len(some)
                        tell(done)
            for numbers, into in zip(own, sums, strict=True):
                put(drawn, number, numbers, range(len(numbers)), into)


def together(level: Level, sources: Sequence[Source], setting: Setting, scale: float) -> Tensor:
    """What scaling all sources of a level at once changes, at every position that is kept."""
    indices = dict.fromkeys(source.index for source in sources)
    change = torch.zeros_like(level.error)
    for index in indices:
        change += removed(level, Source(index, None), keep=setting.keep, scale=scale).change
    return change


def _activations(model: Model) -> Encode:
    """The activations of some features, as their dictionary has them."""
    return lambda level, x, indices: level.dictionary.encode(x, model=model, indices=indices)


def asked(drawn: Drawn, reach: str, encode: Encode) -> list[tuple[Numbers, list[int]]]:
    """The numbers to be estimated, and the levels whose sources they are estimated for."""
    setting = drawn.setting
    levels = [number for number, sources in drawn.sources.items() if sources]
    jobs = []
    for target, level in enumerate(setting.levels):
        mine = [n for n in levels if any(t == target for t, _ in targets_of(setting, n, reach))]
        if mine and len(level.dictionary):
            jobs.append((of_level(setting, target, drawn.at, encode), mine))
    if drawn.tokens and levels:
        jobs.append((of_tokens(setting, drawn.tokens), levels))
    return [(numbers, mine) for numbers, mine in jobs if len(numbers)]


def put(drawn: Drawn, number: int, numbers: Numbers, some: range, found: Tensor) -> None:
    """Estimates of a level's sources, among the graph's edges or its effects on next tokens."""
    if numbers.target is None:
        drawn.add_tokens(number, some, found)
    else:
        drawn.add_some(number, numbers.target, numbers.keys[some.start : some.stop], found)
