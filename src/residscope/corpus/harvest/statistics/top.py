"""The highest tokens of every column at once, and some at random of each interval."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.statistics import bins as equal
from residscope.corpus.harvest.statistics import slots
from residscope.corpus.harvest.statistics.base import OfColumns, Partial, numbers, row_and_pos
from residscope.corpus.harvest.statistics.example import AFTER, Example
from residscope.corpus.harvest.statistics.quantiles import require_tokens
from residscope.engine.model import Model
from residscope.errors import BadArguments, DirectionError
from residscope.reports import Record

BEFORE = 16  # tokens shown before the one in question


@dataclass(frozen=True, eq=False)
class ColumnExamples(Record):
    """Tokens of each column: the k highest, or `m` drawn of each interval. Empty places have the number -1 and NaN for a value.

    row, pos: where they stand. ids, around: the tokens about each and their own values; -1 and NaN beyond the row's ends, NaN too
    where a token is left out. `at`: which of these is the one. Of intervals, those of column c are the 2 B rows from 2 B c on,
    of the width 2^exponent / B, the lowest first, with how many tokens fell into each in `counts`.
    """

    kind: ClassVar[str] = "column_examples"
    place: str
    count: int
    at: int
    value: Float[Tensor, "slot k"]
    row: Int[Tensor, "slot k"]
    pos: Int[Tensor, "slot k"]
    ids: Int[Tensor, "slot k window"]
    around: Float[Tensor, "slot k window"]
    exponent: Int[Tensor, " column"] | None = None
    counts: Int[Tensor, "column bin"] | None = None

    def of(self, slot: int, model: Model) -> tuple[Example, ...]:
        """One column's highest tokens (or one interval's), as text. Raises DirectionError for no such column."""
        if not 0 <= slot < len(self.value):
            raise DirectionError("no such column", received=str(slot), allowed=f"0 to {len(self.value) - 1}")
        some = (self.row[slot] >= 0).nonzero().flatten().tolist()
        return tuple(self._example(slot, i, model) for i in some)

    def _example(self, slot: int, i: int, model: Model) -> Example:
        ids = self.ids[slot, i]
        there = ids >= 0
        texts = tuple(model.token_texts(ids[there].tolist()))
        values = tuple(self.around[slot, i][there].tolist())
        at = int(there[: self.at].sum())
        return Example(int(self.row[slot, i]), int(self.pos[slot, i]), float(self.value[slot, i]), texts, values, at)

    def intervals(self, column: int, model: Model) -> list[tuple[float, float, int, tuple[Example, ...]]]:
        """A column's intervals that hold a token: from, to, how many tokens, and those drawn. Raises BadArguments without any."""
        if self.exponent is None or self.counts is None:
            raise BadArguments("these are the highest tokens: nothing was drawn by interval", fix="ByInterval(...)")
        size = self.counts.shape[1]
        ends = equal.edges(self.exponent, size // 2)[column].tolist()
        return [
            (ends[i], ends[i + 1], n, self.of(column * size + i, model))
            for i, n in enumerate(self.counts[column].tolist())
            if n
        ]


@dataclass(frozen=True, eq=False)
class TopTokens(OfColumns):
    """`ColumnExamples`: the k highest tokens of every column of a site, a head or a dictionary, in one pass.

    lowest: the k lowest instead. above: only tokens that read higher than that (0 for features, which are mostly off); unless
    said, 0 for a dictionary with an encoder and none elsewhere. Of equal ones the first in the text.
    """

    kind = "top"
    called = "highest"
    k: int = 20
    lowest: bool = False
    above: float | None = None
    before: int = BEFORE
    after: int = AFTER

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadArguments("no examples", received=f"k={self.k}", allowed="1 or more")

    @property
    def name(self) -> str:
        return f"{'lowest' if self.lowest else 'highest'} of {self.columns.label}"

    def start(self, model: Model) -> Partial:
        best = slots.empty(self.columns.count(model), self.k)
        return {"count": torch.zeros((), dtype=torch.int64), **best, **windows(best, self.before + 1 + self.after)}

    def add(self, partial: Partial, chunk: Chunk) -> None:
        x, keep = self.columns.kept(chunk).cpu(), self.columns.keep(chunk).cpu()
        partial["count"] += len(x)
        x = -x if self.lowest else x
        above = above_of(self)
        token, column = slots.let_in(partial["score"] if above is None else partial["score"].clamp_min(above), x)
        look = Window(self, chunk, keep)
        best = {name: y for name, y in partial.items() if name != "count"}
        slots.offer(
            best, column, x[token, column], numbers(chunk, keep)[token], lambda some: look(token[some], column[some])
        )

    def merge(self, first: Partial, second: Partial) -> Partial:
        return merged(first, second)

    def finish(self, partial: Partial, model: Model) -> ColumnExamples:
        value = -partial["score"] if self.lowest else partial["score"]
        return shown(partial, value, self)


@dataclass(frozen=True, eq=False)
class ByInterval(OfColumns):
    """`ColumnExamples` drawn at random, `m` of each interval of equal width, of every column: a uniform draw without replacement.

    There are 2 * `intervals` of them, a power of two on either side of zero, over a range that doubles until it holds all
    values: so between half of those on a side and all of them are in use. Each token has one random number, by the seed, its row
    and its position; an interval keeps the tokens with the least.
    """

    kind = "intervals"
    called = "intervals"
    intervals: int = 8
    m: int = 5
    above: float | None = None
    seed: int = 0
    before: int = BEFORE
    after: int = AFTER

    def __post_init__(self) -> None:
        if self.intervals < 1 or self.intervals & (self.intervals - 1) or self.m < 1:
            received = f"intervals={self.intervals}, m={self.m}"
            raise BadArguments("no such intervals", received=received, allowed="a power of two, and m of 1 or more")

    def start(self, model: Model) -> Partial:
        n = self.columns.count(model)
        best = slots.empty(n * 2 * self.intervals, self.m, torch.float64)
        best |= {"value": torch.full(best["score"].shape, torch.nan), **windows(best, self.before + 1 + self.after)}
        return {
            "count": torch.zeros((), dtype=torch.int64),
            "exponent": torch.full((n,), equal.LEAST, dtype=torch.int32),
            "counts": torch.zeros(n, 2 * self.intervals, dtype=torch.int64),
            **best,
        }

    def add(self, partial: Partial, chunk: Chunk) -> None:
        x, keep = self.columns.kept(chunk).cpu(), self.columns.keep(chunk).cpu()
        partial["count"] += len(x)
        if not len(x):
            return
        partial.update(self._widened(partial, torch.maximum(partial["exponent"], equal.exponents(x))))
        index = equal.indices(x, partial["exponent"], self.intervals)
        slot = index + torch.arange(x.shape[1]) * (2 * self.intervals)
        above = above_of(self)
        use = torch.ones_like(x, dtype=torch.bool) if above is None else x > above
        partial["counts"] += torch.bincount(slot[use], minlength=partial["counts"].numel()).reshape(
            partial["counts"].shape
        )
        number = numbers(chunk, keep)
        score = -drawn(number, self.seed)
        token, column = (use & (score[:, None] > partial["score"][:, -1][slot])).nonzero(as_tuple=True)
        look = Window(self, chunk, keep)
        best = {name: partial[name] for name in KEPT}
        slots.offer(
            best, slot[token, column], score[token], number[token],
            lambda some: {"value": x[token[some], column[some]], **look(token[some], column[some])},
        )  # fmt: skip

    def merge(self, first: Partial, second: Partial) -> Partial:
        exponent = torch.maximum(first["exponent"], second["exponent"])
        first, second = self._widened(first, exponent), self._widened(second, exponent)
        sums = {name: first[name] + second[name] for name in ("count", "counts")}
        best = slots.united({name: first[name] for name in KEPT}, {name: second[name] for name in KEPT})
        return {**sums, "exponent": exponent, **best}

    def _widened(self, partial: Partial, exponent: Int[Tensor, " column"]) -> Partial:
        """The same over ranges up to 2^exponent: intervals that become one keep the first m of both."""
        shift = exponent - partial["exponent"]
        if not shift.any():
            return partial
        size = 2 * self.intervals
        wide = shift.nonzero().flatten()
        goes = equal.moved(self.intervals, shift)[wide] + wide[:, None] * size
        old = (wide[:, None] * size + torch.arange(size)).flatten()
        best = {name: partial[name].clone() for name in KEPT}
        taken = {name: partial[name][old].flatten(0, 1) for name in KEPT}
        fresh = slots.empty(len(old), self.m, torch.float64)
        fresh |= {"value": torch.full(fresh["score"].shape, torch.nan), **windows(fresh, self.before + 1 + self.after)}
        for name in KEPT:
            best[name][old] = fresh[name]
        some = (taken["score"] > -torch.inf).nonzero().flatten()
        slot = goes.flatten().repeat_interleave(self.m)[some]
        further = [name for name in KEPT if name not in ("score", "number")]
        slots.offer(
            best, slot, taken["score"][some], taken["number"][some],
            lambda which: {name: taken[name][some[which]] for name in further},
        )  # fmt: skip
        counts = equal.coarsened(partial["counts"], shift)
        return {"count": partial["count"], "exponent": exponent, "counts": counts, **best}

    def finish(self, partial: Partial, model: Model) -> ColumnExamples:
        return shown(partial, partial["value"], self, exponent=partial["exponent"], counts=partial["counts"])


def above_of(of: TopTokens | ByInterval) -> float | None:
    """What a token has to be above; 0 for a dictionary with an encoder unless said."""
    return 0.0 if of.above is None and getattr(of.columns.dictionary, "activation", None) else of.above


KEPT = ("score", "number", "value", "ids", "around")


def windows(best: Partial, width: int) -> Partial:
    """Places for the tokens about each of the best, and for their values."""
    shape = (*best["score"].shape, width)
    return {"ids": torch.full(shape, -1, dtype=torch.int32), "around": torch.full(shape, torch.nan)}


class Window:
    """What stands about a token of a chunk: the ids, and one column's values."""

    def __init__(self, of: TopTokens | ByInterval, chunk: Chunk, keep: Bool[Tensor, "row pos"]) -> None:
        self.of, self.chunk, self.keep = of, chunk, keep
        self.row, self.pos = keep.nonzero(as_tuple=True)

    def __call__(self, token: Int[Tensor, " n"], column: Int[Tensor, " n"]) -> Partial:
        whole, ids = self.of.columns.whole(self.chunk), self.chunk.record.tokens.cpu()
        row = self.row[token][:, None]
        at = self.pos[token][:, None] + torch.arange(-self.of.before, self.of.after + 1)
        ends = torch.tensor(self.chunk.record.lengths)[row]
        there = (at >= 0) & (at < ends)
        at = torch.where(there, at, 0)
        around = whole[row.to(whole.device), at.to(whole.device), column[:, None].to(whole.device)].cpu()
        return {
            "ids": torch.where(there, ids[row, at], -1).int(),
            "around": torch.where(there & self.keep[row, at], around, torch.nan),
        }


def merged(first: Partial, second: Partial) -> Partial:
    count = first["count"] + second["count"]
    parts = [{name: x for name, x in part.items() if name != "count"} for part in (first, second)]
    return {"count": count, **slots.united(*parts)}


def shown(partial: Partial, value: Tensor, of: TopTokens | ByInterval, **more: Tensor) -> ColumnExamples:
    require_tokens(partial["count"], of.columns.label)
    there = partial["number"] < slots.NONE
    row, pos = row_and_pos(partial["number"])
    row, pos = torch.where(there, row, -1), torch.where(there, pos, -1)
    value = torch.where(there, value.float(), torch.nan)
    return ColumnExamples(
        of.columns.label, int(partial["count"]), of.before, value, row, pos, partial["ids"], partial["around"], **more
    )


def drawn(number: Int[Tensor, " n"], seed: int) -> Float[Tensor, " n"]:
    """A random number from 0 to 1 for each token, the same wherever it is read: SplitMix64 of the seed and its number."""
    start = (seed + 1) * 0x9E3779B97F4A7C15 % (1 << 64)
    x = number + (start - (1 << 64) if start >> 63 else start)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 11) & ((1 << 53) - 1)).double() / (1 << 53)
