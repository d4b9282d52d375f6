"""The tour of the Residual Stream Viewer, taken again: everything measured, in one frozen value; `viewer_page.py` shows it."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.corpus.chunks import chunks
from residscope.corpus.pca import pca_many
from residscope.corpus.text import Source, called, texts
from residscope.corpus.vectors import Progress
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import CorpusError
from residscope.methods.random_like import of_data
from residscope.methods.removal_cost import RemovalCost, removal_cost
from residscope.reproduce.kinds import AUXILIARIES, AUXILIARY, NAME, kinds
from residscope.reproduce.viewer_stream import StreamErrors, stream_errors
from residscope.results import Result
from residscope.tasks.ioi import NAMES
from residscope.tasks.spans import single_tokens

HALVES = ("chosen on", "held out")
SEED_COMPONENT = 7
"""Of layer 0: "the eighth-most important direction", auxiliary verbs at one end and proper nouns at the other."""


@dataclass(frozen=True)
class Size:
    """How much is run: tokens that components are fitted on, tokens that they are judged on, directions drawn at random."""

    components: int = 30
    fitted: int = 20_000
    judged: int = 12_000
    random: int = 30
    shown: int = 4
    prompts: int = 12
    length: int = 64
    removals: int = 19

    @classmethod
    def quick(cls) -> "Size":
        return cls(components=10, fitted=2_000, judged=2_000, random=8, shown=2, prompts=2, length=24, removals=4)


@dataclass(frozen=True)
class Pick:
    """One component, and what it scored where it was chosen and on tokens that had no part in choosing it."""

    row: int
    site: str
    index: int
    chosen: float
    held: float

    def __str__(self) -> str:
        return f"PC {self.index} of {self.site}"


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured. position: Spearman's rho of each coordinate with the position, over half, row and component.

    words: the chance that an auxiliary verb reads higher than a name (AUC), likewise. tokens: eta squared of the coordinate by the
    token's identity, over row and direction: the components, then random ones. vocabulary: AUC of the components of the
    embedding over words and first names of the vocabulary, each once. flawed: Spearman's rho of a standardised component's coordinate
    with the same component read without standardising, as the viewer did, over row and component.
    """

    dictionaries: Mapping[str, Dictionary]
    position: Result
    words: Result
    tokens: Result
    vocabulary: Float[Tensor, "component"]
    flawed: Result
    counts: Mapping[str, int]
    strips: tuple[tuple[str, ...], ...]
    values: Mapping[str, tuple[Float[Tensor, "pos"], ...]]
    ends: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    removed: Mapping[str, RemovalCost]
    stream: StreamErrors
    best_position: Pick
    best_words: Pick
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(self.dictionaries)

    @property
    def seeds_own(self) -> Pick:
        """The component that the guide names."""
        words = self.words.values[:, 0, min(SEED_COMPONENT, self.words.sizes["component"] - 1)]
        return Pick(0, self.rows[0], SEED_COMPONENT, float(words[0]), float(words[1]))


def viewer_study(
    model: Model,
    corpus: Source = "python-docs",
    *,
    size: Size | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Study:
    """Components of every row of the stream, and whether they do what the viewer's guide says of them.

    Components are fitted on some texts of the corpus and judged on others. What is chosen among components is chosen on one half
    of the judged tokens and quoted of the other.

    Raises:
        CorpusError: too little text. TooFewWords: the tokenizer splits the names.
    """
    size, began = size or Size(), time.monotonic()
    every = list(texts(corpus))
    random.Random(seed).shuffle(every)
    fit_on, judge_on = every[::2], every[1::2]
    if not judge_on:
        raise CorpusError("the tour needs two texts or more", received=f"{len(every)}", fix="give more texts")
    rows = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.n_layers))]
    plain, standard = (
        pca_many(model, fit_on, rows, size.components, standardise=s, tokens=size.fitted, progress=progress)
        for s in (False, True)
    )
    judged = _Judged(model, judge_on, plain, standard, size, seed, progress)
    position, words = judged.position(), judged.words()
    best_position, best_words = (_best(found, rows, centre) for found, centre in ((position, 0.0), (words, 0.5)))
    own = Pick(0, rows[0], min(SEED_COMPONENT, size.components - 1), 0.0, 0.0)
    picks = {str(pick): pick for pick in (own, best_position, best_words)}
    prompts = judged.windows(size.prompts, size.length)
    removed = {
        name: removal_cost(
            model, plain[pick.site][pick.index], prompts, random=size.removals, seed=seed, progress=progress
        )
        for name, pick in picks.items()
        if len(prompts) > 1
    }
    about = {
        **model.provenance, "text": called(corpus), "fitted on": size.fitted, "judged on": judged.count, "seed": seed,
        "components": size.components, "seconds": round(time.monotonic() - began, 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Study(
        plain, position, words, judged.tokens(), _vocabulary(model, plain[rows[0]]), judged.flawed(), judged.counts(),
        judged.strips(size.shown), {n: judged.strip_values(p, size.shown) for n, p in picks.items()},
        {n: judged.ends(p) for n, p in picks.items()}, removed, stream_errors(model, prompts[:4]), best_position, best_words, about,
    )  # fmt: skip


class _Judged:
    """The coordinates of held-out tokens along every component, along its standardised fellow, and along random directions."""

    def __init__(
        self, model: Model, corpus: Sequence[str], plain: Mapping[str, Dictionary], standard: Mapping[str, Dictionary],
        size: Size, seed: int, progress: Progress | None,
    ) -> None:  # fmt: skip
        self.rows = list(plain)
        self.k = size.components
        found: dict[str, list[Tensor]] = {row: [] for row in self.rows}
        fixed: dict[str, list[Tensor]] = {row: [] for row in self.rows}
        drawn: dict[str, Tensor] = {}
        self.ids: list[list[int]] = []
        self.texts: list[list[str]] = []
        kept: list[Tensor] = []
        for chunk in chunks(model, corpus, self.rows, tokens=size.judged):
            keep = torch.stack([chunk.keep(row) for row in self.rows]).all(0)
            for row in self.rows:
                x = chunk.at(row).double()
                if row not in drawn:
                    drawn[row] = of_data(torch.zeros(x.shape[-1]) + 1e-9, x[keep], size.random, seed=seed)
                both = torch.cat([plain[row].read.double().to(x), drawn[row].to(x)])
                centred = x - plain[row].mean.to(x)
                found[row].append((centred @ both.T).cpu().flatten(0, 1))
                v = standard[row].write / standard[row].write.norm(dim=1, keepdim=True)
                pair = torch.stack([centred @ standard[row].read.to(x).T, x @ v.to(x).T])
                fixed[row].append(pair.cpu().flatten(1, 2))
            lengths = chunk.record.batch.lengths
            tokens = [ids[:length].tolist() for ids, length in zip(chunk.record.tokens, lengths, strict=True)]
            self.ids += tokens
            self.texts += [model.token_texts(ids) for ids in tokens]
            self.width = keep.shape[1]
            kept.append(keep.cpu())
            if progress is not None:
                progress("judge", min(sum(map(len, self.ids)), size.judged), size.judged)
        self.keep = torch.cat([k.flatten() for k in kept])
        self.y = {row: torch.cat(parts) for row, parts in found.items()}
        self.pairs = {row: torch.cat(parts, 1) for row, parts in fixed.items()}
        self.starts = [0]
        for part, row_kept in ((p, r) for k in kept for p, r in [(k.shape[1], k)] * k.shape[0]):
            self.starts.append(self.starts[-1] + part)
        flat_ids, flat_kinds, flat_pos, text = [], [], [], []
        for number, (ids, words) in enumerate(zip(self.ids, self.texts, strict=True)):
            pad = self.starts[number + 1] - self.starts[number] - len(ids)
            flat_ids += ids + [-1] * pad
            flat_kinds += kinds(words) + [""] * pad
            flat_pos += [*range(len(ids))] + [-1] * pad
            text += [number] * (len(ids) + pad)
        self.id, self.pos, self.row_of = torch.tensor(flat_ids), torch.tensor(flat_pos), torch.tensor(text)
        self.kind = flat_kinds
        self.half = self.row_of % 2

    @property
    def count(self) -> int:
        return int(self.keep.sum())

    def _halves(self) -> list[Bool[Tensor, "token"]]:
        return [self.keep & (self.half == i) for i in (0, 1)]

    def position(self) -> Result:
        values = torch.stack(
            [
                torch.stack([_spearman(self.y[row][half, : self.k], self.pos[half]) for row in self.rows])
                for half in self._halves()
            ]
        )
        return self._over_halves(values, "Spearman's rho with the position")

    def words(self) -> Result:
        is_kind = {name: torch.tensor([k == name for k in self.kind]) for name in (AUXILIARY, NAME)}
        values = torch.stack(
            [
                torch.stack(
                    [
                        _auc(*(self.y[row][half & is_kind[name], : self.k] for name in (AUXILIARY, NAME)))
                        for row in self.rows
                    ]
                )
                for half in self._halves()
            ]
        )
        return self._over_halves(values, "AUC of auxiliary verbs over names")

    def tokens(self) -> Result:
        values = torch.stack([_eta_squared(self.y[row][self.keep], self.id[self.keep]) for row in self.rows])
        kind = ["component"] * self.k + ["random"] * (values.shape[1] - self.k)
        return Result(
            values, ("row", "direction"), {"row": self.rows, "kind": kind}, {"kind": "direction"},
            name="eta squared by token", exact="on held-out tokens",
        )  # fmt: skip

    def flawed(self) -> Result:
        values = torch.stack(
            [
                torch.stack([_spearman(a[:, i : i + 1], b[:, i])[0] for i in range(a.shape[1])])
                for a, b in (self.pairs[row][:, self.keep] for row in self.rows)
            ]
        )
        return Result(values, ("row", "component"), {"row": self.rows}, name="Spearman's rho with the true coordinate")

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in (AUXILIARY, NAME):
            here = [int(i) for i, k, kept in zip(self.id, self.kind, self.keep, strict=True) if k == name and kept]
            found |= {name: len(here), f"{name}, distinct": len({*here})}
        return found

    def windows(self, n: int, length: int) -> list[list[int]]:
        """Held-out prompts of one length: the beginnings of rows that are long enough."""
        return [ids[:length] for ids in self.ids if len(ids) >= length][:n]

    def strips(self, n: int, length: int = 30) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(self.texts[i][:length]) for i in self._shown(n, length))

    def strip_values(self, pick: Pick, n: int, length: int = 30) -> tuple[Float[Tensor, "pos"], ...]:
        y = self.y[pick.site][:, pick.index]
        return tuple(y[self.starts[i] : self.starts[i] + length].float() for i in self._shown(n, length))

    def _shown(self, n: int, length: int) -> list[int]:
        return [i for i, ids in enumerate(self.ids) if len(ids) >= length][:n]

    def ends(self, pick: Pick, n: int = 12) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The distinct tokens that read highest and lowest on the mean over their occurrences."""
        y, ids = self.y[pick.site][self.keep, pick.index], self.id[self.keep]
        known, of, counts = ids.unique(return_inverse=True, return_counts=True)
        mean = torch.zeros(len(known), dtype=y.dtype).index_add_(0, of, y) / counts
        order = mean.argsort(descending=True)
        names = {
            int(i): text
            for row, words in zip(self.ids, self.texts, strict=True)
            for i, text in zip(row, words, strict=True)
        }
        high, low = order[:n], order.flip(0)[:n]
        return tuple(names[int(known[i])] for i in high), tuple(names[int(known[i])] for i in low)

    def _over_halves(self, values: Tensor, name: str) -> Result:
        dims = ("half", "row", "component")
        return Result(values, dims, {"half": HALVES, "row": self.rows}, name=name, exact="on held-out tokens")


def _best(found: Result, rows: Sequence[str], centre: float) -> Pick:
    """The component furthest from `centre` on the first half."""
    values = found.values
    row, index = divmod(int((values[0] - centre).abs().nan_to_num(-1).argmax()), values.shape[2])
    return Pick(row, rows[row], index, float(values[0, row, index]), float(values[1, row, index]))


def _vocabulary(model: Model, dictionary: Dictionary) -> Float[Tensor, "component"]:
    """AUC of auxiliary verbs over first names, each word of the vocabulary once, at the embedding."""
    words = [
        [model.token_id(f" {word}") for word in single_tokens(model, group, least=4, what=what)]
        for group, what in ((AUXILIARIES, "auxiliary verbs"), (NAMES, "names"))
    ]
    rows = [[[i] if not model.bos else [model.tokenizer.bos_token_id, i] for i in ids] for ids in words]
    reads = [torch.cat([model.run(part, ["resid_pre.0"])["resid_pre.0"][:, -1]]) for part in rows]
    return _auc(*(dictionary.encode(x.float().cpu()) for x in reads))


def _spearman(y: Float[Tensor, "token k"], x: Tensor) -> Float[Tensor, "k"]:
    """Pearson's correlation of the ranks, ties at their mean rank."""
    from scipy.stats import rankdata

    a, b = torch.tensor(rankdata(y.numpy(), axis=0)), torch.tensor(rankdata(x.numpy()))
    a, b = a - a.mean(0), b - b.mean()
    return (a * b[:, None]).sum(0) / (a.norm(dim=0) * b.norm()).clamp_min(1e-300)


def _auc(high: Float[Tensor, "a k"], low: Float[Tensor, "b k"]) -> Float[Tensor, "k"]:
    """The chance that one of the first reads higher than one of the second, ties counted half (Mann and Whitney, 1947)."""
    from scipy.stats import rankdata

    n, m = len(high), len(low)
    if not n or not m:
        return torch.full((high.shape[1],), torch.nan, dtype=torch.float64)
    ranks = torch.tensor(rankdata(torch.cat([high, low]).double().numpy(), axis=0))
    return (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)


def _eta_squared(y: Float[Tensor, "token k"], ids: Tensor) -> Float[Tensor, "k"]:
    """The share of a coordinate's variance that lies between tokens, of those that occur twice or more."""
    _, of, counts = ids.unique(return_inverse=True, return_counts=True)
    held = counts[of] > 1
    y, of = y[held] - y[held].mean(0), of[held].unique(return_inverse=True)[1]
    size = of.bincount().double()
    means = torch.zeros(len(size), y.shape[1], dtype=y.dtype).index_add_(0, of, y) / size[:, None]
    return (size[:, None] * means**2).sum(0) / (y**2).sum(0).clamp_min(1e-300)
