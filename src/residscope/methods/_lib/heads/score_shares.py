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
    of the control with the keys of each query shuffled. The control of p changes its sign from prompt to prompt: what the mean of
    a few prompts' keys explains by chance stays, and what is the same in all of them goes.
    """

    offsets: int
    prompts: int
    scores: int
    draws: int
    generator: torch.Generator
    added: int = 0
    common: "Sums" = field(init=False)
    left: "Sums" = field(init=False)
    keys: Tensor = field(init=False)
    total: Tensor = field(init=False)

    def __post_init__(self) -> None:
        n, some = self.offsets, (1 + self.draws, self.scores)
        self.common = Sums(3 * n, some)  # of offsets, places, and places with alternating sign
        self.left = Sums(2 * n, some)  # of offsets and places, what the keys leave over of them
        self.keys = torch.zeros(some, dtype=torch.float64)
        self.total = torch.zeros(self.scores, dtype=torch.float64)

    def add(self, scores: Float[Tensor, "score query key"], pairs: Bool[Tensor, "query key"]) -> None:
        """One prompt's: those pairs that count."""
        query, key = pairs.nonzero().unbind(1)
        y = centred(scores[:, query, key].double().T, query)
        ys = torch.stack([y, *(y[shuffled(query, self.generator)] for _ in range(self.draws))])
        n = self.offsets
        X = centred(_indicators(4 * n, query - key, n + key, 2 * n + key, 3 * n + key), query)
        X[:, 2 * n : 3 * n] *= (-1) ** self.added
        gram, along = X.T @ X, torch.einsum("pc,dps->dcs", X, ys)
        self.common.add(gram[: 3 * n, : 3 * n], along[:, : 3 * n])
        # the keys of one prompt are no other's, so they are taken out here (Frisch and Waugh)
        inverse = torch.linalg.pinv(gram[3 * n :, 3 * n :], hermitian=True, rtol=_LEAST)
        by_keys = inverse @ gram[3 * n :, : 2 * n]
        of_keys = along[:, 3 * n :]
        self.left.add(
            gram[: 2 * n, : 2 * n] - gram[: 2 * n, 3 * n :] @ by_keys,
            along[:, : 2 * n] - torch.einsum("kc,dks->dcs", by_keys, of_keys),
        )
        self.keys += torch.einsum("dks,kl,dls->ds", of_keys, inverse, of_keys)
        self.total += y.square().sum(0)
        self.added += 1

    def shares(self) -> tuple[Float[Tensor, "part score"], Float[Tensor, "part score"], Float[Tensor, " score"]]:
        """Of each part the share; by chance the share; and of the offset what no place and no key could explain as well.

        NaN where a score is the same for all keys of each query.
        """
        n, several = self.offsets, self.prompts > 1
        offset, place, flipped = torch.split(torch.arange(3 * n), [n, n, n])
        place, flipped = (place, flipped) if several else (place[:0], flipped[:0])
        both = torch.cat([offset, place])
        by_offset, whole = self.common.explained(offset), self.keys + self.left.explained(both)
        upto = torch.stack([by_offset, self.common.explained(both), whole])  # [part draw score]
        total = torch.where(self.total > 1e-20, self.total, torch.nan)
        found = torch.cat([torch.diff(upto, dim=0, prepend=torch.zeros_like(upto[:1])), total - whole[None]]) / total
        chance = found[:, 1:].mean(1)
        chance[1] = (self.common.explained(torch.cat([offset, flipped])) - by_offset)[0] / total
        alone = (whole - self.keys - self.left.explained(place))[0] / total
        return found[:, 0].clamp(0, 1), chance.clamp(0, 1), alone.clamp(0, 1)


class Sums:
    """The normal equations of a regression, summed over prompts: X^T X and X^T y of each draw."""

    def __init__(self, width: int, some: tuple[int, int]) -> None:
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.along = torch.zeros(some[0], width, some[1], dtype=torch.float64)

    def add(self, gram: Float[Tensor, "column column"], along: Float[Tensor, "draw column score"]) -> None:
        self.gram += gram
        self.along += along

    def explained(self, columns: Int[Tensor, " some"]) -> Float[Tensor, "draw score"]:
        """The sum of squares that these columns explain."""
        if not len(columns):
            return torch.zeros(self.along.shape[0], self.along.shape[2], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(self.gram[columns][:, columns])
        use = values > _LEAST * values.amax()
        turned = torch.einsum("ce,dcs->des", vectors[:, use], self.along[:, columns])
        return (turned.square() / values[use, None]).sum(1)


def _indicators(width: int, *columns: Int[Tensor, " pair"]) -> Float[Tensor, "pair column"]:
    """1 in these columns of each row."""
    X = torch.zeros(len(columns[0]), width, dtype=torch.float64)
    for column in columns:
        X[torch.arange(len(X)), column] = 1
    return X


def centred(x: Float[Tensor, "token *rest"], query: Int[Tensor, " pair"]) -> Float[Tensor, "token *rest"]:
    """Less the mean over each query's pairs."""
    sums = torch.zeros(int(query.max()) + 1, *x.shape[1:], dtype=x.dtype).index_add_(0, query, x)
    counts = torch.bincount(query, minlength=len(sums)).clamp_min(1).to(x)
    return x - (sums / counts.reshape(-1, *[1] * (x.ndim - 1)))[query]


def shuffled(query: Int[Tensor, " pair"], generator: torch.Generator) -> Int[Tensor, " pair"]:
    """The pairs in another order, each query's among themselves; queries come in order."""
    noise = torch.rand(len(query), generator=generator, dtype=torch.float64)
    return (query + noise).argsort()
