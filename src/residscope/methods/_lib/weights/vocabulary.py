"""Matrices over a whole vocabulary, never written out: what tokens are in a few coordinates, and the largest products."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.layout import Norm
from residscope.engine.model import Model
from residscope.methods._lib.weights.matrices import ROWS, embeddings, unembeddings, vocabulary

BLOCK = 2048


@dataclass(frozen=True)
class Extremes:
    """The largest entries of a matrix, largest first, and the least, least first: (row, column) and value."""

    highest: Int[Tensor, "k 2"]
    high: Float[Tensor, " k"]
    lowest: Int[Tensor, "k 2"]
    low: Float[Tensor, " k"]


def embedded(model: Model, norm: Norm | None, read: Float[Tensor, "d_model n"]) -> Float[Tensor, "token n"]:
    """Each token's embedding through what reads it behind a norm's gain, over the divisor which that norm has for it alone."""
    found = []
    for first in range(0, vocabulary(model), ROWS):
        rows = embeddings(model, slice(first, first + ROWS))
        rows = rows if norm is None else rows / norm.sigma(rows)
        found.append(rows.to(read) @ read)
    return torch.cat(found)


def unembedded(model: Model, write: Float[Tensor, "n d_model"]) -> Float[Tensor, "token n"]:
    """What is written to the stream, as each token's logit less the mean over tokens; the final norm's divisor is left out."""
    parts = range(0, vocabulary(model), ROWS)
    logits = torch.cat([(write @ unembeddings(model, slice(at, at + ROWS)).to(write)).T for at in parts])
    logits = logits[: vocabulary(model)] * model.layout.factors.logits
    return logits - logits.mean(0)


def extremes(
    rows: Float[Tensor, "row n"],
    columns: Float[Tensor, "column n"],
    k: int,
    tell: Callable[[float], None] | None = None,
) -> Extremes:
    """The k largest and the k least entries of rows columns^T, a block at a time, those first that may hold the largest.

    An entry is at most |row| |column|: where that is no more than what was found, nothing is multiplied. tell: hears the share
    of blocks that are done.
    """
    k = min(k, len(rows) * len(columns))
    if not k:
        none = torch.empty(0, 2, dtype=torch.long)
        return Extremes(none, torch.empty(0), none, torch.empty(0))
    order = [x.norm(dim=1).argsort(descending=True).split(BLOCK) for x in (rows, columns)]
    longest = [
        torch.stack([x[part[0]].norm() for part in parts]) for x, parts in zip((rows, columns), order, strict=True)
    ]
    bounds = torch.outer(*longest)
    high, low = _Best(k), _Best(k)
    for done, at in enumerate(bounds.flatten().argsort(descending=True).tolist()):
        if tell is not None:
            tell(done / bounds.numel())
        if float(bounds.flatten()[at]) <= min(high.least, low.least):
            break
        i, j = order[0][at // len(order[1])], order[1][at % len(order[1])]
        entries = rows[i] @ columns[j].T
        high.add(entries, i, j)
        low.add(-entries, i, j)
    return Extremes(high.places, high.values, low.places, -low.values)


class _Best:
    """The largest entries so far."""

    def __init__(self, k: int) -> None:
        self.k, self.least = k, float("-inf")
        self.values, self.places = torch.empty(0), torch.empty(0, 2, dtype=torch.long)

    def add(self, entries: Float[Tensor, "row column"], rows: Tensor, columns: Tensor) -> None:
        some = (entries.amax(1) > self.least).nonzero()[:, 0]
        if not len(some):
            return
        near = entries[some].flatten()
        values, at = near.topk(min(self.k, len(near)))
        places = torch.stack([rows[some[at // entries.shape[1]]], columns[at % entries.shape[1]]], 1)
        values, places = torch.cat([self.values.to(values), values]), torch.cat([self.places.to(places), places])
        self.values, kept = values.topk(min(self.k, len(values)))
        self.places = places[kept]
        if len(self.values) == self.k:
            self.least = float(self.values[-1])


def ends(scores: Float[Tensor, "token n"], k: int) -> tuple[Int[Tensor, "n end k"], Float[Tensor, "n end k"]]:
    """Of each column the k tokens of the largest entries, and those of the least, with the entries."""
    k = min(k, len(scores))
    high, low = scores.T.topk(k), (-scores.T).topk(k)
    return torch.stack([high.indices, low.indices], 1), torch.stack([high.values, -low.values], 1)


def called(model: Model, ids: Tensor) -> dict[int, str]:
    """Tokens as text, by id."""
    each = [*dict.fromkeys(ids.flatten().tolist())]
    return dict(zip(each, model.token_texts(each), strict=True))
