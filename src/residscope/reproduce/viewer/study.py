"""The tour of the Residual Stream Viewer, taken again: everything measured, in one frozen value; `viewer_page.py` shows it."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.corpus.harvest.fits import moments_of
from residscope.corpus.moments import Moments
from residscope.corpus.pca import principal
from residscope.corpus.text import Source, called, opened, texts
from residscope.corpus.vectors import check_count, check_size
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.errors import CorpusError, DirectionError, NoTokenizer, TooFewWords
from residscope.methods.evidence.removal_cost import RemovalCost, removal_cost
from residscope.progress import Cancel, Progress
from residscope.reproduce.viewer.measures import auc
from residscope.reproduce.viewer.stream import StreamErrors, stream_errors
from residscope.reproduce.viewer.tokens import COMPONENTS, DATA, STANDARDISED, UNIFORM, Directions, judge
from residscope.reproduce.viewer.word_kinds import AUXILIARIES
from residscope.results import Result
from residscope.tasks.ioi import NAMES

GUIDES_OWN = 7
"""Of layer 0: "the eighth-most important direction", auxiliary verbs at one end and proper nouns at the other."""
END = 75
"""A kind of words is at an end where its median lies in the outer quarter of all tokens."""
POOL = 20_000_000
"""Characters of the corpus that texts are drawn from."""


@dataclass(frozen=True)
class Size:
    """How much is run.

    fitted, judged: tokens that components are fitted and judged on. random: directions drawn at random, of each kind.
    shown: texts that are shown. prompts, length, removals: of the removal costs, the last the random directions taken away.
    """

    components: int = 30
    fitted: int = 20_000
    judged: int = 12_000
    random: int = 39
    shown: int = 4
    prompts: int = 12
    length: int = 64
    removals: int = 39

    @classmethod
    def quick(cls) -> "Size":
        return cls(components=8, fitted=1_500, judged=2_000, random=19, shown=2, prompts=2, length=16, removals=3)


@dataclass(frozen=True)
class Pick:
    """One direction, and what it scored on the texts it was chosen on and on others."""

    row: int
    site: str
    index: int
    chosen: float
    held: float

    def __str__(self) -> str:
        return f"PC {self.index} of {self.site}"


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured, over rows of the stream (before block 0, then after each block) and components.

    position: Spearman's rho with the position, over half, row and component. words: AUC of auxiliary verbs over names and
    the median percentile of each, over measure, half, row and component; standardised: the same of components of
    standardised vectors. tokens: eta squared by token, over row and direction, by kind of direction. vocabulary: AUC over
    auxiliary verbs and first names of the vocabulary, each once, of the components before block 0. drawn: rho of what the
    viewer drew with the true coordinate. counts: held-out words of each kind, and distinct ones. picks: the guide's own, the
    best of position and of words. chance: the best of as many random directions, chosen likewise.
    """

    dictionaries: Mapping[str, Dictionary]
    position: Result
    words: Result
    standardised: Result
    tokens: Mapping[str, Result]
    vocabulary: Float[Tensor, "component"]
    drawn: Result
    counts: Mapping[str, tuple[int, int]]
    picks: Mapping[str, Pick]
    chance: Mapping[str, Pick]
    strips: Mapping[str, Sequence[tuple[Sequence[str], Sequence[float]]]]
    ends: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    removed: Mapping[str, RemovalCost]
    stream: StreamErrors
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(self.dictionaries)


def viewer_study(
    model: Model,
    corpus: Source = "python-docs",
    *,
    size: Size | None = None,
    seed: int = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Study:
    """Components of every row of the stream, and whether they do what the viewer's guide says of them.

    Half of the corpus' texts are fitted on. Of the others, one half chooses among components, and the rest says how good the
    choice is: what is quoted of a chosen component, its pictures and its removal cost are of texts that had no part in fitting
    or choosing it.

    Raises:
        NoTokenizer: the tour reads text. TooFewWords: the tokenizer splits the words. CorpusError, DirectionError: too little
        text, or a stream narrower than the components asked for. Cancelled: `cancel` said so.
    """
    size, began = size or Size(), time.monotonic()
    if model.tokenizer is None:
        raise NoTokenizer(
            "the tour reads text", received="a model without a tokenizer", fix="load one with its tokenizer"
        )
    check_size(size.components, model.d_model, what="components")
    if size.components <= GUIDES_OWN:
        raise DirectionError(
            "the guide speaks of the eighth component",
            received=f"{size.components}",
            allowed=f"{GUIDES_OWN + 1} or more",
        )
    vocabulary = _vocabulary(model)
    fit_on, *halves = _split(corpus, seed)
    rows = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.n_layers))]
    moments = moments_of(model, fit_on, rows, tokens=size.fitted, progress=progress, cancel=cancel)
    seen = {str(site): of_row for site, of_row in moments.items()}
    for site, of_row in moments.items():
        check_count(of_row.count, size.components + 1, site=site, head=None)
    plain = {row: _components(model, row, of_row, corpus, size.components) for row, of_row in seen.items()}
    standard = {row: _components(model, row, of_row, corpus, size.components, True) for row, of_row in seen.items()}
    read = {
        row: Directions.of(plain[row], standard[row], seen[row], n=max(size.random, size.components), seed=seed)
        for row in rows
    }
    judged = judge(model, halves, read, tokens=size.judged, progress=progress, cancel=cancel)
    position, words = judged.position(), judged.words()
    own = words.select(measure="AUC").values[:, 0, GUIDES_OWN].tolist()
    picks = {"guide": Pick(0, rows[0], GUIDES_OWN, *own), "position": _by_position(position), "words": _by_words(words)}
    chance = {"position": _by_position(judged.position(DATA)), "words": _by_words(judged.words(DATA))}
    named = {str(pick): pick for pick in picks.values()}
    prompts = judged.prompts(size.prompts, size.length)
    removed = {
        name: removal_cost(
            model, plain[pick.site][pick.index], prompts, random=size.removals, moments=seen[pick.site], seed=seed,
            progress=progress, cancel=cancel,
        )
        for name, pick in named.items()
    }  # fmt: skip
    tokens = {block: judged.tokens(block) for block in (COMPONENTS, UNIFORM, DATA)}
    about = {
        **model.provenance, "text": called(opened(corpus)), "fitted on": seen[rows[0]].count, "judged on": len(judged.ids),
        "seed": seed, "components": size.components, "random directions": size.random,
        "seconds": round(time.monotonic() - began, 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Study(
        plain, position, words, judged.words(STANDARDISED), tokens | {"shuffled": judged.tokens(shuffled=seed)},
        auc(*(plain[rows[0]].encode(x) for x in vocabulary)), judged.drawn(), judged.counts(), picks, chance,
        {name: judged.strips(pick.site, pick.index, n=size.shown) for name, pick in named.items()},
        {name: judged.ends(pick.site, pick.index) for name, pick in named.items()},
        removed, stream_errors(model, prompts[:4], plain[rows[-1]]), about,
    )  # fmt: skip


def at_ends(auxiliary: Float[Tensor, "*k"], name: Float[Tensor, "*k"]) -> Tensor:
    """Whether two kinds of words stand at opposite ends, from their median percentiles."""
    first = torch.minimum(auxiliary, 100 - name)
    return torch.maximum(first, torch.minimum(100 - auxiliary, name)) >= END


def _split(corpus: Source, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Texts to fit on, to choose on and to hold out: a half and two quarters of the corpus' distinct texts, in a random order."""
    distinct: dict[str, None] = {}
    characters = 0
    for text in texts(corpus):
        characters += len(text)
        distinct[text] = None
        if characters > POOL:
            break
    every = list(distinct)
    if len(every) < 4:
        raise CorpusError("the tour needs four texts or more", received=f"{len(every)}", fix="give more texts")
    random.Random(seed).shuffle(every)
    return every[::2], every[1::4], every[3::4]


def _components(
    model: Model, row: str, moments: Moments, corpus: Source, n: int, standardise: bool = False
) -> Dictionary:
    provenance = {"corpus": called(opened(corpus)), "tokens": moments.count, "model": model.hash}
    provenance |= {"standardised": True} if standardise else {}
    return Dictionary("pca", row, **principal(moments, n, standardise=standardise), provenance=provenance)


def _by_position(measured: Result) -> Pick:
    return _best(measured, measured.values[0].abs())


def _by_words(measured: Result) -> Pick:
    """What parts them best of those that have them at their ends, or of all where none does."""
    auc, auxiliary, name = measured.values[:, 0]
    score = (auc - 0.5).abs() + at_ends(auxiliary, name).double()
    return _best(measured.select(measure="AUC"), score)


def _best(measured: Result, score: Float[Tensor, "row component"]) -> Pick:
    row, index = divmod(int(score.nan_to_num(-1).argmax()), score.shape[1])
    chosen, held_out = measured.values[:, row, index].tolist()
    return Pick(row, str(measured.coords["row"][row]), index, chosen, held_out)


def _vocabulary(model: Model) -> list[Float[Tensor, "word d_model"]]:
    """The vectors of auxiliary verbs and of first names before block 0, each word once, after BOS where the model has that habit.

    Raises:
        TooFewWords: fewer than four of them are one token.
    """
    begin = [model.tokenizer.bos_token_id] if model.bos else []
    vectors = []
    for what, group in (("auxiliary verbs", AUXILIARIES), ("names", NAMES)):
        rows = [[*begin, token] for word in group if (token := _whole(model, word)) is not None]
        if len(rows) < 4:
            raise TooFewWords(
                f"this tokenizer splits too many of the {what}",
                received=f"{len(rows)} of {len(group)} are one token",
                allowed="at least 4",
                fix="choose a model whose tokenizer keeps words whole",
            )
        vectors.append(model.run(rows, ["resid_pre.0"])["resid_pre.0"][:, -1].float().cpu())
    return vectors


def _whole(model: Model, word: str) -> int | None:
    """The token that is a word within a text; None where the tokenizer splits it or does not know it."""
    before, both = (model.batch([text], bos=False).ids[0].tolist() for text in ("a", f"a {word}"))
    if both[:-1] != before or model.token_texts(both[-1:])[0].strip() != word:
        return None
    token: int = both[-1]
    return token
