"""Intervals and p-values: how sure a share, a mean or a rank is."""

from math import sqrt
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor


def wilson(k: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share k / n (Wilson, 1927): never outside 0 to 1, and not empty where k is 0 or n.

        (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)

    >>> low, high = wilson(95, 100)
    >>> round(low, 3), round(high, 3)
    (0.888, 0.978)
    """
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf(0.5 + level / 2), k / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return (0.0 if k == 0 else low), (1.0 if k == n else high)


def bootstrap(
    values: Float[Tensor, "prompt *rest"], *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """The percentile interval of the mean over the first axis, by resampling it with replacement (Efron, 1979).

    >>> low, high = bootstrap(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> bool(low < 2.5 < high)
    True
    """
    flat = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    drawn = torch.randint(len(flat), (resamples, len(flat)), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(resamples, len(flat), dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones_like(drawn).double()
    )
    means = counts @ flat.cpu() / len(flat)
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = torch.quantile(means, ends, dim=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def by_rank(observed: float, null: Float[Tensor, "draw"]) -> float:
    """The share of the null, with the observed in it, that is at least as high: (1 + #{null >= observed}) / (1 + n).

    >>> by_rank(3.0, torch.tensor([1.0, 2.0, 4.0]))
    0.5
    """
    return (1 + int((null >= observed).sum())) / (1 + len(null))


def middle(
    x: Float[Tensor, "*rest draw"], *, level: float = 0.95
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """The ends of the range that holds the middle `level` of the draws.

    >>> low, high = middle(torch.arange(101.0), level=0.5)
    >>> float(low), float(high)
    (25.0, 75.0)
    """
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = torch.quantile(x.double().cpu(), ends, dim=-1)
    return low, high
