"""How well estimates agree with the exact values beside them."""

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

FEWEST = 3


def correlations(estimate: Float[Tensor, " some"], exact: Float[Tensor, " some"]) -> dict[str, float | None]:
    """Pearson's of the values and Spearman's of their ranks; None where there are too few, or all are alike."""
    a, b = (pandas.Series(x.double().numpy()) for x in (estimate, exact))
    found = {"pearson": (a, b), "spearman": (a.rank(), b.rank())}
    return {name: _correlation(x, y) for name, (x, y) in found.items()}


def _correlation(a: pandas.Series, b: pandas.Series) -> float | None:
    if len(a) < FEWEST or a.nunique() < 2 or b.nunique() < 2:
        return None
    return float(a.corr(b))


def drawn(effect: Float[Tensor, "cell prompt"], n: int, seed: int) -> list[int]:
    """The cells to measure exactly: first those of the largest mean |estimate|, half of them, then others drawn at random."""
    order = effect.abs().mean(1).argsort(descending=True, stable=True)
    n = min(n, len(order))
    strongest = (n + 1) // 2
    rest = order[strongest:]
    some = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: n - strongest]
    return [*order[:strongest].tolist(), *rest[some].tolist()]
