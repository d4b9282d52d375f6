"""The audit of a screen: how many cells to draw, and what none of them being over a threshold says of the others."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CONFIDENCE = 0.95
_NEAR = 2  # cells whose evidence is near the threshold are drawn so many times as often


def most_over(sizes: Sequence[int], drawn: Sequence[int], *, confidence: float = CONFIDENCE) -> int:
    """How many of the cells may be over the threshold at most, when so many were drawn from each stratum and none was.

    The largest sum of K_s for which drawing none of them is not yet too unlikely,

        prod_s C(N_s - K_s, n_s) / C(N_s, n_s) > 1 - confidence,

    N_s the sizes and n_s the drawn. Hypergeometric, and exact for all strata together: whatever the true number, a larger
    one than is stated goes with a probability of at most 1 - confidence. Each factor falls faster the larger K_s is, so the
    sum is largest where each next cell is put into the stratum in which it costs least.

    >>> most_over([250], [52]), most_over([250], [250]), most_over([10, 240], [10, 50])
    (12, 0, 12)
    """
    K, left = [0] * len(sizes), math.log(1 - confidence)
    while True:
        costs = [
            (math.log1p(-n / (N - k)) if n < N - k else -math.inf, s)
            for s, (N, n, k) in enumerate(zip(sizes, drawn, K, strict=True))
            if k < N
        ]
        if not costs or left - max(costs)[0] >= 0:
            return sum(K)
        cost, stratum = max(costs)
        left -= cost
        K[stratum] += 1


def how_many(near: Sequence[bool], sizes: Sequence[int], *, least: float, miss: float) -> list[int]:
    """How many cells to draw of each stratum: the fewest after which at most a share `miss` of the others may be over.

    `near` says which strata have their evidence near the threshold. least: the share that is drawn in any case.
    """
    total = sum(sizes)
    for k in range(math.ceil(least * total), total + 1):
        rates = [k / max(total, 1) * (_NEAR if close else 1) for close in near]
        drawn = [min(N, math.ceil(rate * N)) for rate, N in zip(rates, sizes, strict=True)]
        if most_over(sizes, drawn) <= miss * (total - sum(drawn)):
            break
    return drawn


def strata(
    cells: Sequence[int], share: Float[Tensor, "cell"], near: float, between: Bool[Tensor, "cell"]
) -> dict[tuple[bool, bool], list[int]]:
    """Cells by whether their evidence is near the threshold, and whether it is of the cells beside them too."""
    by_stratum: dict[tuple[bool, bool], list[int]] = {}
    for i in cells:
        by_stratum.setdefault((bool(share[i] >= near), bool(between[i])), []).append(i)
    return by_stratum


def draw(parts: dict[tuple[bool, bool], list[int]], counts: Sequence[int], seed: int) -> list[int]:
    """So many cells of each stratum, at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for cells, n in zip(parts.values(), counts, strict=True):
        drawn += [cells[i] for i in torch.randperm(len(cells), generator=generator)[:n].tolist()]
    return sorted(drawn)
