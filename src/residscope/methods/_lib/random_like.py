"""Random directions to compare one with: drawn uniformly, from the data, or so that the data varies along them as along it."""

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.corpus.moments import Moments
from residscope.directions import Direction
from residscope.errors import ZeroDirection

TILTS = (-1.0, 4.0)  # beyond these a draw is one axis, over and over


def uniform(axis: Float[Tensor, "d"], n: int, *, seed: int) -> Float[Tensor, "n d"]:
    """n unit vectors at right angles to an axis, uniform among them."""
    drawn = torch.randn(n, len(axis), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _across(drawn, axis)


def of_data(axis: Float[Tensor, "d"], x: Float[Tensor, "token d"], n: int, *, seed: int) -> Float[Tensor, "n d"]:
    """n unit vectors at right angles to an axis, along draws from N(0, Sigma), Sigma the covariance of x:

    sum_t g_t (x_t - mean), g standard normal, without what lies along the axis
    """
    centred = x.double().cpu() - x.double().cpu().mean(0)
    drawn = torch.randn(n, len(x), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ centred
    return _across(drawn, axis)


def _across(drawn: Float[Tensor, "n d"], axis: Float[Tensor, "d"]) -> Float[Tensor, "n d"]:
    unit = axis.double().cpu() / axis.double().cpu().norm()
    drawn = drawn - torch.outer(drawn @ unit, unit)
    return drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-300)


def step_of(direction: Direction, moments: Moments) -> Float[Tensor, "d"]:
    """What one standard deviation of the coordinate is, as a move of x: sd(read . x) / (read . write) write.

    Raises:
        ZeroDirection: the data does not vary along it, or moving along write does not change what read reads.
    """
    read, write = direction.read.double().cpu(), direction.write.double().cpu()
    sd = float((read @ moments.covariance.cpu() @ read).clamp_min(0).sqrt())
    overlap = float(read @ write)
    if not sd > 0 or abs(overlap) <= 1e-6 * float(read.norm() * write.norm()):
        raise ZeroDirection(
            "a standard deviation along this direction is no move of the stream",
            received=f"sd {sd:.3g}, read . write {overlap:.3g}",
            allowed="a direction along which the text varies, and whose write moves its read",
        )
    return sd / overlap * write


def equal_variance(
    step: Float[Tensor, "d"], moments: Moments, n: int, *, seed: int
) -> tuple[Float[Tensor, "n d"], float]:
    """n unit vectors at right angles to a step, along which the data's expected variance is the step's squared length.

    Drawn as Sigma^(p/2) g, Sigma the covariance without the step's own axis, g standard normal; p solves

        tr Sigma^(p+1) / tr Sigma^p = |step|^2        (p = 0: uniform; p = 1: as the data)

    within -1 to 4. Where the data varies more along the step than along any other axis (the first component), p = 4 is as
    near as it gets. Returns the vectors and p.
    """
    axis = step.double().cpu() / step.double().norm().cpu()
    covariance = moments.covariance.cpu()
    along = covariance @ axis
    deflated = (
        covariance - torch.outer(along, axis) - torch.outer(axis, along) + (axis @ along) * torch.outer(axis, axis)
    )
    values, vectors = torch.linalg.eigh(deflated)
    positive = values > 1e-9 * values[-1]
    values, vectors = values[positive], vectors[:, positive]
    wanted, logs = 2 * float(step.double().norm().log()), values.log()

    def expected(p: float) -> float:
        return float(torch.logsumexp((p + 1) * logs, 0) - torch.logsumexp(p * logs, 0))

    low, high = TILTS
    for _ in range(60):  # the expected variance grows with p
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) < wanted else (low, middle)
    p = (low + high) / 2
    g = torch.randn(n, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scaled = (p / 2 * (logs - logs[-1])).exp()
    return _across((g * scaled) @ vectors.T, axis), p
