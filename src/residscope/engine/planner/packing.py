"""Packing: which strands share a pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from residscope.engine.planner.pricing import OVERHEAD_TOKENS, Prices
from residscope.engine.planner.strands import Strand

_NEIGHBOURS = 16  # how many first positions may share a pass


@dataclass(frozen=True)
class Pack:
    """One pass: strands in the order in which they join it, over the positions from `pos` to the end."""

    pos: int
    strands: tuple[Strand, ...]

    @property
    def start(self) -> int:
        """The first block that must run; n_layers where none must."""
        return max(0, self.strands[0].layer)

    @property
    def rows(self) -> int:
        return sum(map(len, self.strands))

    def rows_at(self, n_layers: int) -> list[int]:
        """How many rows have joined at each block, and at the final norm."""
        joining = [0] * (n_layers + 1)
        for strand in self.strands:
            joining[max(0, strand.layer)] += len(strand)
        return list(accumulate(joining))

    def flops(self, prices: Prices, length: int, stop: int) -> int:
        """The arithmetic of the blocks up to `stop`."""
        counts = enumerate(self.rows_at(len(prices.block))[: min(len(prices.block), stop + 1)])
        return sum(prices.block_tokens(layer, n, length - self.pos, length) for layer, n in counts if n)

    def halves(self) -> tuple["Pack", "Pack"]:
        """Two passes in place of one, each with half of the strands (or half of the one strand's prompts)."""
        if len(self.strands) > 1:
            middle = len(self.strands) // 2
            return Pack(self.pos, self.strands[:middle]), Pack(self.pos, self.strands[middle:])
        (s,) = self.strands
        middle = len(s) // 2
        parts = (replace(s, index=index) for index in (s.index[:middle], s.index[middle:]))
        first, second = (Pack(self.pos, (part,)) for part in parts)
        return first, second


def pack(strands: Sequence[Strand], *, length: int, n_layers: int, tokens: int) -> list[Pack]:
    """The passes for some strands over prompts of `length`: at least cost, with at most `tokens` tokens at a time.

    A pass over the positions from p serves every strand that parts from the base at p or later. Strands of one position share
    it; those of neighbouring positions do where reading the weights once saves more than the extra tokens cost.
    """
    apart = [strand for strand in strands if strand.apart]
    strands = [strand for strand in strands if not strand.apart]
    of: dict[int, list[Strand]] = {}
    for strand in strands:
        of.setdefault(strand.pos, []).append(strand)
    positions = sorted(of)
    at = {p: [0] * n_layers for p in positions}
    for strand in strands:
        for layer in range(max(0, strand.layer), n_layers):
            at[strand.pos][layer] += len(strand)

    best: list[tuple[float, int]] = [(0.0, 0)]  # for the first k positions: cost, and where their last group begins
    for stop in range(1, len(positions) + 1):
        options = []
        together = [0] * n_layers
        for begin in range(stop - 1, max(-1, stop - 1 - _NEIGHBOURS), -1):
            together = [a + b for a, b in zip(together, at[positions[begin]], strict=True)]
            cost = sum(OVERHEAD_TOKENS + n * (length - positions[begin]) for n in together if n)
            options.append((best[begin][0] + cost, begin))
        best.append(min(options))
    groups: list[list[int]] = []
    stop = len(positions)
    while stop:
        begin = best[stop][1]
        groups.append(positions[begin:stop])
        stop = begin

    packs = [
        own for strand in apart for own in _within(strand.pos, [strand], limit=max(1, tokens // (length - strand.pos)))
    ]
    for group in reversed(groups):
        within = sorted((s for p in group for s in of[p]), key=lambda s: s.layer)
        packs += _within(group[0], within, limit=max(1, tokens // (length - group[0])))
    return packs


def _within(pos: int, strands: Sequence[Strand], *, limit: int) -> list[Pack]:
    """Passes of at most `limit` rows each, from strands sorted by layer."""
    packs, here, rows = [], list[Strand](), 0
    for strand in strands:
        for first in range(0, len(strand), limit):
            part = replace(strand, index=strand.index[first : first + limit])
            if rows + len(part) > limit:
                packs.append(Pack(pos, tuple(here)))
                here, rows = [], 0
            here.append(part)
            rows += len(part)
    return [*packs, Pack(pos, tuple(here))] if here else packs
