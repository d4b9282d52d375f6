"""How well estimates agree with the exact values beside them: the picture."""

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.methods._lib.agreement import correlations
from residscope.views import Scatter


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
