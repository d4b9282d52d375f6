"""Tokens of texts that no fit has seen, and their coordinates: along components, random directions, and what the viewer drew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.corpus.chunks import Chunk, chunks
from residscope.corpus.moments import Moments
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import CorpusError
from residscope.methods._lib.random_like import uniform
from residscope.progress import Cancel, Progress
from residscope.reproduce.viewer.measures import auc, eta_squared, percentile, spearman
from residscope.reproduce.viewer.word_kinds import AUXILIARY, NAME, kinds
from residscope.results import Result

HALVES = ("chosen on", "held out")
MEASURES = ("AUC", AUXILIARY, NAME)
COMPONENTS, UNIFORM, DATA, STANDARDISED, DRAWN = "components", "uniform", "data", "standardised", "as drawn"
Measure = Callable[[Float[Tensor, "token k"], Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Directions:
    """What is read at one row of the stream, in blocks: read . (x - mean).

    components: of the fit. uniform, data: random, all alike or as the text varies. standardised: components of standardised
    vectors, v / sigma. as drawn: v itself, with the raw vector, as the viewer read them.
    """

    mean: Float[Tensor, "d"]
    blocks: Mapping[str, Float[Tensor, "k d"]]

    @classmethod
    def of(cls, plain: Dictionary, standard: Dictionary, moments: Moments, *, n: int, seed: int) -> "Directions":
        values, vectors = torch.linalg.eigh(moments.covariance.cpu())
        g = torch.randn(n, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        data = (g * values.clamp_min(0).sqrt()) @ vectors.T
        v = standard.read.sign() * (standard.read * standard.write).clamp_min(0).sqrt()
        blocks = {
            COMPONENTS: plain.read,
            UNIFORM: uniform(plain.read[0], n, seed=seed + 1),
            DATA: data / data.norm(dim=1, keepdim=True),
            STANDARDISED: standard.read,
            DRAWN: v,
        }
        return cls(plain.mean.double().cpu(), {name: block.double().cpu() for name, block in blocks.items()})

    def read(self, x: Float[Tensor, "token d"]) -> dict[str, Float[Tensor, "token k"]]:
        centred = x.double().cpu() - self.mean
        return {name: (centred @ block.T).float() for name, block in self.blocks.items()}


@dataclass(frozen=True, eq=False)
class Row:
    """A row of text as the model read it."""

    half: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Judged:
    """Every token that is neither first in its row nor an attention sink. y: coordinates, by row of the stream and block."""

    lines: tuple[Row, ...]
    line: Int[Tensor, "token"]
    pos: Int[Tensor, "token"]
    y: Mapping[str, Mapping[str, Float[Tensor, "token k"]]]

    @cached_property
    def half(self) -> Int[Tensor, "token"]:
        return torch.tensor([line.half for line in self.lines])[self.line]

    @cached_property
    def ids(self) -> Int[Tensor, "token"]:
        return torch.tensor([self.lines[i].ids[pos] for i, pos in self._places()])

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        by_line = [kinds(line.tokens) for line in self.lines]
        return tuple(by_line[i][pos] for i, pos in self._places())

    def _places(self) -> list[tuple[int, int]]:
        return list(zip(self.line.tolist(), self.pos.tolist(), strict=True))

    def is_kind(self, name: str) -> Tensor:
        return torch.tensor([kind == name for kind in self.kinds])

    def position(self, block: str = COMPONENTS) -> Result:
        """Spearman's rho of each coordinate with the position in the row, over half, row and component."""
        values = self._by_half(block, lambda y, half: spearman(y, self.pos[half].double())[None])
        return self._result(values[:, :, 0], ("half", "row", "component"), "Spearman's rho with the position", "rho")

    def words(self, block: str = COMPONENTS) -> Result:
        """AUC of auxiliary verbs over names, and the median percentile of each, over measure, half, row and component."""
        auxiliary, name = self.is_kind(AUXILIARY), self.is_kind(NAME)

        def measure(y: Tensor, half: Tensor) -> Tensor:
            a, b = auxiliary[half], name[half]
            return torch.stack([auc(y[a], y[b]), percentile(y, a), percentile(y, b)])

        values = self._by_half(block, measure).movedim(2, 0)
        return self._result(
            values, ("measure", "half", "row", "component"), "auxiliary verbs and names", "AUC or percentile"
        )

    def tokens(self, block: str = COMPONENTS, *, shuffled: int | None = None) -> Result:
        """Eta squared of each coordinate by the token, over row and direction; of tokens shuffled with a seed, as a control."""
        ids = self.ids
        if shuffled is not None:
            ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(shuffled))]
        values = torch.stack([eta_squared(y[block], ids) for y in self.y.values()])
        return self._result(values, ("row", "direction"), "eta squared by token", "share")

    def drawn(self) -> Result:
        """Spearman's rho of a standardised component's coordinate with what the viewer drew for it, over row and component."""
        values = torch.stack([spearman(y[STANDARDISED], y[DRAWN].double()) for y in self.y.values()])
        return self._result(values, ("row", "component"), "Spearman's rho with the true coordinate", "rho")

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many held-out tokens there are of each kind, and how many distinct ones."""
        counts = {}
        for name in (AUXILIARY, NAME):
            ids = self.ids[self.is_kind(name) & (self.half == 1)]
            counts[name] = (len(ids), len({*ids.tolist()}))
        return counts

    def prompts(self, n: int, length: int) -> list[list[int]]:
        """The beginnings of held-out rows, of one length: the one asked for, or the longest that two rows have.

        Raises:
            CorpusError: no two rows of three tokens.
        """
        rows = sorted((line.ids for line in self.lines if line.half == 1), key=len, reverse=True)
        length = min(length, len(rows[1]) if len(rows) > 1 else 0)
        if length < 3:
            raise CorpusError(
                "the held-out texts give no two prompts", received=f"{len(rows)} rows", fix="give longer texts"
            )
        return [list(ids[:length]) for ids in rows if len(ids) >= length][:n]

    def strips(self, site: str, index: int, *, n: int, length: int = 30) -> list[tuple[tuple[str, ...], list[float]]]:
        """The beginnings of the longest held-out rows, with the coordinates of their tokens; NaN where one was left out."""
        numbers = [i for i, line in enumerate(self.lines) if line.half == 1]
        strips = []
        for i in sorted(numbers, key=lambda i: -len(self.lines[i].ids))[:n]:
            values = torch.full((len(self.lines[i].ids),), torch.nan)
            here = self.line == i
            values[self.pos[here]] = self.y[site][COMPONENTS][here, index]
            strips.append((self.lines[i].tokens[:length], values[:length].tolist()))
        return strips

    def ends(self, site: str, index: int, *, n: int = 8) -> tuple[list[str], list[str]]:
        """The distinct tokens with a letter in them that read highest and lowest on the mean over their occurrences."""
        y = self.y[site][COMPONENTS][:, index].double()
        known, of, counts = torch.unique(self.ids, return_inverse=True, return_counts=True)
        order = (torch.zeros(len(known), dtype=y.dtype).index_add_(0, of, y) / counts).argsort(descending=True)
        texts = {i: token for line in self.lines for i, token in zip(line.ids, line.tokens, strict=True)}
        ordered = [texts[i] for i in known[order].tolist()]
        ordered = [token for token in ordered if any(map(str.isalpha, token))]
        return ordered[:n], ordered[::-1][:n]

    def _by_half(self, block: str, measure: Measure) -> Float[Tensor, "half row measure k"]:
        halves = [self.half == i for i in range(len(HALVES))]
        return torch.stack([torch.stack([measure(y[block][half], half) for y in self.y.values()]) for half in halves])

    def _result(self, values: Tensor, dims: tuple[str, ...], name: str, unit: str) -> Result:
        coords = {"measure": MEASURES, "half": HALVES, "row": tuple(self.y)}
        own = {k: v for k, v in coords.items() if k in dims}
        return Result(values, dims, own, name=name, unit=unit, exact="on held-out tokens")


def judge(
    model: Model,
    halves: Sequence[Sequence[str]],
    directions: Mapping[str, Directions],
    *,
    tokens: int,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Judged:
    """Read two lists of texts, half of the tokens from each, along the directions of every row of the stream.

    Raises:
        CorpusError: a list gives no row of text. Cancelled: `cancel` said so.
    """
    lines: list[Row] = []
    parts: list[tuple[Tensor, Tensor, dict[str, dict[str, Tensor]]]] = []
    for half, texts in enumerate(halves):
        what = f"Reading the {HALVES[half]} half" if half < len(HALVES) else f"Reading part {half}"
        for chunk in chunks(
            model, texts, list(directions), tokens=tokens // len(halves), what=what, progress=progress, cancel=cancel
        ):
            parts.append(_read(chunk, directions, len(lines)))
            lengths = chunk.record.batch.lengths
            ids = [row[:n].tolist() for row, n in zip(chunk.record.tokens, lengths, strict=True)]
            lines += [Row(half, tuple(row), tuple(model.token_texts(row))) for row in ids]
    line, pos = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    y = {
        row: {name: torch.cat([part[2][row][name] for part in parts]) for name in at.blocks}
        for row, at in directions.items()
    }
    return Judged(tuple(lines), line, pos, y)


def _read(
    chunk: Chunk, directions: Mapping[str, Directions], first: int
) -> tuple[Tensor, Tensor, dict[str, dict[str, Tensor]]]:
    """Which line and position each kept token has, and its coordinates."""
    keep = torch.stack([chunk.keep(row) for row in directions]).all(0)
    line, pos = keep.cpu().nonzero(as_tuple=True)
    return line + first, pos, {row: at.read(chunk.at(row)[keep]) for row, at in directions.items()}
