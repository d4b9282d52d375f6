"""Where in a text a direction reads high, low and in between: top, bottom and random examples by interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.chunks import Chunk
from residscope.corpus.harvest.run import harvest
from residscope.corpus.harvest.statistics.base import Partial, joined
from residscope.corpus.harvest.statistics.example import AFTER, Example
from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.corpus.vectors import one_vector
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import EmptyCorpus, WrongModel
from residscope.files import digest
from residscope.progress import Cancel, Progress
from residscope.reports import Record, Report
from residscope.views import Grid, Histogram, Reference, Table


@dataclass(frozen=True, eq=False)
class Interval(Record):
    """The tokens whose coordinate lies between two quantiles, `n` of them, and some drawn at random."""

    kind: ClassVar[str] = "interval"
    low: float
    high: float
    n: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Examples(Report):
    """A direction over a text: the highest and lowest tokens, random ones of each interval (lowest first), all coordinates."""

    kind: ClassVar[str] = "report:examples"
    direction: str
    place: str
    top: tuple[Example, ...]
    bottom: tuple[Example, ...]
    intervals: tuple[Interval, ...]
    values: Float[Tensor, "token"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def histogram(self, bins: int = 40) -> Histogram:
        """How often each coordinate occurs, the intervals' ends marked."""
        ends = [Reference(interval.low) for interval in self.intervals[1:]]
        return Histogram(
            {"tokens": self.values},
            bins=bins,
            title=f"{self.direction} over the text",
            x_title="coordinate",
            references=ends,
        )

    def view(self) -> Grid:
        def rows(examples: Sequence[Example]) -> list[list[Any]]:
            return [[e.value, "".join(e.tokens[: e.at]), e.token, "".join(e.tokens[e.at + 1 :])] for e in examples]

        columns = ["x·d", "before", "token", "after"]
        tables = [Table(columns, rows(self.top), title="Highest"), Table(columns, rows(self.bottom), title="Lowest")]
        tables += [
            Table(columns, rows(i.examples), title=f"Drawn from {i.low:.3g} to {i.high:.3g}", note=f"{i.n:,} tokens")
            for i in reversed(self.intervals)
        ]
        return Grid([self.histogram(), *tables], columns=1, title=f"Examples of {self.direction} at {self.place}")

    def __repr__(self) -> str:
        ends = f"{self.bottom[0].value:.3g} to {self.top[0].value:.3g}"
        return f"Examples({self.direction} at {self.place}: {len(self.values)} tokens, {ends})"


class Readings:
    """Coordinates of directions over a text: for each token its id and 4 bytes a direction, so that quantiles are exact.

    Rows are known by their number in the text: `merge` joins what was read apart, in any order, to the same result.
    """

    def __init__(self, directions: Sequence[Direction], model: Model) -> None:
        self.directions, self.model = tuple(directions), model
        self.rows: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, chunk: Chunk) -> None:
        coordinates = []
        for direction in self.directions:
            x = chunk.at(direction.site, direction.head)
            read = direction.project(x, model=self.model)
            coordinates.append(torch.where(chunk.keep(direction.site), read, torch.nan).float().cpu())
        ids, whole = chunk.record.tokens.cpu(), torch.stack(coordinates)
        for row, length in enumerate(chunk.record.lengths):
            self.rows[chunk.first + row] = (ids[row, :length].clone(), whole[:, row, :length].clone())

    def tensors(self) -> Partial:
        """All of it as plain tensors: of each row its number and its length, then the ids and the coordinates of all."""
        rows = [*self.rows.items()]
        return {
            "row": torch.tensor([number for number, _ in rows], dtype=torch.int64),
            "length": torch.tensor([len(ids) for _, (ids, _) in rows], dtype=torch.int64),
            "ids": torch.cat([torch.empty(0, dtype=torch.int64), *(ids for _, (ids, _) in rows)]),
            "read": torch.cat([torch.empty(0, len(self.directions)), *(read.T for _, (_, read) in rows)]),
        }

    def take(self, tensors: Partial) -> None:
        """What `tensors` gave."""
        ends = tensors["length"].cumsum(0).tolist()
        for row, end, length in zip(tensors["row"].tolist(), ends, tensors["length"].tolist(), strict=True):
            self.rows[row] = tensors["ids"][end - length : end], tensors["read"][end - length : end].T

    def merge(self, other: "Readings") -> None:
        """Raises WrongModel where the other read other directions; a row read twice counts once."""
        same = len(self.directions) == len(other.directions) and all(
            torch.equal(a.read, b.read) and a.place == b.place
            for a, b in zip(self.directions, other.directions, strict=False)
        )
        if not same:
            raise WrongModel("readings of other directions cannot be joined", received=str(other.directions)[:80])
        self.rows |= other.rows

    def result(
        self,
        index: int,
        *,
        k: int,
        intervals: int,
        per_interval: int,
        context: int,
        seed: int,
        about: Mapping[str, Any],
    ) -> Examples:
        numbers = sorted(self.rows)
        parts = [self.rows[row][1][index].numpy() for row in numbers]
        row = np.repeat(numbers, [len(part) for part in parts])
        pos = np.concatenate([np.arange(len(part)) for part in parts])
        key = np.concatenate(
            [np.random.default_rng([seed, n]).random(len(p)) for n, p in zip(numbers, parts, strict=True)]
        )
        values = np.concatenate(parts)
        kept = ~np.isnan(values)
        row, pos, key, values = row[kept], pos[kept], key[kept], values[kept]
        if not len(values):
            raise EmptyCorpus(
                "every token of the text is left out", received=f"{len(numbers)} rows", fix="give longer texts"
            )

        def example(i: int) -> Example:
            ids, coordinates = self.rows[int(row[i])]
            at = int(pos[i])
            start, stop = max(0, at - context), at + AFTER + 1
            tokens = tuple(self.model.token_texts(ids[start:stop].tolist()))
            around = tuple(coordinates[index, start:stop].tolist())
            return Example(int(row[i]), at, float(values[i]), tokens, around, at - start)

        order = np.argsort(values, kind="stable")
        ends = np.quantile(values.astype(np.float64), np.linspace(0, 1, intervals + 1))
        sampled = []
        for number, (low, high) in enumerate(pairwise(ends.tolist())):
            inside = np.flatnonzero((values >= low) & ((values < high) if number < intervals - 1 else (values <= high)))
            drawn = inside[np.argsort(key[inside])[:per_interval]].tolist()
            sampled.append(Interval(low, high, len(inside), tuple(map(example, drawn))))
        direction = self.directions[index]
        highest = np.lexsort((pos, row, -values))[:k].tolist()  # of equal ones the first in the text
        return Examples(
            direction.name, direction.place, tuple(map(example, highest)), tuple(map(example, order[:k].tolist())),
            tuple(sampled), torch.from_numpy(values),
            {**about, "tokens": len(values), "left out": int((~kept).sum()), "rows": len(numbers)},
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Coordinates:
    """`Readings` of directions, as a statistic of a harvest: all coordinates are kept, so that any quantile of them is exact."""

    directions: tuple[Direction, ...]
    name: ClassVar[str] = "coordinates"

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted({direction.site for direction in self.directions}))

    @property
    def told(self) -> Mapping[str, Any]:
        return {
            "kind": "coordinates",
            "directions": [digest("direction", {"read": d.read}, d.place) for d in self.directions],
        }

    def check(self, model: Model) -> None:
        for direction in self.directions:
            one_vector(model, direction.site, direction.head)

    def start(self, model: Model) -> Partial:
        return Readings(self.directions, model).tensors()

    def add(self, partial: Partial, chunk: Chunk) -> None:
        readings = Readings(self.directions, chunk.record.model)
        readings.add(chunk)
        partial.update(joined(partial, readings.tensors()))

    def merge(self, first: Partial, second: Partial) -> Partial:
        return joined(first, second)

    def finish(self, partial: Partial, model: Model) -> Readings:
        readings = Readings(self.directions, model)
        readings.take(partial)
        return readings


@method("top-examples", title="Examples of a direction", group="directions", tokens="tokens")
def top_examples(
    model: Model,
    directions: Annotated[Direction | Sequence[Direction], fields.direction(name="direction")],
    corpus: Annotated[Source, fields.text()],
    *,
    k: Annotated[int, fields.count(low=1, high=200)] = 10,
    intervals: int = 5,
    per_interval: int = 5,
    tokens: Annotated[int, fields.count(low=1000)] = 20_000,
    context: Annotated[int, fields.count(low=1, high=200)] = 16,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Examples | tuple[Examples, ...]:
    """The k highest and k lowest tokens of a text along a direction (or several, in one pass), and some at random.

    Intervals lie between the quantiles 0, 1/intervals, ... 1 of the coordinate; of each, `per_interval` tokens are drawn
    without replacement. context: how many tokens before each are shown. Any site with one vector a token will do.
    First tokens of rows and attention sinks are left out.

        rs.top_examples(model, pca[7], "python-docs").view()

    Raises:
        NoVectors, UnknownHead: no vector a token stands there. CorpusError: the text cannot be used. Cancelled.
    """
    several = (directions,) if isinstance(directions, Direction) else tuple(directions)
    reader = Reader(model, corpus)
    gathered = harvest(model, reader, [Coordinates(several)], tokens=tokens, progress=progress, cancel=cancel)
    readings = gathered[Coordinates.name]
    about = {**model.provenance, "method": "top_examples", **reader.about, "seed": seed}
    examples = tuple(
        readings.result(i, k=k, intervals=intervals, per_interval=per_interval, context=context, seed=seed, about=about)
        for i in range(len(several))
    )
    return examples[0] if isinstance(directions, Direction) else examples
