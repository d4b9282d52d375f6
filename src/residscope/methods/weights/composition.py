"""Composition: how much of what one part of a model writes another reads, from their weights, beside random matrices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.methods._lib.weights.grams import READERS, WRITERS, Asked, Part, grams, parts_of, random_core
from residscope.methods._lib.weights.matrices import head_matrices
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Table

AT_ONCE = 1 << 28  # bytes of Gram matrices held together
TOGETHER = 32  # readers multiplied at once
LISTED = 30


@dataclass(frozen=True, eq=False, repr=False)
class Composition(Report):
    """How aligned what each writer writes is with what each reader reads: 0 nothing is read, 1 all, with no loss in length.

    score[writer, reader]; NaN where the reader comes before the writer. random, random_high: the mean and the 95th percentile
    of random matrices of the same shapes. A score at the random mean says nothing of the two; below it, they avoid each other.
    """

    kind: ClassVar[str] = "report:composition"
    main: ClassVar[str] = "score"
    score: Result
    random: Result
    random_high: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blanks(self) -> int:
        """Pairs whose reader comes first."""
        return sum(int(one.values.isnan().sum()) for one in (self.score, self.random, self.random_high))

    def top(self, k: int = LISTED) -> list[tuple[str, str, float, float, float]]:
        """Writer, reader, score, random mean and 95th percentile of the pairs that are furthest above their random mean."""
        over = (self.score.values - self.random.values).nan_to_num(-2.0)
        writers, readers = (self.score.coords[name] for name in ("writer", "reader"))
        found = []
        for at in over.flatten().topk(min(k, int((over > -2).sum()))).indices.tolist():
            i, j = divmod(at, len(readers))
            numbers = [float(x.values[i, j]) for x in (self.score, self.random, self.random_high)]
            found.append((str(writers[i]), str(readers[j]), numbers[0], numbers[1], numbers[2]))
        return found

    def view(self) -> Grid:
        """Scores less their random mean as a map, and the pairs that are furthest above it."""
        writers, readers = ([*map(str, self.score.coords[name])] for name in ("writer", "reader"))
        shape: dict[str, Any] = {"row_title": "writes", "column_title": "reads", "unit": "score", "bottom_up": True}
        more = self.score.values - self.random.values
        note = "Hatched: the reader comes first."
        return Grid(
            [
                HeatMap(more, writers, readers, title="Score less that of random matrices", note=note, **shape),
                Table(
                    ["writes", "reads", "score", "random: mean", "random: 95 %"],
                    [[*row] for row in self.top()],
                    title="Furthest above random",
                ),
            ],
            columns=1,
            title="Composition",
        )

    def __repr__(self) -> str:
        above = int((self.score.values > self.random_high.values).sum())
        size = " x ".join(str(n) for n in self.score.values.shape)
        return f"Composition({size}: {above} of {int((~self.score.values.isnan()).sum())} above 95 % of random)"


def _price(model: Model, **_: Any) -> float:
    """Every layer's W_Q, W_K and W_V are read off a pass of d_model tokens; Gram matrices cost about as much."""
    return float(2 * model.d_model)


def _refuse(model: Model, **_: Any) -> None:
    model.require_exact_weights("composition by weights")


@method("composition", title="Composition by weights", group="weights", refuse=_refuse, tokens=_price)
def composition(
    model: Model,
    writers: Annotated[
        Sequence[Asked] | None, fields.site(several=True, every=True, only=WRITERS, help="all that write, unless said")
    ] = None,
    readers: Annotated[
        Sequence[Asked] | None, fields.site(several=True, every=True, only=READERS, help="all that read, unless said")
    ] = None,
    *,
    random: Annotated[int, fields.count(low=20, high=10_000)] = 100,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Composition:
    """How much of what each writer puts into the stream each later reader takes out of it, by their matrices alone.

        score = |W_w W_r| / (|W_w| |W_r|),   Frobenius norms, of x W

    Writers: `embed` W_E, `pos_embed`, `result` (each head's W_V W_O), `mlp_out` W_out. Readers: `q` (each head's W_Q W_K^T), `k`
    (W_K W_Q^T), `v` (W_V W_O), `mlp_in` (W_in, with a gate both), `logits` W_U. Each behind the gains of the norms in front of
    it, and of LayerNorm the mean taken off; post-norms' gains after it; divisors, biases and rotary embeddings are left out. With
    a layer, `result.3`, of that layer alone; with numbers, `("result.3", [1, 2])`, of those heads; `("mlp_out.3", [5, 9])` is the
    group of those neurons.

    Random: for each pair of shapes so many draws of matrices with independent normal entries, a head's as the product of two. Two
    random matrices do not score zero but about 1 / sqrt(d_model), and one whose few large directions are read anywhere scores
    above it with everyone: compare along rows and columns too. What a score does not say is whether the path is used: that is
    `rs.path_patching`, or two edits.

        rs.composition(model, ["result.0"], ["k.1"]).top(3)

    Raises:
        SiteError, BadArguments: no such part; one given twice; `q` or `k` behind a norm of queries and keys, asked for by name.
        QuantisedModel, Cancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (Q-, K- and V-composition).
    """
    _refuse(model)
    if random < 1:
        raise BadArguments("there are no draws to compare with", received=f"random={random}", allowed="1 or more")
    with torch.no_grad():
        written = parts_of(model, _there(model, WRITERS) if writers is None else writers, WRITERS)
        read = parts_of(model, _there(model, READERS) if readers is None else readers, READERS)
        scores = _scores(model, written, read, progress, cancel)
    mean, high = _beside(written, read, random, seed)
    before = torch.tensor([[w.time >= r.time for r in read] for w in written])
    left_out = sorted({*WRITERS, *READERS} - {part.site.name for part in (*written, *read)})
    about = {
        **model.provenance, "method": "composition", "random": random, "seed": seed, "left out": left_out,
        "folded": "gains of the norms; divisors, biases and rotary embeddings are left out",
    }  # fmt: skip
    coords = {"writer": [part.name for part in written], "reader": [part.name for part in read]}

    def result(values: Tensor, name: str) -> Result:
        values = values.float().masked_fill(before, torch.nan)
        return Result(values, ("writer", "reader"), coords, name=name, unit="score", provenance=about)

    return Composition(
        result(scores, "composition score"), result(mean, "of random matrices"),
        result(high, "95 % of random matrices"), about,
    )  # fmt: skip


def _there(model: Model, names: tuple[str, ...]) -> list[str]:
    """Those of the sites that this model has as matrices."""
    absent = {*head_matrices(model, 0).absent}
    parts = model.layout.blocks[0]
    if parts.mlp_up is None or parts.mlp_down is None:
        absent |= {"mlp_in", "mlp_out"}
    return [name for name in names if name in model.sites.names and name not in absent]


def _scores(
    model: Model, written: list[Part], read: list[Part], progress: Progress, cancel: Cancel
) -> Float[Tensor, "writer reader"]:
    """|W_w W_r|^2 = tr(W_w^T W_w W_r W_r^T), some writers at a time; each over the traces of the two."""
    size = max(1, AT_ONCE // (4 * model.d_model**2))
    chunks = [written[at : at + size] for at in range(0, len(written), size)]
    total, found = sum(len(chunk) + len(read) for chunk in chunks), []
    with stage("Reading what is written and read", total, progress, cancel) as tell:
        done = 0
        for chunk in chunks:
            rows = []
            for gram in grams(model, chunk):
                rows.append((gram / gram.trace().clamp_min(1e-30)).flatten())
                tell(done := done + 1)
            stacked, columns, waiting = torch.stack(rows), [], []
            for number, gram in enumerate(grams(model, read), 1):
                waiting.append((gram / gram.trace().clamp_min(1e-30)).flatten())
                if len(waiting) == TOGETHER or number == len(read):
                    columns.append(stacked @ torch.stack(waiting).T)
                    waiting = []
                tell(done := done + 1)
            found.append(torch.cat(columns, 1))
    return torch.cat(found).clamp_min(0).sqrt().cpu()


def _beside(written: list[Part], read: list[Part], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and 95th percentile of the scores of random matrices, for each writer and reader by their shapes."""
    pairs = {(w.shape, r.shape): torch.zeros(2) for w in written for r in read}
    for number, (first, second) in enumerate(sorted(pairs)):
        drawn = torch.tensor([*_drawn(first, second, n, seed + number)])
        pairs[first, second] = torch.stack([drawn.mean(), drawn.quantile(0.95)])
    both = torch.stack([torch.stack([pairs[w.shape, r.shape] for r in read]) for w in written])
    return both[..., 0], both[..., 1]


def _drawn(first: tuple[int, ...], second: tuple[int, ...], n: int, seed: int) -> Iterator[float]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(n):
        R, T = random_core(first, draw), random_core(second, draw)
        yield float((R @ T.T).norm() / (R.norm() * T.norm()))
