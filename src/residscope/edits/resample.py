"""Resampling: each prompt takes the value of another prompt of a data set, drawn by seed."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from residscope.edits.base import prompt_of, require_whole
from residscope.edits.means import refuse_open_data
from residscope.edits.sources import Held, check_source
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, CannotAlign
from residscope.model.sites import Site, positions_axis


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Held):
    """Each prompt takes another prompt's value, drawn by seed. See `ablate`."""

    over: Any = field(default=None)
    seed: int = 0
    source: Any = None
    ids: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    kind: ClassVar[str] = "resample"

    def __post_init__(self) -> None:
        require_whole(self.seed, "seed")
        if self.over is None and (self.source is None or not isinstance(self.ids, Tensor) or not self.lengths):
            raise BadEdit(
                "resampling needs its data", received="over=None", fix="say over=texts, prompts or a recording"
            )

    @property
    def replaces(self) -> bool:
        return self.everywhere

    def prepare(self, model: Model) -> "Resample":
        sites = self.places(model.sites)
        if self.over is None:
            check_source(self.source, sites)
            return self
        data = self.over if isinstance(self.over, Recording) else model.run(self.over, capture=sites)
        if data.offset:
            raise BadEdit("the data is a window over later positions", fix="record the whole prompts")
        source = {str(site): data[site] for site in sites}
        return replace(self, over=None, source=source, ids=data.tokens, lengths=data.lengths)

    def change(self, value: Tensor, at: At) -> Tensor:
        recorded: Tensor = self.source[str(at.site)]
        axis, new = positions_axis(at.site), value.clone()
        for row, length in enumerate(at.batch.lengths):
            if length > at.offset:
                drawn, n = self._drawn(prompt_of(row, at), at.batch.ids[row, :length], at)
                own = recorded[drawn].narrow(axis - 1, n - length + at.offset, length - at.offset)
                width = n if "key" in at.site.kind.axes else value.shape[-1]
                new[row].narrow(axis - 1, 0, length - at.offset)[..., :width].copy_(own[..., :width])
        return new

    def _drawn(self, prompt: int, ids: Tensor, at: At) -> tuple[int, int]:
        """The row of the data for a prompt, and its length: at least as long, and not the prompt itself."""
        assert self.lengths is not None
        assert self.ids is not None
        square, fitting = "key" in at.site.kind.axes, []
        for i, n in enumerate(self.lengths):
            itself = n == len(ids) and torch.equal(self.ids[i, :n], ids.to(self.ids.device))
            if not itself and (n == len(ids) if square else n >= len(ids)):
                fitting.append(i)
        if not fitting:
            raise CannotAlign(
                "no other prompt of the data is long enough to draw from",
                received=f"a prompt of {len(ids)} tokens; data of {min(self.lengths)} to {max(self.lengths)}",
                allowed=f"other prompts of {'exactly' if square else 'at least'} {len(ids)} tokens",
            )
        row = fitting[int(np.random.default_rng([self.seed, prompt]).integers(len(fitting)))]
        return row, self.lengths[row]

    def same(self, later: Held, site: Site) -> bool:
        if not isinstance(later, Resample) or later.seed != self.seed or later.lengths != self.lengths:
            return False
        mine, theirs = (edit.source[str(site)] for edit in (self, later))
        return mine.shape == theirs.shape and torch.equal(mine, theirs.to(mine.device))

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        refuse_open_data(self.over)
        return super().to_dict(tensors)
