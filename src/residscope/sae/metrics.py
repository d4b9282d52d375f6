"""How well a dictionary gives its vectors back, from sums that are added up a batch at a time.

Sums of several parts of a text, read apart, are joined by `merge` to the same numbers.
"""

from dataclasses import dataclass, field, fields
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.errors import WrongWidth

LOWEST = -7  # the least power of ten of a density that the histogram tells apart


@dataclass(eq=False)
class Fidelity:
    """Sums over tokens of a reconstruction y' of y by activations a [token, n]; every measure is made of them.

        FVU        = sum |y - y'|^2 / sum |y - mean y|^2          0 is perfect, 1 is no better than the mean
        L0         = mean over tokens of the number of features active
        cosine     = mean over tokens of y . y' / (|y| |y'|)
        shrinkage  = mean over tokens of |y'| / |y|               1 where lengths are kept
        slope      = sum (y - mean y).(y' - mean y') / sum |y' - mean y'|^2     of regressing y on y'; over 1: too small
        density    = share of tokens at which a feature is active
        dead       = share of features that are active at none

    Sums are kept in double precision.
    """

    tokens: int
    squares: float = 0.0  # of y
    errors: float = 0.0
    given: float = 0.0  # squares of y'
    products: float = 0.0  # of y and y'
    cosines: float = 0.0
    lengths: float = 0.0  # of |y'| / |y|
    total: Tensor = field(default_factory=lambda: torch.zeros(0))  # of y
    total_given: Tensor = field(default_factory=lambda: torch.zeros(0))  # of y'
    fired: Tensor = field(default_factory=lambda: torch.zeros(0))  # tokens at which each feature is active
    mass: Tensor = field(default_factory=lambda: torch.zeros(0))  # sum of each feature's activations

    @classmethod
    def empty(cls, features: int, width: int) -> Self:
        zeros = {"dtype": torch.float64}
        return cls(
            0, total=torch.zeros(width, **zeros), total_given=torch.zeros(width, **zeros),  # type: ignore[call-overload]
            fired=torch.zeros(features, **zeros), mass=torch.zeros(features, **zeros),  # type: ignore[call-overload]
        )  # fmt: skip

    def add(
        self, y: Float[Tensor, "token d"], given: Float[Tensor, "token d"], activations: Float[Tensor, "token n"]
    ) -> None:
        """A batch's vectors, their reconstruction and its activations. Raises WrongWidth."""
        if y.shape != given.shape or y.shape[1] != len(self.total) or activations.shape[1] != len(self.fired):
            raise WrongWidth(
                "these are of another dictionary", received=f"{tuple(y.shape)}, {tuple(given.shape)}, {tuple(activations.shape)}",
                allowed=f"(token, {len(self.total)}) twice, (token, {len(self.fired)})",
            )  # fmt: skip
        y, given = y.detach().double().cpu(), given.detach().double().cpu()
        own, other = y.square().sum(1), given.square().sum(1)
        dots = (y * given).sum(1)
        self.tokens += len(y)
        self.squares += float(own.sum())
        self.given += float(other.sum())
        self.products += float(dots.sum())
        self.errors += float((y - given).square().sum())
        self.cosines += float((dots / (own * other).sqrt().clamp_min(1e-300)).sum())
        self.lengths += float((other / own.clamp_min(1e-300)).sqrt().sum())
        self.total += y.sum(0)
        self.total_given += given.sum(0)
        active = activations.detach()
        self.fired += (active > 0).sum(0).cpu()
        self.mass += active.clamp_min(0).double().sum(0).cpu()

    def merge(self, other: "Fidelity") -> None:
        """Add what was read of another part of a text. Raises WrongWidth."""
        if self.total.shape != other.total.shape or self.fired.shape != other.fired.shape:
            raise WrongWidth("sums of another dictionary cannot be joined", received=str(tuple(other.fired.shape)))
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    # ── measures ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def fvu(self) -> float:
        spread = self.squares - float(self.total @ self.total) / max(self.tokens, 1)
        return ratio(self.errors, spread)

    @property
    def l0(self) -> float:
        return ratio(float(self.fired.sum()), self.tokens)

    @property
    def dead(self) -> float:
        return float((self.fired == 0).double().mean())

    @property
    def cosine(self) -> float:
        return ratio(self.cosines, self.tokens)

    @property
    def shrinkage(self) -> float:
        return ratio(self.lengths, self.tokens)

    @property
    def slope(self) -> float:
        n = max(self.tokens, 1)
        together = self.products - float(self.total @ self.total_given) / n
        return ratio(together, self.given - float(self.total_given @ self.total_given) / n)

    @property
    def density(self) -> Float[Tensor, " n"]:
        """The share of tokens at which each feature is active."""
        return self.fired / max(self.tokens, 1)

    @property
    def strength(self) -> Float[Tensor, " n"]:
        """Each feature's mean activation where it is active; 0 where it is at no token."""
        return self.mass / self.fired.clamp_min(1)

    def histogram(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """How many features have a density between each power of ten and the next half, from 10^-7 to 1; the dead are in none."""
        edges = torch.arange(2 * LOWEST, 1, dtype=torch.float64) / 2
        alive = self.density[self.fired > 0].log10().clamp(LOWEST, -1e-12)
        at = torch.bucketize(alive, edges, right=True) - 1
        counts = torch.bincount(at, minlength=len(edges) - 1)
        return tuple(edges.tolist()), tuple(counts.tolist())


@dataclass(frozen=True)
class Spliced:
    """The model's mean loss over tokens: as it is, with y' in the place of y, and with the baseline there.

        recovered = (baseline - spliced) / (baseline - clean)     1: y' changes nothing, 0: it is no better than the baseline

    baseline: "zero" or "mean", what stands in the vector's place.
    """

    clean: float
    spliced: float
    zero: float
    mean: float
    tokens: int

    @property
    def change(self) -> float:
        """In nats a token."""
        return self.spliced - self.clean

    def recovered(self, baseline: str = "zero") -> float:
        worst = {"zero": self.zero, "mean": self.mean}[baseline]
        return ratio(worst - self.spliced, worst - self.clean)


def ratio(a: float, b: float) -> float:
    """a / b; NaN where b is 0 or less."""
    return a / b if b > 0 else float("nan")
