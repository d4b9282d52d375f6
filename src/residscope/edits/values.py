"""Edits that replace, multiply or disturb a value."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Unpack
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.edits.base import BaseEdit, Where, as_number, indices, prompt_of, require_number, require_whole
from residscope.edits.means import (
    check_positions,
    check_replacement,
    mean_over,
    refuse_open_data,
    replacement,
    require_mean,
)
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.errors import BadEdit
from residscope.model.sites import SiteTable, positions_axis


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(BaseEdit):
    """Replace by zero, by the mean over a data set, or by a given value. See `ablate`.

    averaged: once prepared, what the mean was taken of: `by`, the count of tokens, how many were left out and why.
    """

    to: str | Tensor = "zero"
    over: Any = field(default=None)
    by: str | None = None
    averaged: Mapping[str, Any] | None = None
    kind: ClassVar[str] = "ablate"

    def __post_init__(self) -> None:
        check_replacement(self.to, self.over, self.by, self.averaged)

    def prepare(self, model: Model) -> "Ablate":
        if not isinstance(self.to, str) or self.to != "mean":
            return self
        mean, averaged = mean_over(self, model)
        return replace(self, to=mean, over=None, averaged=averaged)

    def fits(self, table: SiteTable) -> None:
        require_mean(self, table)

    @property
    def replaces(self) -> bool:
        return self.everywhere

    def check_positions(self, length: int, positions: Sequence[int]) -> None:
        check_positions(self, length, positions)

    def change(self, value: Tensor, at: At) -> Tensor:
        return replacement(self, value, at)

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        refuse_open_data(self.over)
        return super().to_dict(tensors)


@dataclass(frozen=True, eq=False, repr=False)
class Scale(BaseEdit):
    """Multiply. See `scale`."""

    factor: float = 1.0
    kind: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        require_number(self.factor, "factor")

    @property
    def idle(self) -> str | None:
        return "it multiplies by one" if self.factor == 1 else None

    def change(self, value: Tensor, at: At) -> Tensor:
        return value * self.factor


@dataclass(frozen=True, eq=False, repr=False)
class Noise(BaseEdit):
    """Add Gaussian noise that depends on seed, site, prompt and position alone. See `noise`."""

    sigma: float = 0.0
    seed: int = 0
    kind: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        require_number(self.sigma, "sigma")
        require_whole(self.seed, "seed")
        if self.sigma < 0:
            raise BadEdit("sigma is a standard deviation", received=f"sigma={self.sigma}", allowed="0 or more")

    @property
    def idle(self) -> str | None:
        return "its noise has no size" if self.sigma == 0 else None

    def change(self, value: Tensor, at: At) -> Tensor:
        axis = positions_axis(at.site)
        length = at.offset + value.shape[axis]
        drawn = torch.stack([self._drawn(prompt_of(row, at), length, value, at) for row in range(len(value))])
        return value + self.sigma * drawn.narrow(axis, at.offset, value.shape[axis]).to(value)

    def _drawn(self, prompt: int, length: int, value: Tensor, at: At) -> Tensor:
        """One prompt's draws, position by position, so that what comes later does not change what came before."""
        stream = np.random.default_rng([self.seed, crc32(str(at.site).encode()), prompt])
        if "key" not in at.site.kind.axes:
            return torch.from_numpy(stream.standard_normal((length, *value.shape[2:])))
        query, key = torch.tril_indices(length, length)
        drawn = torch.zeros(value.shape[1], length, length, dtype=torch.float64)
        drawn[:, query, key] = torch.from_numpy(stream.standard_normal((len(query), value.shape[1]))).T
        return drawn


@edit(title="Ablate", glyph="✕")
def ablate(
    site: Annotated[str, fields.site(usual="z")],
    to: Annotated[str | Tensor, fields.choice("zero", "mean", "resample")] = "zero",
    *,
    over: Annotated[Any, fields.prompts(live=True, when=("to", ("mean", "resample")))] = None,
    by: Annotated[str | None, fields.choice("position", when=("to", ("mean",)))] = None,
    seed: Annotated[int, fields.seed(when=("to", ("resample",)))] = 0,
    **where: Unpack[Where],
) -> BaseEdit:
    """Replace a site's value: by zero, by the `"mean"` over data (`over=` prompts or a recording), or by a tensor.

    The mean is over all tokens of the data but position 0 and attention sinks; `by="position"`: at each position over the
    data's prompts, position 0 over their first tokens, and refused where the run has a position that the data lacks.

    `"resample"`: each prompt takes the value of another prompt of the data, drawn by `seed`; positions correspond from
    the end, so only prompts at least as long are drawn.

    >>> ablate("z.9", head=6)
    <ablate z.9 head 6>
    """
    if isinstance(to, str) and to == "resample":
        from residscope.edits.resample import Resample

        if by is not None:
            raise BadEdit("a resampled value is of one position", received=f"by={by!r}", allowed='by= with to="mean"')
        return Resample(str(site), over=over, seed=seed, **indices(where))
    return Ablate(str(site), to=to, over=over, by=by, **indices(where))


@edit(title="Scale", glyph="×")
def scale(
    site: Annotated[str, fields.site(usual="z")],
    factor: Annotated[float, fields.number(strength=True, slide=(-1, 3), step=0.05, unit="×")],
    **where: Unpack[Where],
) -> Scale:
    """Multiply a site's value by `factor`."""
    return Scale(str(site), factor=as_number(factor), **indices(where))


@edit(title="Add noise", glyph="≈")
def noise(
    site: Annotated[str, fields.site(usual="embed")],
    sigma: Annotated[float, fields.number(low=0, strength=True, slide=(0, 1), step=0.01)],
    seed: Annotated[int, fields.seed()] = 0,
    **where: Unpack[Where],
) -> Noise:
    """Add Gaussian noise of standard deviation `sigma`, as in causal tracing (Meng et al., 2022, arXiv:2202.05262).

    The draws belong to seed, site, prompt and position: a window or a sweep over the same prompts meets the same noise.
    """
    return Noise(str(site), sigma=as_number(sigma), seed=seed, **indices(where))
