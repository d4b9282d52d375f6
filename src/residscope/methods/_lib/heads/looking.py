"""Scores of attention alone: the token before, itself, the first, copies and what follows those; translation and few-shot."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.methods._lib.attention_scores import KINDS, wanted
from residscope.methods._lib.heads.declared import Measured, Part, of_run
from residscope.methods._lib.heads.lists import FEW_SHOT, TRANSLATION

ABOUT = {
    "previous-token": "mean over i of A[i, i - 1]",
    "current-token": "mean over i of A[i, i]",
    "first-token": "mean over i of A[i, 0]",
    "duplicate-token": "mean over i of sum of A[i, j] over j < i with t[j] = t[i]",
    "induction": "mean over i of sum of A[i, j] over j < i with t[j - 1] = t[i]",
}
SOURCE = dict.fromkeys(KINDS, "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits")
SOURCE |= {"duplicate-token": "Wang et al. 2022 (2211.00593)", "induction": "Olsson et al. 2022 (2209.11895)"}
SOURCE |= {"first-token": "Xiao et al. 2023 (2309.17453)"}
ANY = "for each i a token drawn from those it sees, in place of the one meant"
TOKENS = "the tokens of each prompt but the first, shuffled"


def share(
    pattern: Float[Tensor, "row head query key"],
    asked: Bool[Tensor, "*draw row query key"],
    queries: Bool[Tensor, "row query"],
    sources: Bool[Tensor, "row key"],
) -> Float[Tensor, "*draw head row"]:
    """Mean over the queries that have such keys of what they attend to them with; NaN where there is none."""
    asked = (asked & queries[:, :, None] & sources[:, None]).to(pattern.device)
    n = asked.any(-1).sum(-1)  # 0 gives NaN
    rows, heads = pattern.shape[:2]
    flat = asked.reshape(-1, rows, pattern[0, 0].numel()).to(pattern)
    found = torch.einsum("bhx,dbx->dhb", pattern.reshape(rows, heads, -1), flat)
    return found.reshape(*asked.shape[:-3], heads, rows) / n[..., None, :]


def _of_kind(kind: str) -> Any:
    def measure(part: Part, layer: int) -> Measured:
        keep, pattern = part.kept(layer), part.pattern(layer)
        tokens = part.run.tokens.cpu()
        asked = part.once((kind, "asked"), lambda: wanted(tokens, kind))
        draws = part.once((kind, "draws"), lambda: _shuffled(part, kind, tokens))
        sources = keep | (kind == "first-token")
        return share(pattern, asked, keep, sources).cpu(), share(pattern, draws, keep, keep).cpu()

    return measure


def _shuffled(part: Part, kind: str, tokens: Tensor) -> Bool[Tensor, "draw row query key"]:
    """Which keys are asked about when tokens, or keys, are drawn at random."""
    rows, n = tokens.shape
    if kind in ("duplicate-token", "induction"):
        drawn = part.drawing(KINDS.index(kind))
        return torch.stack([wanted(_permuted(part, tokens, drawn), kind) for _ in range(part.draws)])
    i = torch.arange(n)
    at = (part.chances(1, KINDS.index(kind)) * i).long() + (i > 0)  # 1 to i
    return torch.zeros(part.draws, rows, n, n, dtype=torch.bool).scatter_(-1, at[..., None], True)


def _permuted(part: Part, tokens: Tensor, drawn: Sequence[torch.Generator]) -> Tensor:
    new = tokens.clone()
    for row, n in enumerate(part.run.lengths):
        new[row, 1:n] = tokens[row, 1:n][torch.randperm(n - 1, generator=drawn[row])]
    return new


for _kind in KINDS:
    of_run(
        _kind, about=ABOUT[_kind], source=SOURCE[_kind], looks=True,
        control=TOKENS if _kind in ("duplicate-token", "induction") else ANY,
    )(_of_kind(_kind))  # fmt: skip


# ── built-in prompts, each with which tokens it asks about ──────────────────────────────────────────────────────


Asked = Sequence[tuple[int, Sequence[Sequence[int]], Sequence[Sequence[int]]]]
"""Of a prompt: a query, the groups of keys that are right for it, and all the groups that they are among."""


def _of_asked(part: Part, layer: int) -> Measured:
    def masks() -> tuple[Tensor, Tensor]:
        assert part.data is not None
        n, drawn = part.run.tokens.shape[1], part.drawing()
        right = torch.zeros(len(part.rows), n, n, dtype=torch.bool)
        draws = torch.zeros(part.draws, len(part.rows), n, n, dtype=torch.bool)
        for row, prompt in enumerate(part.rows):
            asked: Asked = part.data.labels["asked"][prompt]  # type: ignore[assignment]
            for query, groups, among in asked:
                right[row, query, [key for group in groups for key in group]] = True
                for draw in range(part.draws):
                    some = torch.randperm(len(among), generator=drawn[row])[: len(groups)].tolist()
                    draws[draw, row, query, [key for i in some for key in among[i]]] = True
        return right, draws

    right, draws = part.once("built-in", masks)
    keep, pattern = part.kept(layer), part.pattern(layer)
    return share(pattern, right, keep, keep).cpu(), share(pattern, draws, keep, keep).cpu()


of_run(
    "translation",
    about="mean over words i of a list of A[i, what follows its counterpart in the same list in English, in another order]",
    control="another word of the English list, drawn for each i",
    source="Olsson et al. 2022 (2209.11895), on translation heads",
    data=TRANSLATION,
    needs=None,
)(_of_asked)
of_run(
    "few-shot",
    about="mean over questions i of the sum of A[i, answers to earlier questions of the same kind]",
    control="as many of the earlier answers, drawn for each i",
    source="Olsson et al. 2022 (2209.11895), on pattern matching in few-shot prompts",
    data=FEW_SHOT,
    needs=None,
)(_of_asked)
