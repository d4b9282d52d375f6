"""How well guesses foretell held-out values: the score of a blind test, and of several people's.

A description of a direction is a claim: who reads it should be able to say where the direction is high. Somebody who sees
contexts but not the values guesses each from the description alone; the score is the rank correlation (Spearman, 1904) of the
guesses with the values. It is unmoved by how anybody uses the slider, as long as higher means higher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from residscope.errors import NoOrder
from residscope.reports import Report
from residscope.views import Card

Numbers = Float[np.ndarray, "*draws n"]
MIDDLE_95 = (2.5, 97.5)
DRAWS = 2_000


@dataclass(frozen=True, eq=False)
class Score(Report):
    """rho: Spearman's correlation, from -1 to 1. interval: of the bootstrap over the n contexts, 95%. chance: where 95 of 100
    shuffles of the same guesses fall. auc: how often a context of the upper half was guessed above one of the lower; ties
    count half.
    """

    kind: ClassVar[str] = "report:score"
    rho: float
    interval: tuple[float, float]
    chance: tuple[float, float]
    auc: float
    n: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Card:
        ends = {"interval": self.interval, "chance": self.chance}
        ranges = {name: f"{low:.2f} to {high:.2f}" for name, (low, high) in ends.items()}
        return Card(
            "Guesses against values", {"Spearman's rho": self.rho, **ranges, "AUC": self.auc, "contexts": self.n}
        )


def score(guesses: Sequence[float], values: Sequence[float], *, seed: int = 0) -> Score:
    """Score guesses against values; the same guesses give the same score, bootstrap and all.

    Raises:
        NoOrder: the guesses, or the values, are all alike, so there is no order to compare.

    >>> score([1, 2, 3, 4], [10, 20, 40, 30]).rho
    0.8
    """
    x, y = np.asarray(guesses, float), np.asarray(values, float)
    if x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NoOrder("a finite guess for each value is needed", received=f"{len(x)} guesses, {len(y)} values")
    for what, numbers in (("guesses", x), ("values", y)):
        if len(numbers) < 2 or np.ptp(numbers) == 0:
            raise NoOrder(
                f"the {what} are all alike, so there is no order to compare",
                received=f"{numbers[0]:g} throughout" if len(numbers) else "none",
                fix="tell the contexts apart: at least one higher than another",
            )
    random = np.random.default_rng(seed)
    drawn = random.integers(len(x), size=(DRAWS, len(x)))
    shuffled = random.permuted(np.broadcast_to(x, (DRAWS, len(x))), axis=1)
    resampled = spearman(x[drawn], y[drawn])
    return Score(
        rho=round(float(spearman(x, y)), 6),
        interval=_middle(resampled),
        chance=_middle(spearman(shuffled, np.broadcast_to(y, shuffled.shape))),
        auc=auc(x, y),
        n=len(x),
    )


def spearman(x: Numbers, y: Numbers) -> Float[np.ndarray, "*draws"]:
    """Pearson's correlation of the ranks, ties at their mean rank; NaN where one side is all alike."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(-1) / np.where(size > 0, size, np.nan))


def auc(guesses: Numbers, values: Numbers) -> float:
    """P(a guess for the upper half > one for the lower half) + P(equal) / 2, halves by the median of the values."""
    middle = np.median(values)
    high = values > middle if (values > middle).any() else values >= middle
    upper, lower = guesses[high][:, None], guesses[~high][None, :]
    return float((upper > lower).mean() + (upper == lower).mean() / 2)


def over_people(scores: Sequence[tuple[float, tuple[float, float]]]) -> tuple[float, tuple[float, float]]:
    """The mean of several people's scores, and its 95% interval: mean -+ t s / sqrt(n), cut at -1 and 1; of one, their own.

    >>> over_people([(0.5, (0.1, 0.8))])
    (0.5, (0.1, 0.8))
    """
    from scipy.special import stdtrit

    rho = np.array([value for value, _ in scores])
    if len(rho) == 1:
        return float(rho[0]), scores[0][1]
    half = float(stdtrit(len(rho) - 1, 0.975) * rho.std(ddof=1) / np.sqrt(len(rho)))
    mean = float(rho.mean())
    return mean, (max(-1.0, mean - half), min(1.0, mean + half))


def _ranks(x: Numbers) -> Numbers:
    less = (x[..., None, :] < x[..., :, None]).sum(-1)
    equal = (x[..., None, :] == x[..., :, None]).sum(-1)
    return less + (equal + 1) / 2


def _middle(rho: Float[np.ndarray, "draws"]) -> tuple[float, float]:
    low, high = np.nanpercentile(rho, MIDDLE_95)
    return float(low), float(high)
