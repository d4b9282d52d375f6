"""How well estimates agree with the exact values beside them: correlations, and the picture."""

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from residscope.views import Scatter

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


def beside(estimate: Float[Tensor, " edge"], exact: Float[Tensor, " edge"], by: str) -> Scatter | None:
    """Estimates against exact values where those were measured; None where none was."""
    known = ~torch.isnan(exact)
    if not bool(known.any()):
        return None
    found = correlations(estimate[known], exact[known])
    words = ", ".join(f"{name} {'unknown' if value is None else f'{value:.2f}'}" for name, value in found.items())
    return Scatter(
        estimate[known].tolist(), exact[known].tolist(), diagonal=True,
        title="Estimates beside what taking out gives", x_title=f"by {by}" if by else "estimate", y_title="exact",
        note=f"{int(known.sum())} edges of {len(exact):,}, the strongest and some drawn at random: {words}.",
    )  # fmt: skip
