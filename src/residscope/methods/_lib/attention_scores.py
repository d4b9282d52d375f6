"""What heads look at: mean attention to the token before, to itself, to the first, to copies of it and to what follows those."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import BadSweep
from residscope.methods._lib.by_head import stacked
from residscope.model.sites import Site

KINDS = ("previous-token", "current-token", "first-token", "duplicate-token", "induction")


def check_kinds(kinds: Sequence[str]) -> None:
    if not kinds or (strange := [kind for kind in kinds if kind not in KINDS]):
        raise BadSweep("no such score of heads", received=str(strange if kinds else "none"), allowed=", ".join(KINDS))


def attention_scores(
    recording: Recording, kinds: Sequence[str] = KINDS, layers: Sequence[int] | None = None
) -> Float[Tensor, "score layer head batch"]:
    """Each head's scores on each prompt of a run, as shares of attention; NaN where a prompt has no token to ask.

        previous-token   mean over i of A[i, i - 1]
        current-token    mean over i of A[i, i]
        first-token      mean over i of A[i, 0]
        duplicate-token  mean over i of sum of A[i, j] over j < i with t[j] = t[i]
        induction        mean over i of sum of A[i, j] over j < i with t[j - 1] = t[i]

    A is the head's pattern, t the tokens. The mean is over the tokens i that have such a j. Left out, as from every statistic
    (`engine.sinks`): the first token and attention sinks, as i and as j; but for "first-token", whose j is the first token.
    """
    check_kinds(kinds)
    asked = torch.stack([wanted(recording.tokens, kind) for kind in kinds])
    scores = []
    for layer in range(recording.model.n_layers) if layers is None else layers:
        pattern = recording["pattern", layer]
        pattern = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
        keep = kept(recording, Site("pattern", layer)).to(pattern.device)
        sources = torch.stack([keep | (kind == "first-token") for kind in kinds])
        pairs = asked.to(pattern.device) & keep[:, :, None] & sources[:, :, None]
        n = pairs.any(-1).sum(-1)  # 0 gives NaN
        scores.append(torch.einsum("bhqk,sbqk->shb", pattern, pairs.to(pattern)) / n[:, None])
    return stacked([score.to(scores[0].device) for score in scores], 1, axis=1)  # blocks may stand on several devices


def wanted(tokens: Int[Tensor, "batch pos"], kind: str) -> Bool[Tensor, "batch query key"]:
    """Which keys a score is about, for each query."""
    n = tokens.shape[1]
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    same = (tokens[:, :, None] == tokens[:, None, :]).cpu()
    if kind == "duplicate-token":
        return same & (j < i)
    if kind == "induction":  # the key after a copy of the query
        after = torch.zeros_like(same)
        after[:, :, 1:] = same[:, :, :-1]
        return after & (j < i)
    at = {"previous-token": j == i - 1, "current-token": j == i, "first-token": (j == 0) & (i > 0)}[kind]
    return at.expand(len(tokens), n, n)
