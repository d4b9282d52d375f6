"""Streaming mean and covariance, exact and mergeable (Chan, Golub and LeVeque, 1979)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class Moments:
    """Count, mean and scatter of the vectors seen so far, in float64. `merge` makes it the same on any number of machines."""

    count: int
    mean: Float[Tensor, "d"]
    scatter: Float[Tensor, "d d"]

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> "Moments":
        scatter = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0, scatter[0].clone(), scatter)

    def add(self, x: Float[Tensor, "n d"]) -> None:
        if len(x):
            x = x.double()
            mean = x.mean(0)
            self.merge(Moments(len(x), mean, (x - mean).T @ (x - mean)))

    def merge(self, other: "Moments") -> None:
        total = self.count + other.count
        if total == 0:
            return
        delta = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(delta, delta) * (self.count * other.count / total)
        self.mean += delta * (other.count / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        return self.scatter / max(self.count - 1, 1)

    @property
    def squares(self) -> Float[Tensor, "d d"]:
        """The sum of x x^T: the scatter about zero."""
        return self.scatter + self.count * torch.outer(self.mean, self.mean)
