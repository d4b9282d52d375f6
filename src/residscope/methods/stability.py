"""Would another half of the text have given the same direction? A dictionary refitted on halves, and what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope.corpus.chunks import Chunk, check_place, chunks, text_name
from residscope.corpus.moments import Moments
from residscope.corpus.text import Source
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import NotFitted, TextTooShort
from residscope.results import Result
from residscope.views import Curve, Line, Reference

Progress = Callable[[str, int, int], None]
BLOCKS = 8
REFITTED = ("pca", "svd")


@dataclass(frozen=True, eq=False, repr=False)
class Stability:
    """The best |cosine| of the direction among the components of each half's fit, and which component that was."""

    direction: str
    cosine: Result
    matched: tuple[int, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def typical(self) -> float:
        """The median over the halves."""
        return float(self.cosine.values.median())

    def view(self) -> Curve:
        x = [f"half {i + 1} (no. {m})" for i, m in enumerate(self.matched)]
        line = Line("best |cosine|", self.cosine.values)
        return Curve(
            x, [line], title=f"{self.direction} in fits on halves of the text", y_title="|cosine|",
            references=[Reference(0.8, "0.8", axis="y")], note="no.: the component that matched, counted from zero",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Stability({self.direction}: |cos| {self.typical:.3f} in {len(self.matched)} halves)"

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()


class Blocks:
    """Moments of a site by block: rows are dealt to eight blocks at random, eight at a time, so that a half is any four."""

    def __init__(self, site: str, head: int | None, width: int, *, seed: int) -> None:
        self.site, self.head, self.seed = site, head, seed
        self.blocks = [Moments.empty(width) for _ in range(BLOCKS)]

    def add(self, chunk: Chunk) -> None:
        x = chunk.at(self.site, self.head)
        for row, (vectors, keep) in enumerate(zip(x, chunk.keep(x), strict=True)):
            self.blocks[self._block(chunk.first + row)].add(vectors[keep].cpu())

    def merge(self, other: "Blocks") -> None:
        for mine, theirs in zip(self.blocks, other.blocks, strict=True):
            mine.merge(theirs)

    def _block(self, row: int) -> int:
        turn, place = divmod(row, BLOCKS)
        return int(np.random.default_rng([self.seed, turn]).permutation(BLOCKS)[place])

    def joined(self, blocks: Any = range(BLOCKS)) -> Moments:
        """The moments of some of the blocks; of all of them unless said."""
        found = Moments.empty(len(self.blocks[0].mean))
        for block in blocks:
            found.merge(self.blocks[block])
        return found


def fit_of(direction: Direction) -> Mapping[str, Any]:
    """What a direction's provenance says of the fit that made it, through changes of sign and length.

    Raises:
        NotFitted: it is a sum, an unembedding row, or was made by hand.
    """
    about: Mapping[str, Any] = direction.provenance
    while "times" in about:
        about = about["of"]
    if "dictionary" not in about or about["dictionary"] == "unembedding":
        raise NotFitted(
            "no fit made this direction, so there is none to do again",
            received=direction.name,
            allowed="a component of a fitted dictionary",
        )
    if about["dictionary"] not in REFITTED:
        raise NotFitted(
            f"a fit of the kind {about['dictionary']} is not done again here",
            received=direction.name,
            allowed=", ".join(REFITTED),
        )
    return about


def refit(moments: Moments, kind: str, n: int, *, standardised: bool = False) -> Float[Tensor, "n d"]:
    """The first n read vectors of a fit, from the moments alone: of the covariance (pca; of unit variances where
    standardised) or of the second moment about zero (svd). Signs are left as they come."""
    spread = moments.covariance
    if kind == "svd":
        spread = moments.scatter / max(moments.count, 1) + torch.outer(moments.mean, moments.mean)
    sigma = spread.diagonal().clamp_min(1e-300).sqrt() if standardised else torch.ones_like(moments.mean)
    _, vectors = torch.linalg.eigh(spread / torch.outer(sigma, sigma))
    return (vectors.flip(1).T[:n] / sigma).to(torch.float64)


def stability_of(direction: Direction, blocks: Blocks, *, resamples: int, about: Mapping[str, Any]) -> Stability:
    """`stability`, once the text has been read."""
    fit, seed = fit_of(direction), blocks.seed
    n = min(max(30, int(fit["index"]) + 10), len(direction.read))
    drawn = np.random.default_rng([seed, BLOCKS])
    read = direction.read.double().cpu()
    cosines, matched = [], []
    for _ in range(resamples):
        half = blocks.joined(drawn.permutation(BLOCKS)[: BLOCKS // 2].tolist())
        if half.count < 2:
            raise TextTooShort("a half of the text has too few tokens to fit on", received=str(half.count))
        found = refit(half, str(fit["dictionary"]), n, standardised=bool(fit.get("standardised", False)))
        cosine = torch.nn.functional.cosine_similarity(found, read[None], dim=1).abs()
        cosines.append(float(cosine.max()))
        matched.append(int(cosine.argmax()))
    about = {**about, "fit": fit["dictionary"], "components": n, "resamples": resamples, "seed": seed}
    about |= {"tokens": sum(block.count for block in blocks.blocks), "first fitted on": str(fit.get("corpus", ""))}
    result = Result(torch.tensor(cosines), ("half",), name="|cosine|", provenance=about)
    return Stability(direction.name, result, tuple(matched), about)


def stability(
    model: Model,
    direction: Direction,
    corpus: Source,
    *,
    resamples: int = 8,
    tokens: int = 20_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Stability:
    """Refit the dictionary a direction is of on random halves of a text's rows, and look for the direction in each fit.

        c = max_i |cos(read, read_i)|        over the components i of a half's fit

    One pass: rows are dealt to eight blocks, whose moments are kept; a half is four of them.

        rs.stability(model, pca[7], "python-docs").typical

    Raises:
        NotFitted: no fit made it (unembedding rows, sums, vectors of your own). TextTooShort, CorpusError.
    """
    fit_of(direction)
    site = check_place(model, direction.site, direction.head)
    blocks = Blocks(direction.site, direction.head, model.sites.width(site), seed=seed)
    read = 0
    for chunk in chunks(model, corpus, [direction.site], tokens=tokens):
        blocks.add(chunk)
        read += sum(chunk.record.lengths)
        if progress is not None:
            progress("stability", min(read, tokens), tokens)
    about = {**model.provenance, "method": "stability", "corpus": text_name(corpus)}
    return stability_of(direction, blocks, resamples=resamples, about=about)
