"""Would another half of the text have given the same direction? A dictionary refitted on halves, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.chunks import Chunk, chunks
from residscope.corpus.moments import Moments
from residscope.corpus.nmf import factorised
from residscope.corpus.pca import principal
from residscope.corpus.reading import Reader
from residscope.corpus.svd import singular
from residscope.corpus.text import Source
from residscope.corpus.vectors import check_direction
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import NotFitted, TooFewVectors
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Reference, Scatter

BLOCKS = 8
SAMPLE = 4000
LEAST = {"pca": 30, "svd": 30, "nmf": 10}  # components of each kind of fit that is done again


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Report):
    """The best |cosine| of the direction among the components of each half's fit, and which component that was."""

    kind: ClassVar[str] = "report:stability"
    main: ClassVar[str] = "cosine"
    direction: str
    cosine: Result
    matched: tuple[int, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def typical(self) -> float:
        """The median over the halves."""
        return float(self.cosine.values.median())

    def view(self) -> Scatter:
        texts = [f"component {m} of that fit" for m in self.matched]
        return Scatter(
            list(range(1, len(texts) + 1)), self.cosine.values, texts=texts, x_title="half", y_title="best |cosine|",
            title=f"{self.direction} in fits on halves of the text", references=[Reference(0.8, "0.8", axis="y")],
            note=f"matched: component {', '.join(map(str, sorted({*self.matched})))}, counted from zero",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Stability({self.direction}: |cos| {self.typical:.3f} in {len(self.matched)} halves)"


class Blocks:
    """Moments of a site by block: rows are dealt to eight blocks at random, eight at a time, so that a half is any four.

    vectors: keep up to 4,000 vectors too, for fits that moments do not give (nmf).
    """

    def __init__(self, site: str, head: int | None, width: int, *, seed: int, vectors: bool = False) -> None:
        self.site, self.head, self.seed = site, head, seed
        self.blocks = [Moments.empty(width) for _ in range(BLOCKS)]
        self.vectors: list[list[Tensor]] | None = [[] for _ in range(BLOCKS)] if vectors else None

    def add(self, chunk: Chunk) -> None:
        x = chunk.at(self.site, self.head)
        for row, (vectors, keep) in enumerate(zip(x, chunk.keep(self.site), strict=True)):
            block = self._block(chunk.first + row)
            if self.vectors is not None and self.blocks[block].count < SAMPLE // BLOCKS:
                self.vectors[block].append(vectors[keep].cpu().float())
            self.blocks[block].add(vectors[keep].cpu())

    def merge(self, other: "Blocks") -> None:
        for mine, theirs in zip(self.blocks, other.blocks, strict=True):
            mine.merge(theirs)
        for own, more in zip(self.vectors or (), other.vectors or (), strict=True):
            own += more

    def _block(self, row: int) -> int:
        turn, place = divmod(row, BLOCKS)
        return int(np.random.default_rng([self.seed, turn]).permutation(BLOCKS)[place])

    def joined(self, blocks: Sequence[int] = range(BLOCKS)) -> Moments:
        """The moments of some of the blocks; of all of them unless said."""
        moments = Moments.empty(len(self.blocks[0].mean))
        for block in blocks:
            moments.merge(self.blocks[block])
        return moments

    def refit(self, blocks: Sequence[int], fit: Mapping[str, Any], *, cancel: Cancel = None) -> Float[Tensor, "n d"]:
        """What the fit of a provenance gives on some of the blocks: its read vectors; of nmf its parts.

        Raises:
            TooFewVectors: fewer vectors than are needed.
        """
        kind, moments = str(fit["dictionary"]), self.joined(blocks)
        most = len(moments.mean)
        n = min(max(LEAST.get(kind, 1), int(fit["index"]) + (1 if kind == "nmf" else 10)), most)
        if moments.count <= n:
            raise TooFewVectors(
                "half of the text has too few tokens to fit on", received=str(moments.count), allowed=f"over {n}"
            )
        match kind:
            case "pca":
                components = principal(moments, n, standardise=bool(fit.get("standardised", False)))["read"]
            case "svd":
                components = singular(moments, n)["read"]
            case "nmf":
                assert self.vectors is not None
                x = torch.cat([part for block in blocks for part in self.vectors[block]])
                components = factorised(x.clamp_min(0), n, seed=self.seed, progress=False, cancel=cancel)[0]["write"]
            case _:
                raise NotFitted("no fit of this kind is done again", received=kind, allowed=", ".join(LEAST))
        return components.double().cpu()


def fit_of(direction: Direction) -> Mapping[str, Any]:
    """What a direction's provenance says of the fit that made it, through changes of sign and length.

    Raises:
        NotFitted: it is a sum, an unembedding row, or was made by hand; or its fit needs more than one text.
    """
    about: Mapping[str, Any] = direction.provenance
    while "times" in about:
        about = about["of"]
    kind = about.get("dictionary")
    if kind in LEAST:
        return about
    if kind == "mean_difference":
        raise NotFitted(
            "a difference of means is of two texts, and one is given", received=direction.name, allowed=", ".join(LEAST)
        )
    raise NotFitted(
        "no fit made this direction, so there is none to do again",
        received=direction.name,
        allowed="a component of a fitted dictionary: " + ", ".join(LEAST),
    )


def stability_of(
    direction: Direction,
    blocks: Blocks,
    *,
    resamples: int = 8,
    about: Mapping[str, Any],
    progress: Progress = None,
    cancel: Cancel = None,
) -> Stability:
    """`stability`, once the text has been read. Raises NotFitted, TooFewVectors, Cancelled."""
    fit, drawn = fit_of(direction), np.random.default_rng([blocks.seed, BLOCKS])
    kind = str(fit["dictionary"])
    own = (direction.write if kind == "nmf" else direction.read).double().cpu()
    cosines, matched, n = [], [], 0
    times = min(resamples, 3) if kind == "nmf" else resamples
    with stage("Fitting halves of the text", times, progress, cancel) as tell:
        for _ in range(times):
            components = blocks.refit(drawn.permutation(BLOCKS)[: BLOCKS // 2].tolist(), fit, cancel=cancel)
            cosine = torch.nn.functional.cosine_similarity(components, own[None], dim=1).abs()
            cosines.append(float(cosine.max()))
            matched.append(int(cosine.argmax()))
            n = len(components)
            tell(len(cosines))
    about = {**about, "fit": kind, "components": n, "resamples": len(cosines), "seed": blocks.seed}
    about |= {"tokens": sum(block.count for block in blocks.blocks), "first fitted on": str(fit.get("corpus", ""))}
    result = Result(torch.tensor(cosines), ("half",), name="|cosine|", unit="cosine", provenance=about)
    return Stability(direction.name, result, tuple(matched), about)


@method("stability", title="Stability of a fit", group="evidence", tokens="tokens")
def stability(
    model: Model,
    direction: Annotated[Direction, fields.direction()],
    corpus: Annotated[Source, fields.text()],
    *,
    resamples: Annotated[int, fields.count(low=2, high=100)] = 8,
    tokens: Annotated[int, fields.count(low=1000)] = 20_000,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Stability:
    """Refit the dictionary a direction is of on random halves of a text's rows, and look for the direction in each fit.

        c = max_i |cos(read, read_i)|        over the components i of a half's fit

    One pass: rows are dealt to eight blocks, whose moments are kept; a half is four of them.

        rs.stability(model, pca[7], "python-docs").typical

    Raises:
        NotFitted: no fit made it (unembedding rows, sums, vectors of your own). TooFewVectors, CorpusError, Cancelled.
    """
    nmf = fit_of(direction)["dictionary"] == "nmf"
    site = check_direction(model, direction)
    blocks = Blocks(direction.site, direction.head, model.sites.width(site), seed=seed, vectors=nmf)
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    reader = Reader(model, corpus)
    for chunk in chunks(model, reader, [direction.site], tokens=tokens, **watch):
        blocks.add(chunk)
    about = {**model.provenance, "method": "stability", **reader.about}
    return stability_of(direction, blocks, resamples=resamples, about=about, **watch)
