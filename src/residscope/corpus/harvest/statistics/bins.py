"""Equal bins whose range grows by doubling: histograms that merge exactly without knowing the range beforehand.

Of a column with B bins on either side of zero, bin i holds i w <= x < (i + 1) w, i from -B to B - 1, w = 2^e / B, for the least e
with |x| < 2^e for all x so far. Doubling the range joins neighbours: i becomes floor(i / 2). So the bins at the end are those of
the final range, however the text was cut.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST = -60  # the exponent of a column that is zero so far


def exponents(x: Float[Tensor, "n column"]) -> Int[Tensor, " column"]:
    """The least e with |x| < 2^e, by column."""
    if not len(x):
        return torch.full((x.shape[1],), LEAST, dtype=torch.int32)
    largest = torch.maximum(x.amax(0), -x.amin(0)).double()
    return torch.frexp(largest).exponent.where(largest > 0, LEAST).clamp_min(LEAST).to(torch.int32)


def indices(x: Float[Tensor, "n column"], exponent: Int[Tensor, " column"], bins: int) -> Int[Tensor, "n column"]:
    """The bin of each entry, from 0 to 2 B - 1: B is the first that is not below zero. Exact: the widths are powers of two."""
    scaled = torch.ldexp(x, (bins.bit_length() - 1 - exponent).to(x.device))
    index = scaled.floor_().long()
    return index - ((x < 0) & (index == 0)).long() + bins  # what is too small to be divided is below zero still


def counted(index: Int[Tensor, "n column"], bins: int) -> Int[Tensor, "column bin"]:
    columns = index.shape[1]
    flat = index + torch.arange(columns, device=index.device) * (2 * bins)
    return torch.bincount(flat.reshape(-1), minlength=columns * 2 * bins).reshape(columns, 2 * bins).cpu()


def moved(bins: int, shift: Int[Tensor, " column"]) -> Int[Tensor, "column bin"]:
    """Where each bin goes when a column's range is doubled `shift` times."""
    return ((torch.arange(2 * bins) - bins)[None] >> shift.long().clamp_max(62)[:, None]) + bins


def coarsened(counts: Int[Tensor, "column bin"], shift: Int[Tensor, " column"]) -> Int[Tensor, "column bin"]:
    """The counts once each column's range has doubled `shift` times."""
    if not shift.any():
        return counts
    return torch.zeros_like(counts).scatter_add_(1, moved(counts.shape[1] // 2, shift), counts)


def edges(exponent: Int[Tensor, " column"], bins: int) -> Float[Tensor, "column edge"]:
    """The ends of the bins, lowest first."""
    ends = (torch.arange(-bins, bins + 1).double() / bins).expand(len(exponent), -1)
    return torch.ldexp(ends, exponent[:, None])
