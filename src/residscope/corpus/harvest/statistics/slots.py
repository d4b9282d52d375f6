"""The k best of any number of slots at once, streaming: a column's highest tokens, an interval's first ones at random."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from residscope.corpus.harvest.statistics.base import Partial

NONE = torch.iinfo(torch.int64).max  # the number where a slot has nothing yet
Payload = Callable[[Int[Tensor, " chosen"]], Partial]


def empty(slots: int, k: int, dtype: torch.dtype = torch.float32) -> Partial:
    """`score` (-inf where there is none yet) and the token's `number`, best first."""
    return {"score": torch.full((slots, k), -torch.inf, dtype=dtype), "number": torch.full((slots, k), NONE)}


def offer(
    best: Partial,
    slot: Int[Tensor, " n"],
    score: Float[Tensor, " n"],
    number: Int[Tensor, " n"],
    payload: Payload | None = None,
) -> None:
    """Let candidates into the slots that they are better in, in place. Of equal scores the one with the lowest number is better.

    payload: of the candidates that are let in, what else is kept of them: rows for the further tensors of `best`.
    """
    if not len(slot):
        return
    k = best["score"].shape[1]
    order = _best_first(score, number)
    order = order[slot[order].argsort(stable=True)]
    slot = slot[order]
    touched, counts = torch.unique_consecutive(slot, return_counts=True)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(slot)) - starts.repeat_interleave(counts)
    use = rank < k
    own = torch.arange(len(touched)).repeat_interleave(counts)[use]
    which = torch.full((len(touched), min(k, int(counts.max()))), -1)
    which[own, rank[use]] = order[use]
    new_score = torch.where(which >= 0, score[which], -torch.inf).to(best["score"].dtype)
    new_number = torch.where(which >= 0, number[which], NONE)
    scores, numbers = (
        torch.cat([best["score"][touched], new_score], 1),
        torch.cat([best["number"][touched], new_number], 1),
    )
    picked = _best_first(scores, numbers)[:, :k]
    best["score"][touched], best["number"][touched] = scores.gather(1, picked), numbers.gather(1, picked)
    further = [name for name in best if name not in ("score", "number")]
    if not further:
        return
    is_new = (picked >= k) & (scores.gather(1, picked) > -torch.inf)
    row, at = is_new.nonzero(as_tuple=True)
    rows = {} if payload is None else payload(which[row, picked[row, at] - k])
    old = picked.clamp_max(k - 1)
    for name in further:
        moved = _along(best[name][touched], old)
        if len(row):
            moved[row, at] = rows[name].to(moved)
        best[name][touched] = moved


def united(first: Partial, second: Partial) -> Partial:
    """The best of two, slot by slot: the same whichever comes first, and however the tokens were dealt to them."""
    scores, numbers = (torch.cat([first[name], second[name]], 1) for name in ("score", "number"))
    picked = _best_first(scores, numbers)[:, : first["score"].shape[1]]
    return {name: _along(torch.cat([first[name], second[name]], 1), picked) for name in first}


def let_in(
    best: Float[Tensor, "column k"], x: Float[Tensor, "n column"]
) -> tuple[Int[Tensor, " candidate"], Int[Tensor, " candidate"]]:
    """Which entries of a block of tokens may be among the best k of their columns: token and column of each, tokens rising.

    A comparison with the k-th value so far leaves few after the first blocks; of the first, those below the block's own k-th
    are left out.
    """
    k, worst = best.shape[1], best[:, -1]
    may = x > worst
    token, column = may.nonzero(as_tuple=True)
    if len(token) > 2 * k * x.shape[1] and len(x) > k:
        own = x.T.topk(k, sorted=True).values[:, -1]
        may &= x >= own
        token, column = may.nonzero(as_tuple=True)
    return token, column


def _best_first(score: Float[Tensor, "... n"], number: Int[Tensor, "... n"]) -> Int[Tensor, "... n"]:
    by_number = number.argsort(dim=-1, stable=True)
    by_score = score.gather(-1, by_number).argsort(dim=-1, descending=True, stable=True)
    return by_number.gather(-1, by_score)


def _along(x: Shaped[Tensor, "slot k ..."], picked: Int[Tensor, "slot m"]) -> Shaped[Tensor, "slot m ..."]:
    return x[torch.arange(len(x))[:, None], picked]
