"""The small dual of LRQP: the least move, in a covariance's own metric, that brings points where linear constraints hold.

Minimise (x - x0)^T Sigma^-1 (x - x0) subject to G x >= h. With M = G Sigma G^T and r = h - G x0, the dual has one variable a
constraint,

    lambda = argmin over lambda >= 0 of 1/2 lambda^T M lambda - r^T lambda,      x = x0 + Sigma G^T lambda,

so neither the inverse of Sigma nor a quadratic programme of d_model variables is needed. Everything is batched, in float64.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ENUMERATED = 6
TOLERANCE = 1e-8


def multipliers(
    M: Float[Tensor, "batch m m"], r: Float[Tensor, "batch m"]
) -> tuple[Float[Tensor, "batch m"], Bool[Tensor, "batch"]]:
    """lambda of each problem, and whether its conditions hold (they do not where no point satisfies the constraints).

    Up to six constraints every set of active ones is tried, which is exact, also where M is singular; beyond, block principal
    pivoting (Judice and Pires, 1994).
    """
    scale = M.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, 1)
    M, r = M / (scale[:, :, None] * scale[:, None, :]), r / scale
    lambdas = _enumerated(M, r) if r.shape[1] <= ENUMERATED else _pivoted(M, r)
    solved = violation(M, r, lambdas) <= TOLERANCE
    return lambdas.clamp_min(0) / scale, solved


def violation(M: Tensor, r: Tensor, lambdas: Tensor) -> Tensor:
    """How far a candidate is from lambda >= 0 and M lambda >= r, as a share of the problem's size."""
    slack = torch.einsum("...ij,...j->...i", M, lambdas) - r
    size = 1 + r.abs().amax(-1)
    worst = torch.maximum((-lambdas).amax(-1), (-slack).amax(-1)) / size
    return torch.where(lambdas.isfinite().all(-1), worst, torch.inf)


def _masked(M: Tensor, r: Tensor, active: Tensor) -> Tensor:
    """lambda where exactly these constraints hold with equality; infinite where they depend on each other."""
    both = active[..., :, None] & active[..., None, :]
    A = torch.where(both, M, torch.eye(M.shape[-1], dtype=M.dtype, device=M.device))
    lambdas, info = torch.linalg.solve_ex(A, torch.where(active, r, 0))
    return torch.where((info == 0)[..., None], lambdas, torch.inf)


def _enumerated(M: Tensor, r: Tensor) -> Tensor:
    m = r.shape[1]
    sets = torch.arange(2**m, device=r.device)[:, None] >> torch.arange(m, device=r.device) & 1 == 1
    each = sets.expand(len(r), -1, -1)
    tried = _masked(M[:, None].expand(-1, len(sets), -1, -1), r[:, None].expand(-1, len(sets), -1), each)
    worst = violation(M[:, None], r[:, None].expand(-1, len(sets), -1), tried)
    best = worst.argmin(1)
    lambdas = tried[torch.arange(len(r), device=r.device), best]
    return torch.where(lambdas.isfinite(), lambdas, 0)


def _pivoted(M: Tensor, r: Tensor) -> Tensor:
    m = r.shape[1]
    active = torch.zeros_like(r, dtype=torch.bool)
    fewest = torch.full((len(r),), m + 1, device=r.device)
    patience = torch.full_like(fewest, 3)
    lambdas = torch.zeros_like(r)
    for _ in range(20 * m):
        lambdas = _masked(M, r, active)
        slack = torch.einsum("bij,bj->bi", M, lambdas) - r
        wrong = torch.where(active, lambdas < -1e-12, slack < -1e-12)
        count = wrong.sum(1)
        if not count.any():
            break
        patience = torch.where(count < fewest, 3, patience - 1)
        fewest = torch.minimum(fewest, count)
        last = torch.zeros_like(wrong)
        last[:, :] = wrong & (wrong.flip(1).cumsum(1).flip(1) == 1)
        active = active ^ torch.where((patience >= 0)[:, None], wrong, last)
    return torch.where(lambdas.isfinite(), lambdas, 0)


def greatest(M: Float[Tensor, "m m"], odds: Float[Tensor, "m"]) -> float:
    """The greatest t that all of `odds + M w` can reach at once: log of the greatest alpha some activation has. Infinite if
    none."""
    import numpy as np
    from scipy.optimize import linprog

    m = len(odds)
    size = float(M.abs().max()) or 1.0
    lhs = np.hstack([-(M / size).cpu().numpy(), np.ones((m, 1))])
    solution = linprog(
        [0.0] * m + [-1.0], A_ub=lhs, b_ub=odds.cpu().numpy(), bounds=[(None, None)] * (m + 1), method="highs"
    )
    return float(-solution.fun) if solution.status == 0 else float("inf")
