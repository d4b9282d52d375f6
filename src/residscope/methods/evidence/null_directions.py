"""A direction's coordinate against those of random directions: is there anything to it that most directions do not have?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.corpus.chunks import Chunk, chunks
from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.corpus.vectors import check_direction
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import EmptyCorpus, WrongModel
from residscope.methods._lib.random_like import of_data, uniform
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Histogram, Reference

MEASURES = ("share of variance", "excess kurtosis", "token identity", "position")
DRAWN = ("uniform", "data")
UNIT = "share, kurtosis or η², by measure"
OPENING = 1024  # tokens whose covariance the "data" directions are drawn from


@dataclass(frozen=True, eq=False, repr=False)
class NullDirections(Report):
    """Four measures of a direction's coordinate y over a text, the same of random directions, and p-values by rank.

        share of variance   var y / (|read|^2 tr cov x)
        excess kurtosis     E (y - mean)^4 / var^2 - 3
        token identity      eta^2 = sum_t n_t (mean_t - mean)^2 / sum (y - mean)^2, t the token's id
        position            the same by position in the row

    observed: over measure. null: over drawn, measure and draw. p: (1 + those at least as high) / (1 + all).
    """

    kind: ClassVar[str] = "report:null_directions"
    main: ClassVar[str] = "observed"
    direction: str
    observed: Result
    null: Result
    p: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def beaten(self, measure: str) -> float:
        """The larger of its two p-values: against the kind of random directions that is harder to beat."""
        return float(self.p.select(measure=measure).values.max())

    def histogram(self, measure: str) -> Histogram:
        """The random directions' values, this one's marked."""
        here = self.null.select(measure=measure)
        mark = Reference(float(self.observed.select(measure=measure).values), self.direction)
        names = {"uniform": "uniform", "data": "as the data varies"}
        return Histogram(
            {names[kind]: here.select(drawn=kind).values for kind in DRAWN}, bins=_bins(here.values, mark.at),
            title=f"{measure.capitalize()}, beside random directions",
            x_title="η²" if measure in MEASURES[2:] else measure, references=[mark],
            note=f"p = {self.beaten(measure):.3f} against the harder of the two",
        )  # fmt: skip

    def view(self) -> Grid:
        title = f"{self.direction} beside {self.null.sizes['draw']} random directions of each kind"
        return Grid([self.histogram(measure) for measure in MEASURES], columns=2, title=title)

    def __repr__(self) -> str:
        measured = ", ".join(
            f"{m} {float(self.observed.select(measure=m).values):.3g} (p {self.beaten(m):.3f})" for m in MEASURES
        )
        return f"NullDirections({self.direction}: {measured})"


class Powers:
    """Streaming sums of several coordinates y = R x' - shift: their powers, and their sums by token and by position.

    x' is x, or x / sigma(x) for a direction of the lens space. Exact in float64; `merge` joins what was read apart.
    """

    def __init__(self, directions: Float[Tensor, "k d"], opening: Float[Tensor, "token d"]) -> None:
        self.directions = directions.double()
        self.centre = opening.double().mean(0)
        self.count = 0
        self.powers = torch.zeros(4, len(directions), dtype=torch.float64)
        self.total, self.sum = 0.0, torch.zeros_like(self.centre)
        self.by: dict[str, dict[int, tuple[int, Tensor]]] = {"token": {}, "position": {}}

    def add(self, x: Float[Tensor, "token d"], ids: Int[Tensor, "token"], pos: Int[Tensor, "token"]) -> None:
        moved = x.double() - self.centre
        y = moved @ self.directions.T
        self.count += len(y)
        self.powers += torch.stack([(y**n).sum(0) for n in (1, 2, 3, 4)])
        self.total += float(moved.pow(2).sum())
        self.sum += moved.sum(0)
        for name, group in (("token", ids), ("position", pos)):
            keys, index, n = torch.unique(group, return_inverse=True, return_counts=True)
            sums = torch.zeros(len(keys), y.shape[1], dtype=torch.float64).index_add_(0, index, y)
            self._into(name, zip(keys.tolist(), n.tolist(), sums, strict=True))

    def merge(self, other: "Powers") -> None:
        """Raises WrongModel where the other has other directions."""
        if not torch.equal(self.directions, other.directions) or not torch.equal(self.centre, other.centre):
            raise WrongModel("sums of other directions cannot be joined", received="other random directions")
        self.count += other.count
        self.powers += other.powers
        self.total += other.total
        self.sum += other.sum
        for name, groups in other.by.items():
            self._into(name, ((key, n, sums) for key, (n, sums) in groups.items()))

    def _into(self, name: str, groups: Any) -> None:
        sums_by_key = self.by[name]
        for key, n, sums in groups:
            before = sums_by_key.get(key)
            sums_by_key[key] = (n, sums) if before is None else (before[0] + n, before[1] + sums)

    def measures(self) -> Float[Tensor, "measure k"]:
        """The four measures of each direction; 0 where a coordinate does not vary."""
        n = self.count
        mean, second, third, fourth = self.powers / n
        variance = (second - mean**2).clamp_min(0)
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        spread = self.total / n - float((self.sum / n).pow(2).sum())
        flat = variance <= 1e-12 * second.clamp_min(1e-300)
        share = variance / (self.directions.pow(2).sum(1) * max(spread, 1e-300))
        kurtosis = central / variance.clamp_min(1e-300) ** 2 - 3
        etas = [self._eta(name, mean, variance) for name in ("token", "position")]
        return torch.stack([torch.where(flat, 0.0, x) for x in (share, kurtosis, *etas)])

    def _eta(self, name: str, mean: Tensor, variance: Tensor) -> Tensor:
        counts = torch.tensor([n for n, _ in self.by[name].values()], dtype=torch.float64)
        sums = torch.stack([sums for _, sums in self.by[name].values()])
        between = (sums**2 / counts[:, None]).sum(0) - self.count * mean**2
        return between / (self.count * variance).clamp_min(1e-300)


class Null:
    """The pass for one direction: the first tokens are held until the random directions are drawn, then all is streamed."""

    def __init__(self, direction: Direction, model: Model, *, n: int, seed: int) -> None:
        self.direction, self.model, self.n, self.seed = direction, model, n, seed
        self.powers: Powers | None = None
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, chunk: Chunk) -> None:
        x = chunk.at(self.direction.site, self.direction.head)
        keep = chunk.keep(self.direction.site)
        if self.direction.space == "lens":
            x = x / self.model.final_scale(x)
        pos = torch.arange(x.shape[1]).expand(keep.shape)
        part = (x[keep].cpu(), chunk.record.tokens[keep].cpu(), pos[keep.cpu()])
        if self.powers is not None:
            self.powers.add(*part)
            return
        self._waiting.append(part)
        if sum(len(x) for x, _, _ in self._waiting) >= OPENING:
            self._open()

    def _open(self) -> None:
        opening = torch.cat([x for x, _, _ in self._waiting])
        read = self.direction.read.double().cpu()
        drawn = [uniform(read, self.n, seed=self.seed), of_data(read, opening, self.n, seed=self.seed + 1)]
        self.powers = Powers(torch.cat([read[None], *drawn]), opening)
        for part in self._waiting:
            self.powers.add(*part)
        self._waiting = []

    def result(self, about: Mapping[str, Any]) -> NullDirections:
        if self.powers is None:
            if sum(len(x) for x, _, _ in self._waiting) < 2:
                raise EmptyCorpus("every token of the text is left out", fix="give longer texts")
            self._open()
        assert self.powers is not None
        measures = self.powers.measures()
        observed, null = measures[:, 0], measures[:, 1:].reshape(len(MEASURES), len(DRAWN), self.n).movedim(1, 0)
        close = 1e-9 * (1 + observed.abs())  # directions that explain all alike are ties
        at_least = (null >= (observed - close)[None, :, None]).sum(2)
        p = (1 + at_least) / (1 + self.n)
        about = {**about, "tokens": self.powers.count, "random directions": self.n, "seed": self.seed}
        both = {"drawn": DRAWN, "measure": MEASURES}
        return NullDirections(
            self.direction.name,
            Result(observed, ("measure",), {"measure": MEASURES}, name="observed", unit=UNIT, provenance=about),
            Result(null, ("drawn", "measure", "draw"), both, name="null", unit=UNIT, provenance=about),
            Result(p, ("drawn", "measure"), both, name="p", unit="probability", provenance=about),
            about,
        )


@method("null-directions", title="Beside random directions", group="evidence", tokens="tokens")
def null_directions(
    model: Model,
    direction: Annotated[Direction, fields.direction()],
    corpus: Annotated[Source, fields.text()],
    *,
    n: Annotated[int, fields.count(low=9, high=9999)] = 199,
    tokens: Annotated[int, fields.count(low=1000)] = 20_000,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> NullDirections:
    """Measure a direction's coordinate over a text, and the same of n random directions of each of two kinds at its site.

    "uniform": uniform on the sphere. "data": from N(0, Sigma), Sigma the covariance of the text's first 1,024 tokens, so that
    they lie where the data varies. All are at right angles to the direction, and read in its own space, in one pass.

        rs.null_directions(model, pca[7], "python-docs").view()

    Raises:
        NoVectors, UnknownHead, CorpusError, Cancelled.
    """
    check_direction(model, direction)
    null = Null(direction, model, n=n, seed=seed)
    reader = Reader(model, corpus)
    for chunk in chunks(model, reader, [direction.site], tokens=tokens, progress=progress, cancel=cancel):
        null.add(chunk)
    return null.result({**model.provenance, "method": "null_directions", **reader.about})


def _bins(values: Tensor, mark: float, n: int = 40) -> list[float]:
    low, high = min(float(values.min()), mark), max(float(values.max()), mark)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return [low + (high - low) * i / n for i in range(n)] + [high + 1e-9 * (high - low)]
