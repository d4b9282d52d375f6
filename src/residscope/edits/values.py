"""Edits that replace, multiply or disturb a value."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from residscope.edits.base import BaseEdit, Index, as_number, indices, number, positions_axis, prompt_of, whole
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, WrongWidth


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(BaseEdit):
    """Replace by zero, by the mean over a data set, or by a given value. See `ablate`."""

    to: str | Tensor = "zero"
    over: Any = field(default=None)
    kind: ClassVar[str] = "ablate"

    def __post_init__(self) -> None:
        check_replacement(self.to, self.over)

    def prepare(self, model: Model) -> "Ablate":
        if not isinstance(self.to, str) or self.to != "mean":
            return self
        return replace(self, to=mean_over(self, model), over=None)

    def change(self, value: Tensor, at: At) -> Tensor:
        return replacement(self.to, value, at)

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        refuse_open_data(self.over)
        return super().to_dict(tensors)


@dataclass(frozen=True, eq=False, repr=False)
class Scale(BaseEdit):
    """Multiply. See `scale`."""

    factor: float = 1.0
    kind: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        number(self.factor, "factor")

    def change(self, value: Tensor, at: At) -> Tensor:
        return value * self.factor


@dataclass(frozen=True, eq=False, repr=False)
class Noise(BaseEdit):
    """Add Gaussian noise that depends on seed, site, prompt and position alone. See `noise`."""

    sigma: float = 0.0
    seed: int = 0
    kind: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        number(self.sigma, "sigma")
        whole(self.seed, "seed")
        if self.sigma < 0:
            raise BadEdit("sigma is a standard deviation", received=f"sigma={self.sigma}", allowed="0 or more")

    def change(self, value: Tensor, at: At) -> Tensor:
        axis = positions_axis(at)
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


def ablate(site: str, to: str | Tensor = "zero", *, over: Any = None, seed: int = 0, **where: Index) -> BaseEdit:
    """Replace a site's value: by zero, by the `"mean"` over data (`over=` prompts or a recording), or by a tensor.

    `"resample"`: each prompt takes the value of another prompt of the data, drawn by `seed`; positions correspond from
    the end, so only prompts at least as long are drawn.

    >>> ablate("z.9", head=6)
    <ablate z.9 head 6>
    """
    if isinstance(to, str) and to == "resample":
        from residscope.edits.resample import Resample

        return Resample(str(site), over=over, seed=seed, **indices(where))
    return Ablate(str(site), to=to, over=over, **indices(where))


def scale(site: str, factor: float, **where: Index) -> Scale:
    """Multiply a site's value by `factor`."""
    return Scale(str(site), factor=as_number(factor, "factor"), **indices(where))


def noise(site: str, sigma: float, seed: int = 0, **where: Index) -> Noise:
    """Add Gaussian noise of standard deviation `sigma`, as in causal tracing (Meng et al., 2022, arXiv:2202.05262).

    The draws belong to seed, site, prompt and position: a window or a sweep over the same prompts meets the same noise.
    """
    return Noise(str(site), sigma=as_number(sigma, "sigma"), seed=seed, **indices(where))


# ── what replaces a value, here and in isolate ──────────────────────────────────────────────────────────────────


def check_replacement(to: Any, over: Any) -> None:
    if isinstance(to, str) and to not in ("zero", "mean"):
        raise BadEdit(
            "no such replacement", received=f"to={to!r}", allowed='"zero", "mean" or a tensor; ablate also "resample"'
        )
    if not isinstance(to, str | Tensor):
        raise BadEdit("no such replacement", received=f"to={to!r}"[:80], allowed='"zero", "mean" or a tensor')
    if isinstance(to, str) and to == "mean" and over is None:
        raise BadEdit("the mean needs its data", received="over=None", fix="say over=texts, prompts or a recording")


def replacement(to: str | Tensor, value: Tensor, at: At) -> Tensor:
    if isinstance(to, str):
        return torch.zeros_like(value)
    try:
        return to.to(value).expand_as(value)
    except RuntimeError:
        raise WrongWidth(
            f"the value does not fit {at.site}",
            received=str(tuple(to.shape)),
            allowed=f"broadcastable to {tuple(value.shape)}",
        ) from None


def mean_over(edit: Any, model: Model) -> Tensor:
    """The mean of the edit's one site over all tokens of its data."""
    sites = edit.places(model.sites)
    if len(sites) != 1 or sites[0].name in ("scores", "pattern", "logits"):
        raise BadEdit(
            "the mean is taken at one site with positions", received=edit.site, allowed="such as z.9 or mlp_out.3"
        )
    data = edit.over if isinstance(edit.over, Recording) else model.run(edit.over, capture=[sites[0]])
    return data[sites[0]][data.batch.real[:, data.offset :]].mean(0)


def refuse_open_data(over: Any) -> None:
    if over is not None:
        raise BadEdit("what is taken over data is serialised once it is computed", fix="edit.prepare(model).to_dict()")
