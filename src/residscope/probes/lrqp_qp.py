"""The seed's own route to LRQP: a quadratic programme of d_model variables for each prompt, by qpsolvers and OSQP.

Here to check the dual against, not to be fast. Needs `pip install residscope[qp]`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.errors import MissingExtra, Unreachable


def by_quadratic_programme(
    x0: Float[Tensor, "d"],
    G: Float[Tensor, "m d"],
    h: Float[Tensor, "m"],
    covariance: Float[Tensor, "d d"],
    *,
    solver: str = "osqp",
) -> Float[Tensor, "d"]:
    """argmin over x of (x - x0)^T Sigma^-1 (x - x0) subject to G x >= h, at tolerance 1e-8, polished.

    Raises:
        MissingExtra. Unreachable: the solver found no point.
    """
    try:
        import numpy as np
        import qpsolvers
        from scipy import sparse
    except ImportError as error:
        raise MissingExtra("the seed's own route needs qpsolvers and osqp", fix="pip install residscope[qp]") from error

    precision = torch.linalg.inv(covariance.double())
    P = sparse.csc_matrix((precision + precision.T).numpy())
    q = -2 * (precision @ x0.double()).numpy()
    options: dict[str, Any] = (
        {"eps_abs": 1e-8, "eps_rel": 1e-8, "polishing": True, "max_iter": 200_000, "raise_error": False}
        if solver == "osqp"
        else {}
    )
    x = qpsolvers.solve_qp(
        P,
        q,
        sparse.csc_matrix(-G.double().numpy()),
        -h.double().numpy(),
        solver=solver,
        initvals=x0.double().numpy(),
        **options,
    )
    if x is None or not np.isfinite(x).all():
        raise Unreachable("the solver found no point that satisfies the constraints", received=solver)
    return torch.from_numpy(np.asarray(x))
