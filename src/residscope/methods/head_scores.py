"""Head scores: which heads look at the token before, at copies of a token, and after them (induction)."""

import random
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.sinks import streams
from residscope.engine.windows import Window
from residscope.errors import TooFewWords
from residscope.methods._lib.attention_scores import KINDS, attention_scores, check_kinds
from residscope.methods._lib.intervals import bootstrap
from residscope.methods._lib.own_tokens import common_tokens
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result

AT_ONCE = 1 << 28  # bytes of patterns held together
MOST = 4  # prompts read together: more are no quicker


def repeated_tokens(model: Model, *, n: int = 10, length: int = 50, seed: int = 0) -> PromptSet:
    """n sequences of `length` common tokens drawn at random, no two alike, each written twice; BOS as is the model's habit.

    Common: readable, and among the vocabulary's first 10,000; without a tokenizer, any.
    Raises TooFewWords: the vocabulary has not so many tokens.
    """
    ids = [*range(model.d_vocab)] if model.tokenizer is None else common_tokens(model)
    if len(ids) < length:
        raise TooFewWords(
            "there are not so many common tokens", received=f"length={length}", allowed=f"{len(ids)} or fewer"
        )
    begin = [model.tokenizer.bos_token_id] if model.bos and model.tokenizer is not None else []
    drawn = random.Random(seed)
    halves = [drawn.sample(ids, length) for _ in range(n)]
    return PromptSet(tuple((*begin, *half, *half) for half in halves), name="repeated random tokens")


def _price(model: Model, *, prompts: Prompt | None = None, n: int = 10, length: int = 50, **_: Any) -> float:
    """Tokens through the whole model: each prompt once."""
    return float(n * (2 * length + model.bos) if prompts is None else sum(model.batch(prompts).lengths))


@method("head-scores", title="Head scores", group="sweeps", tokens=_price)
def head_scores(
    model: Model,
    *,
    prompts: Annotated[Prompt | None, fields.prompts()] = None,
    n: Annotated[int, fields.count(low=1, high=1000)] = 10,
    length: Annotated[int, fields.count(low=2, high=2000)] = 50,
    kinds: Sequence[str] = KINDS,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """Which heads look at the token before, at themselves, at the first, at copies of a token and after them, on repeated tokens.

        previous-token   mean over i of A[i, i - 1]
        current-token    mean over i of A[i, i]
        first-token      mean over i of A[i, 0]
        duplicate-token  mean over i of sum of A[i, j] over j < i with t[j] = t[i]
        induction        mean over i of sum of A[i, j] over j < i with t[j - 1] = t[i]

    A[i, j] is what token i attends to token j with, t the tokens; the mean is over the tokens i that have such a j, then over
    prompts. Position 0 and attention sinks are left out, as i and as j (but position 0 is what "first-token" is about).

    These say where a head looks and not what it does with it: an induction head raises what it finds, an anti-induction head,
    which looks alike, lowers it (`rs.direct_attribution`, `rs.copying_scores`).

    prompts: instead of random ones. n: sequences drawn. length: tokens of each, written twice.

    Returns a `Result` over score, layer and head, shares of attention, with bootstrap intervals over prompts where there are
    several; NaN where no prompt has such tokens.

        rs.head_scores(model).select(score="induction")

    Raises:
        BadSweep: no such kind. TooFewWords, PromptError, AbsentSite, TooLarge, Cancelled.

    Olsson et al. 2022 (2209.11895); Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Wang et al. 2022
    (2211.00593) for duplicate tokens.
    """
    check_kinds(kinds)
    source = repeated_tokens(model, n=n, length=length, seed=seed) if prompts is None else prompts
    batch = model.batch(source)
    parts = _parts(model, batch)
    scores: list[Tensor] = []
    with stage("Scoring heads", len(batch), progress, cancel) as tell:
        for rows in parts:
            scores.append(_scored(model, batch.take(rows).trimmed(), kinds).double().cpu())
            tell(sum(part.shape[-1] for part in scores))
    each = torch.cat(scores, -1)  # score layer head prompt
    mean, low, high = each.nanmean(-1), None, None
    if each.shape[-1] > 1 and not bool(each.isnan().any()):
        low, high = bootstrap(each.movedim(-1, 0), seed=seed)
        low, high = torch.minimum(low, mean), torch.maximum(high, mean)
    about: dict[str, Any] = {
        **model.provenance,
        "method": "head scores",
        "prompts": len(batch),
        "data": getattr(source, "name", "prompts"),
        "left out": "position 0 and attention sinks, as queries and as keys",
    }
    about |= {"length": length, "seed": seed, "bos": model.bos} if prompts is None else {}
    about["prompts with such tokens"] = {
        kind: int((~x.isnan()).any(0).any(0).sum()) for kind, x in zip(kinds, each, strict=True)
    }
    dims, coords = ("score", "layer", "head"), {"score": tuple(kinds)}
    return Result(mean, dims, coords, name="head scores", unit="share", low=low, high=high, provenance=about)


def _parts(model: Model, batch: Batch) -> list[list[int]]:
    """Prompts whose patterns fit together, at least one."""
    each = model.n_layers * model.n_heads * batch.ids.shape[1] ** 2 * model.dtype.itemsize
    size = max(1, min(AT_ONCE // each, MOST))
    return [[*range(first, min(first + size, len(batch)))] for first in range(0, len(batch), size)]


def _scored(model: Model, batch: Batch, kinds: Sequence[str]) -> Tensor:
    """Scores of one part; of a prompt whose patterns do not fit together, some layers at a time, from the streams it had."""
    n, each = model.n_layers, model.n_heads * len(batch) * batch.ids.shape[1] ** 2 * model.dtype.itemsize
    size = max(1, AT_ONCE // each)
    if size >= n:
        return attention_scores(model.run(batch, ["pattern", "resid_pre", f"resid_post.{n - 1}"]), kinds)
    base, scores = model.run(batch), []
    for first in range(0, n, size):
        layers = range(first, min(first + size, n))
        patterns = [Site("pattern", layer) for layer in layers]
        sites = [*patterns, *(stream for pattern in patterns for stream in streams(model, pattern))]
        run = model.run(batch, sites, window=Window(base, first, layers[-1]))
        scores.append(attention_scores(run, kinds, layers))
    return torch.cat(scores, 1)
