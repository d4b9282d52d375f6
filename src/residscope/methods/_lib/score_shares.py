"""Attention scores as a sum of what the offset says, what the key says, and what is of the pair: a regression on all pairs."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PARTS = ("offset", "place", "key", "pair")
_LEAST = 1e-9  # eigenvalues under this part of the largest are none


@dataclass
class ScoreShares:
    """The variance of scores around each query's mean, shared out over prompts that are added one by one.

        s(q, k) = a(q) + f(q - k) + p(k) + g(key) + rest        by least squares, in this order

    a: one number for each query, since a softmax knows no constant. f: one for each offset, p: one for each place of a key, both
    the same in all prompts; g: one for each key of each prompt, whatever it holds. Each takes what those before it leave over.

    offsets: how many there are, and places; prompts: how many there will be; with one, p is left out, which g has in it. draws:
    of the control with the keys of each query shuffled. The control of p has the places of each prompt shuffled instead, since
    of n prompts the mean of what their keys hold at a place is not nothing.
    """

    offsets: int
    prompts: int
    scores: int
    draws: int
    generator: torch.Generator
    added: int = 0
    gram: Tensor = field(init=False)
    along: Tensor = field(init=False)
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        width = self.offsets * (3 + self.prompts)
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.along = torch.zeros(1 + self.draws, width, self.scores, dtype=torch.float64)
        self.total = torch.zeros(self.scores, dtype=torch.float64)

    def add(self, scores: Float[Tensor, "score query key"], pairs: Bool[Tensor, "query key"]) -> None:
        """One prompt's: those pairs that count."""
        query, key = pairs.nonzero().unbind(1)
        y = centred(scores[:, query, key].double().T, query)
        X = centred(self._design(query, key), query)
        self.gram += X.T @ X
        self.along[0] += X.T @ y
        for draw in range(self.draws):
            self.along[1 + draw] += X.T @ y[shuffled(query, self.generator)]
        self.total += y.square().sum(0)
        self.added += 1

    def _design(self, query: Int[Tensor, " pair"], key: Int[Tensor, " pair"]) -> Float[Tensor, "pair column"]:
        X, rows, n = (
            torch.zeros(len(query), len(self.gram), dtype=torch.float64),
            torch.arange(len(query)),
            self.offsets,
        )
        elsewhere = torch.randperm(n, generator=self.generator)
        for column in (query - key, n + key, 2 * n + elsewhere[key], (3 + self.added) * n + key):
            X[rows, column] = 1
        return X

    def shares(self) -> tuple[Float[Tensor, "part score"], Float[Tensor, "part score"], Float[Tensor, " score"]]:
        """Of each part the share; by chance the share; and of the offset what no place and no key could explain as well.

        NaN where a score is the same for all keys of each query.
        """
        n = self.offsets
        offset, place, false, keys = torch.split(torch.arange(len(self.gram)), [n, n, n, n * self.prompts])
        if self.prompts == 1:
            place, false = place[:0], false[:0]
        steps = [offset, torch.cat([offset, place]), torch.cat([offset, place, keys])]
        upto = torch.stack([self._explained(columns) for columns in steps])  # [part draw score]
        total = torch.where(self.total > 1e-20, self.total, torch.nan)
        found = torch.cat([torch.diff(upto, dim=0, prepend=torch.zeros_like(upto[:1])), total - upto[-1:]]) / total
        chance = found[:, 1:].mean(1)
        chance[1] = (self._explained(torch.cat([offset, false]))[0] - upto[0, 0]) / total
        alone = (upto[-1, 0] - self._explained(torch.cat([place, keys]))[0]) / total
        return found[:, 0].clamp(0, 1), chance.clamp(0, 1), alone.clamp(0, 1)

    def _explained(self, columns: Int[Tensor, " some"]) -> Float[Tensor, "draw score"]:
        values, vectors = torch.linalg.eigh(self.gram[columns][:, columns])
        use = values > _LEAST * values.amax()
        turned = torch.einsum("ce,dcs->des", vectors[:, use], self.along[:, columns])
        return (turned.square() / values[use, None]).sum(1)


def centred(x: Float[Tensor, "token *rest"], query: Int[Tensor, " pair"]) -> Float[Tensor, "token *rest"]:
    """Less the mean over each query's pairs."""
    sums = torch.zeros(int(query.max()) + 1, *x.shape[1:], dtype=x.dtype).index_add_(0, query, x)
    counts = torch.bincount(query, minlength=len(sums)).clamp_min(1).to(x)
    return x - (sums / counts.reshape(-1, *[1] * (x.ndim - 1)))[query]


def shuffled(query: Int[Tensor, " pair"], generator: torch.Generator) -> Int[Tensor, " pair"]:
    """The pairs in another order, each query's among themselves; queries come in order."""
    noise = torch.rand(len(query), generator=generator, dtype=torch.float64)
    return (query + noise).argsort()
