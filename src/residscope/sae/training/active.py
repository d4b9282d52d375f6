"""Sparse activations as a list of entries: what a decoder, its gradients and an encoder's weight gradient are made of.

Of a batch of B tokens and F features only the encoder's forward is a dense product; everything else is a sum over the
entries (token, feature) that are active, k of F at a token.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

DENSE = 1 / 8  # of all entries: from there on dense products are cheaper


@runtime_checkable
class Entries(Protocol):
    """Values a[b, f] of a batch at some entries, `bags` sums a token (1, or one for each Matryoshka prefix)."""

    @property
    def values(self) -> Tensor: ...

    def decode(self, values: Tensor, vectors: Float[Tensor, "F d"]) -> Float[Tensor, "bag d"]:
        """sum over f of values[b, f] vectors[f]"""
        ...

    def dots(self, rows: Float[Tensor, "bag d"], vectors: Float[Tensor, "F d"]) -> Tensor:
        """rows[b] . vectors[f], at each entry"""
        ...

    def spread(self, values: Tensor, rows: Float[Tensor, "any d"], *, tokens: bool = False) -> Float[Tensor, "F d"]:
        """sum over b of values[b, f] rows[b]; tokens: rows are one a token, not one a bag"""
        ...

    def sums(self, values: Tensor) -> Float[Tensor, " F"]:
        """sum over b of values[b, f]"""
        ...


@dataclass(frozen=True, eq=False)
class Sparse:
    """Entries in order of their tokens. features[i] and token[i] say whose values[i] is; starts[b] where bag b begins."""

    values: Float[Tensor, " m"]
    features: Int[Tensor, " m"]
    bag: Int[Tensor, " m"]
    starts: Int[Tensor, " bags"]
    n_features: int
    groups: int = 1

    @classmethod
    def at(
        cls, flat: Int[Tensor, " m"], values: Float[Tensor, " m"], tokens: int, n: int, ends: tuple[int, ...] = ()
    ) -> "Sparse":
        """Entries at the flat indices token * n + feature, ascending. ends: where Matryoshka's groups of features end."""
        token = torch.div(flat, n, rounding_mode="floor")
        feature = flat - token * n
        groups = max(1, len(ends))
        bag = token
        if groups > 1:
            inner = torch.tensor(ends[:-1], device=flat.device)
            bag = token * groups + torch.bucketize(feature, inner, right=True)
        counts = torch.bincount(bag, minlength=tokens * groups)
        return cls(values, feature.int(), bag.int(), starts_of(counts), n, groups)

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Int[Tensor, " F"]]:
        """The entries in order of their features: which they are, their bags, and where each feature's begin."""
        order = self.features.sort(stable=True).indices
        counts = torch.bincount(self.features, minlength=self.n_features)
        return order, self.bag.index_select(0, order), starts_of(counts)

    def decode(self, values: Tensor, vectors: Tensor) -> Tensor:
        return bags_of(vectors, self.features, self.starts, values)

    def dots(self, rows: Tensor, vectors: Tensor) -> Tensor:
        if not len(self.features):
            return rows.new_zeros(0)
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            rows, vectors, self.features, self.starts, self.bag, 0, -1
        )

    def spread(self, values: Tensor, rows: Tensor, *, tokens: bool = False) -> Tensor:
        order, bag, starts = self.by_feature
        at = torch.div(bag, self.groups, rounding_mode="floor") if tokens and self.groups > 1 else bag
        return bags_of(rows, at, starts, values.index_select(0, order))

    def sums(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.n_features).index_add_(0, self.features, values)


@dataclass(frozen=True, eq=False)
class Dense:
    """Every entry, active or not: a matrix of values and a mask of those that count."""

    values: Float[Tensor, "token F"]
    mask: Bool[Tensor, "token F"]

    def decode(self, values: Tensor, vectors: Tensor) -> Tensor:
        return values @ vectors

    def dots(self, rows: Tensor, vectors: Tensor) -> Tensor:
        return (rows @ vectors.T) * self.mask

    def spread(self, values: Tensor, rows: Tensor, *, tokens: bool = False) -> Tensor:
        return values.T @ rows

    def sums(self, values: Tensor) -> Tensor:
        return values.sum(0)


def bags_of(vectors: Tensor, which: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """sum over i in bag of weights[i] vectors[which[i]], bag by bag."""
    return embedding_bag(which, vectors, starts, mode="sum", per_sample_weights=weights)


def starts_of(counts: Tensor) -> Tensor:
    return (counts.cumsum(0) - counts).int()


def true_at(mask: Bool[Tensor, "*any"]) -> Int[Tensor, " m"]:
    """The flat indices at which a mask is true, ascending: numpy's search is several times torch's on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]
