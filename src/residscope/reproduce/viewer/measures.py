"""What a coordinate goes with: a position, one kind of words against another, the token. Each column of y is a direction."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ranks(y: Float[Tensor, "token *k"]) -> Float[Tensor, "token *k"]:
    """From 1, along the first axis; ties share their mean rank."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(y.double().numpy(), axis=0)).reshape(y.shape)


def spearman(y: Float[Tensor, "token k"], x: Float[Tensor, "token *k"]) -> Float[Tensor, "k"]:
    """Pearson's correlation of the ranks (Spearman, 1904), with one x or one for each column; 0 where something does not vary."""
    a, b = ranks(y), ranks(x)
    b = b if b.ndim == 2 else b[:, None]
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp_min(1e-300)


def auc(high: Float[Tensor, "a k"], low: Float[Tensor, "b k"]) -> Float[Tensor, "k"]:
    """The chance that one of the first reads higher than one of the second, ties counted half (Mann and Whitney, 1947).

    NaN where there is none of a kind.
    """
    n, m = len(high), len(low)
    if not n or not m:
        return torch.full((high.shape[1],), torch.nan, dtype=torch.float64)
    return (ranks(torch.cat([high, low]))[:n].sum(0) - n * (n + 1) / 2) / (n * m)


def percentile(y: Float[Tensor, "token k"], of: Bool[Tensor, "token"]) -> Float[Tensor, "k"]:
    """Where the median of some tokens stands among all, from 0 to 100; NaN where there are none."""
    if not of.any():
        return torch.full((y.shape[1],), torch.nan, dtype=torch.float64)
    return (100 * (ranks(y) - 0.5) / len(y))[of].quantile(0.5, dim=0)


def eta_squared(y: Float[Tensor, "token k"], ids: Int[Tensor, "token"]) -> Float[Tensor, "k"]:
    """The share of a coordinate's variance that lies between tokens, over those that occur twice or more.

    sum_t n_t (mean_t - mean)^2 / sum (y - mean)^2; 0 where it does not vary. By chance (tokens - 1) / (occurrences - 1).
    """
    _, index, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    twice = counts[index] > 1
    if not twice.any():
        return torch.zeros(y.shape[1], dtype=torch.float64)
    y = y[twice].double()
    y, index = y - y.mean(0), torch.unique(ids[twice], return_inverse=True)[1]
    n = index.bincount().double()[:, None]
    means = torch.zeros(len(n), y.shape[1], dtype=torch.float64).index_add_(0, index, y) / n
    return (n * means**2).sum(0) / (y**2).sum(0).clamp_min(1e-300)
