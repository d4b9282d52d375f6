"""How an encoder's input is brought to one scale, and how that is undone."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

NORMALISE = ("none", "layer_norm", "constant_norm")
EPS = 1e-5  # of layer_norm, as SAELens and OpenAI's code have it


class Normalised(NamedTuple):
    """x brought to one scale; value * scale + shift is x again (but for `EPS`, which is not undone)."""

    value: Float[Tensor, "*batch d"]
    scale: Float[Tensor, "*batch 1"]
    shift: Float[Tensor, "*batch 1"]


def normalised(x: Float[Tensor, "*batch d"], how: str) -> Normalised:
    """x as an encoder reads it.

    x                                       none
    (x - mean(x)) / (sd(x) + 1e-5)          layer_norm: sd over d - 1, undone by x sd + mean
    x sqrt(d) / |x|                         constant_norm
    """
    one, zero = x.new_ones((*x.shape[:-1], 1)), x.new_zeros((*x.shape[:-1], 1))
    if how == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        sd = (x - mean).std(-1, keepdim=True)
        return Normalised((x - mean) / (sd + EPS), sd, mean)
    if how == "constant_norm":
        scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        return Normalised(x / scale.clamp_min(torch.finfo(x.dtype).tiny), scale, zero)
    return Normalised(x, one, zero)
