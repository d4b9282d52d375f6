"""Which features count at which tokens: the k B largest of a batch, the k largest of each token, all above a level.

Encoder products are made a block of tokens at a time, so that a block is still in the cache when it is searched, and
the matrix of all B x F of them is never held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.sae.training.active import true_at
from residscope.sae.training.group import ALONE, Group

BLOCK = 1 << 21  # entries of a block of products: 8 MiB
MARGIN = 0.92  # of the last batch's level: what is a candidate now
Found = tuple[Int[Tensor, " m"], Float[Tensor, " m"]]  # flat indices, ascending, and products


@dataclass(frozen=True, eq=False)
class Products:
    """p = x @ weight.T + bias, a block of tokens at a time."""

    x: Float[Tensor, "token d"]
    weight: Float[Tensor, "F d"]
    bias: Float[Tensor, " F"]

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "some F"]]]:
        """The number of a block's first token, and its products, in memory that the next block uses again."""
        tokens, features = len(self.x), len(self.weight)
        size = max(1, min(tokens, BLOCK // features))
        held = self.x.new_empty(size, features)
        for first in range(0, tokens, size):
            x = self.x[first : first + size]
            yield first, torch.addmm(self.bias, x, self.weight.T, out=held[: len(x)])

    def whole(self) -> Float[Tensor, "token F"]:
        return torch.addmm(self.bias, self.x, self.weight.T)

    def above(self, level: "float | Float[Tensor, ' F']") -> Found:
        """The products over a level, one for all or one for each feature."""
        at, values = [], []
        for first, block in self.blocks():
            inside = true_at(block > level)
            values.append(block.view(-1).index_select(0, inside))
            at.append(inside + first * len(self.weight))
        return torch.cat(at), torch.cat(values)


class BatchTopK:
    """The k B largest positive products of a batch of B tokens, exactly, without a sort of all.

    What is above a share of the last batch's level is a candidate; where those are too few, the share is halved. Among several
    processes the batch is all of theirs.
    """

    def __init__(self, k: int, group: Group = ALONE) -> None:
        self.k, self.group = k, group
        self.level = 0.0  # the least product chosen of the last batch

    def __call__(self, products: Products) -> Found:
        wanted = self.k * len(products.x)
        guess = self.level * MARGIN if self.level else self._sampled(products)
        while True:
            at, values = products.above(max(guess, 0.0))
            short = self.group.total(float(len(values))) < wanted * self.group.size
            if not short or guess <= 0:
                break
            guess = guess / 2 if guess > 1e-12 else 0.0
        self.level = self._kth(values, wanted)
        chosen = true_at(values >= self.level)
        at, values = at.index_select(0, chosen), values.index_select(0, chosen)
        spare = len(values) - wanted  # several may stand at the level
        if self.group.size == 1 and spare > 0:
            extra = true_at(values == self.level)[-spare:]
            left = torch.ones_like(values, dtype=torch.bool)
            left[extra] = False
            at, values = at[left], values[left]
        return at, values

    def _kth(self, values: Tensor, wanted: int) -> float:
        everyone = self.group.gathered(values)
        wanted *= self.group.size
        if not len(everyone):
            return 0.0
        return float(everyone.topk(min(wanted, len(everyone)), sorted=False).values.min())

    def _sampled(self, products: Products) -> float:
        """A level below the true one, most likely: of a few tokens, where one and a half times as many are above."""
        few = Products(products.x[:64], products.weight, products.bias).whole().flatten()
        return self.group.least(
            float(few.topk(min(len(few), int(1.5 * self.k * min(64, len(products.x))))).values.min())
        )


def top_k(products: Products, k: int) -> Found:
    """The k largest positive products of each token."""
    at, values = [], []
    features = len(products.weight)
    for first, block in products.blocks():
        best, which = block.topk(k, dim=-1, sorted=False)
        which, order = which.sort(dim=-1)
        best = best.gather(-1, order).flatten()
        flat = (which + torch.arange(first, first + len(block), device=which.device)[:, None] * features).flatten()
        positive = best > 0
        at.append(flat[positive])
        values.append(best[positive])
    return torch.cat(at), torch.cat(values)
