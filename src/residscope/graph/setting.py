"""What a causal graph is built from: one prompt's run with its dictionaries, and which of them are read for which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from residscope.directions import EncoderDictionary
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import LeastEdit
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import GraphError, NoFeatures, PoorFit
from residscope.graph.graph import Placed
from residscope.graph.nodes import Level, follows, levels_of, named, when
from residscope.model.prompts import Batch
from residscope.model.sites import rank
from residscope.progress import warn


@dataclass(frozen=True, eq=False)
class Setting:
    """One prompt's run with its dictionaries: everything that a graph is built from."""

    model: Model
    record: Recording
    levels: list[Level]
    keep: Bool[Tensor, " pos"]
    background: tuple[LeastEdit, ...]

    @classmethod
    def of(cls, model: Model, prompt: Prompt, dictionaries: Any, background: Sequence[LeastEdit] = ()) -> "Setting":
        """Raises GraphError: several prompts. NoFeatures. SiteError, WrongWidth: dictionaries of another model."""
        given = named(dictionaries)
        batch = model.batch(prompt)
        if len(batch) != 1:
            raise GraphError(
                "a causal graph is of one prompt", received=f"{len(batch)} prompts", fix="draw one for each"
            )
        sites = {model.sites.canonical(s) for _, d in given for s in (d.read_site, d.write_site)}
        stream = {*model.sites.expand("resid_pre"), *model.sites.expand("resid_post")}
        record = model.run(batch, capture=[*sites, *stream], edits=background)
        levels = levels_of(model, record, given)
        keep = (
            torch.stack([kept(record, s)[0] for level in levels for s in {level.read_site, level.write_site}])
            .all(0)
            .cpu()
        )
        if not any(level.active(keep) for level in levels):
            raise NoFeatures(
                "no feature is active at any token of the prompt but its first and its attention sinks",
                received=f"{int(keep.sum())} tokens, {len(levels)} dictionaries",
                fix="give a longer prompt, or dictionaries that fit: rs.sae.fit_check(dictionary, model)",
            )
        return cls(model, record, levels, keep, tuple(background))

    @property
    def batch(self) -> Batch:
        return self.record.batch

    @property
    def last(self) -> int:
        return self.batch.lengths[0] - 1

    def said(self) -> list[str]:
        """What a reader of the graph should know: dictionaries that do not fit (as a `PoorFit` warning too), blocks between."""
        misfits = [level.id for level in self.levels if _misfit(level, self)]
        found = []
        if misfits:
            found.append(
                f"{', '.join(misfits)} would describe this run better without their features: they do not fit here; "
                "rs.sae.fit_check(dictionary, model) says where they do"
            )
            warn(found[0], PoorFit, stacklevel=3)
        layers = [rank(level.read_site, self.model.n_layers) for level in self.levels]
        gaps = [
            f"{one.id} and {two.id} ({b - a - 1})"
            for one, two, a, b in zip(self.levels, self.levels[1:], layers, layers[1:], strict=False)
            if b - a > 1
        ]
        if gaps:
            found.append(f"no dictionary stands between {', '.join(gaps)}: edges across are of all the blocks between")
        return found

    def placed(self) -> tuple[Placed, ...]:
        made = []
        for level in self.levels:
            y = self.record[level.write_site][0].reshape(level.error.shape)[self.keep]
            spread = (y - y.mean(0)).square().sum()
            share = float(level.error[self.keep].square().sum() / spread) if spread else float("nan")
            active = len(level.active(self.keep))
            d = level.dictionary
            made.append(Placed(level.id, d.hash, str(level.read_site), str(level.write_site), len(d), active, share))
        return tuple(made)


def _misfit(level: Level, setting: Setting) -> bool:
    """Whether an encoder's features leave more of what it writes over than its base alone: |y - y'|^2 > |y - base|^2."""
    d = level.dictionary
    if not isinstance(d, EncoderDictionary) or not len(d):
        return False
    y = setting.record[level.write_site][0].reshape(level.error.shape)[setting.keep]
    return bool(level.error[setting.keep].square().sum() > (y - d.base.to(y)).square().sum())


def targets_of(setting: Setting, number: int, reach: str) -> list[tuple[int, Level]]:
    """The levels that are read for what a level writes: all that follow, or those that are read first."""
    model, source = setting.model, setting.levels[number]
    read = [(i, level) for i, level in enumerate(setting.levels) if len(level.dictionary)]
    after = [(i, level) for i, level in read if follows(source, level, model)]
    if reach == "later" or not after:
        return after
    first = min(when(level.read_site, model) for _, level in after)
    return [(i, level) for i, level in after if when(level.read_site, model) == first]
