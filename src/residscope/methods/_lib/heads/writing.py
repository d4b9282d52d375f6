"""Scores of what heads write about what they look at: anti-induction, copy suppression, name movers; copying, by weights."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.model import Model
from residscope.methods._lib.answers import answer_ids
from residscope.methods._lib.attention_scores import wanted
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.circuits import folded, output_weights
from residscope.methods._lib.heads.declared import Measured, Part, of_model, of_run
from residscope.methods._lib.weights.matrices import embeddings, head_matrices
from residscope.model.prompts import PromptSet
from residscope.progress import Tell

TEXT, IOI = "prose", "IOI prompts"
WRITES = ("v", "final_scale", "attn_post_scale")
PLACES = ("IO", "S1", "END")
LOWERS = "A[i, j] v_j W_O . (u[t_j] - mean of u over the prompt's tokens) / sigma_i"


def unembedding(model: Model, ids: Tensor) -> Float[Tensor, "d_model token"]:
    """Columns of W_U as heads' writes are read by: behind the final norm's gain, times the factors of writes and logits."""
    factors = model.layout.factors
    return folded(model.layout.final_norm, model.W_U[:, ids]) * (factors.logits * factors.residual)


def values(part: Part, layer: int) -> Float[Tensor, "row pos head d_head"]:
    """What each head moves from each token; query heads that share values have the same."""
    value = part.run["v", layer]
    model = part.run.model
    return value.to(torch.promote_types(value.dtype, torch.float32)).repeat_interleave(model.heads_at(layer).groups, 2)


def divisors(part: Part, layer: int) -> Float[Tensor, "row pos"]:
    """What a head's write at each position is divided by on its way to the logits: by the final norm, and by a post-norm."""
    run = part.run
    found = run["final_scale"][..., 0]
    if "attn_post_scale" in run.model.sites.names:
        found = found * run["attn_post_scale", layer][..., 0].to(found)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _own_logits(part: Part, layer: int) -> Float[Tensor, "row head key token"]:
    """v_j W_O . (u[t_k] - mean over the prompt's tokens of u), for each key j and each place k of the prompt."""
    model, run = part.run.model, part.run

    def columns() -> Float[Tensor, "row d_model token"]:
        read = unembedding(model, run.tokens.to(model.W_U.device).flatten())
        read = read.reshape(model.d_model, *run.tokens.shape).movedim(1, 0)
        real = run.batch.real.to(read)[:, None]
        return (read - (read * real).sum(-1, keepdim=True) / real.sum(-1, keepdim=True)) * real

    read, value = part.once("columns", columns), values(part, layer)
    W_O = output_weights(model, layer).to(value)
    by_head = torch.einsum("hdm,bmt->bhdt", W_O, read.to(value))
    return torch.einsum("bkhd,bhdt->bhkt", value, by_head)


def _mean(
    part: Part, layer: int, asked: Tensor, logits: Float[Tensor, "*draw row head key"]
) -> Float[Tensor, "*each head row"]:
    """Minus the mean, over queries that have such keys, of what attending to them adds to a logit of each."""
    keep, pattern = part.kept(layer), part.pattern(layer)
    asked = asked & keep[:, :, None] & keep[:, None]
    n = asked.any(-1).sum(-1).to(pattern.device)
    weights = asked.to(pattern) / divisors(part, layer)[..., None].to(pattern)
    per_key = torch.einsum("bhqk,...bqk->...bhk", pattern, weights)
    total = (per_key * logits).sum(-1)
    return -(total / n[..., None]).movedim(-1, -2).cpu()


@of_run(
    "anti-induction",
    about=f"minus the mean over i of the sum of {LOWERS} over j < i with t[j - 1] = t[i]",
    control="the tokens that are read, t_j, shuffled within each prompt",
    source="Nanda 2022, A Comprehensive Mechanistic Interpretability Explainer; McDougall et al. 2023 (2310.04625)",
    unit="logits",
    sites=WRITES,
)
def _anti_induction(part: Part, layer: int) -> Measured:
    asked = part.once("anti-induction", lambda: wanted(part.run.tokens.cpu(), "induction"))
    logits, drawn = _own_logits(part, layer), part.drawing(layer)
    own = logits.diagonal(dim1=-2, dim2=-1)
    others = torch.stack([_read_at(part, logits, drawn) for _ in range(part.draws)])
    return _mean(part, layer, asked, own), _mean(part, layer, asked, others)


def _read_at(part: Part, logits: Float[Tensor, "row head key token"], drawn: Sequence[torch.Generator]) -> Tensor:
    """The logits of tokens that are another place's of the same prompt."""
    at = torch.arange(logits.shape[-1]).repeat(len(logits), 1)
    for row, n in enumerate(part.run.lengths):
        at[row, 1:n] = 1 + torch.randperm(n - 1, generator=drawn[row])
    index = at[:, None, :, None].expand(*logits.shape[:3], 1).to(logits.device)
    return logits.gather(-1, index)[..., 0]


@of_run(
    "copy-suppression",
    about=(
        f"minus the mean over i of the sum of {LOWERS} over j < i with t_j the token of the prompt so far that the stream in "
        "front of the head's block predicts most"
    ),
    control="another token of the prompt so far, drawn for each i, in place of the one predicted",
    source="McDougall et al. 2023 (2310.04625)",
    unit="logits",
    data=TEXT,
    sites=WRITES,
)
def _copy_suppression(part: Part, layer: int) -> Measured:
    run, tokens = part.run, part.run.tokens.cpu()
    n = tokens.shape[1]
    seen = part.kept(layer)[:, None] & (torch.arange(n)[None] < torch.arange(n)[:, None])  # [row query key], j < i
    predicted = _predicted(run, layer).masked_fill(~seen, -torch.inf)  # [row query key]
    best = torch.where(seen.any(-1), predicted.argmax(-1), 0)
    own = _own_logits(part, layer).diagonal(dim1=-2, dim2=-1)

    def copies(at: Int[Tensor, "row query"]) -> Tensor:
        return seen & (tokens[:, None] == tokens.gather(1, at)[..., None])

    others = part.chances(2, layer).masked_fill(~(seen & ~copies(best)), -1.0).argmax(-1)
    none = ~(seen & ~copies(best)).any(-1, keepdim=True)
    draws = torch.stack([copies(at) & ~none for at in others])
    return _mean(part, layer, copies(best), own), _mean(part, layer, draws, own)


def _predicted(run: Any, layer: int) -> Float[Tensor, "row query key"]:
    """The lens in front of a block, of the tokens of the prompt: logits, up to what all tokens share."""
    model = run.model
    x = run["resid_pre", layer]
    read = folded(model.layout.final_norm, model.W_U[:, run.tokens.to(model.W_U.device).flatten()])
    read = read.reshape(model.d_model, *run.tokens.shape)
    return torch.einsum("bqm,mbk->bqk", x, read.to(x)).float().cpu()


@of_run(
    "name-mover",
    about="mean over prompts of A[END, IO] v_IO W_O . (u[IO] - u[S]) / sigma_END",
    control="the answers (IO, S) of other prompts, in place of each one's own",
    source="Wang et al. 2022 (2211.00593)",
    unit="logits",
    data=IOI,
    sites=WRITES,
    needs=("IO", "END"),
)
def _name_mover(part: Part, layer: int) -> Measured:
    run, data = part.run, part.data
    assert data is not None
    model, rows = run.model, torch.arange(len(part.rows))
    io, end = (torch.tensor([data.at(name)[row] for row in part.rows]) for name in ("IO", "END"))

    def answers() -> Float[Tensor, "d_model prompt"]:
        right, wrong = answer_ids(model, data).to(model.W_U.device).unbind(1)
        return unembedding(model, right) - unembedding(model, wrong)

    moved = values(part, layer)[rows, io] * part.pattern(layer)[rows, :, end, io][..., None]
    moved = moved / divisors(part, layer)[rows, end][:, None, None].to(moved)
    written = torch.einsum("bhd,hdm->bhm", moved, output_weights(model, layer).to(moved))
    each = (written @ part.once("answers", answers).to(written)).movedim(0, 1).cpu()  # head row prompt
    orders = part.once("orders", lambda: _others(part, len(data)))
    return each[:, rows, list(part.rows)], torch.stack([each[:, rows, at] for at in orders])


def _others(part: Part, n: int) -> list[Int[Tensor, " row"]]:
    """For each prompt of the part another one of the set, a draw at a time."""
    own = torch.tensor(part.rows)
    if n == 1:
        return [own for _ in range(part.draws)]
    shifts = torch.stack([torch.randint(1, n, (part.draws,), generator=one) for one in part.drawing()], 1)
    return [*((own + shifts) % n)]


@of_model(
    "copying",
    about="mean over tokens s of (M[s, s] - mean over t of M[s, t]) / standard deviation over t, M = E G W_V W_O G' W_U",
    control="M[s, t] of another token of the sample, in place of M[s, s]",
    source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; rs.copying_scores has their eigenvalues",
    unit="standard deviations",
)
def _copying(model: Model, data: PromptSet, draws: int, seed: int, tell: Tell) -> tuple[Tensor, Tensor]:
    """The circuit of each head over the prompts' tokens: their embeddings alone, divided as the head's norm divides each."""
    model.require_exact_weights("the OV circuit")
    ids = _sample(model, data.prompts)
    drawn = torch.Generator().manual_seed(seed)
    shifts = torch.randint(1, len(ids), (draws, len(ids)), generator=drawn)
    others = (torch.arange(len(ids)) + shifts) % len(ids)
    each, control = [], []
    with torch.no_grad():
        rows = embeddings(model, ids)
        out = unembedding(model, ids.to(model.W_U.device))
        for layer in range(model.n_layers):
            W, norm = head_matrices(model, layer), model.layout.blocks[layer].attn_norm
            x = rows if norm is None else rows / norm.sigma(rows)
            wide = torch.promote_types(x.dtype, torch.float32)
            M = torch.einsum("sm,hmd->hsd", x.to(wide), W.need("v").to(wide)) @ (W.o.to(wide) @ out.to(wide))
            M, spread = M - M.mean(-1, keepdim=True), M.std(-1, keepdim=True)
            tiny = spread <= torch.finfo(wide).eps * spread.max()  # a head that tells no two tokens apart
            M = torch.where(tiny, 0, M / spread).cpu()  # head token token
            each.append(M.diagonal(dim1=1, dim2=2))
            control.append(torch.stack([M[:, torch.arange(len(ids)), at] for at in others]))
            tell((layer + 1) / model.n_layers)
    return stacked(each), stacked(control, 1, axis=1)


MOST_TOKENS = 500


def _sample(model: Model, prompts: Sequence[Any]) -> Int[Tensor, " token"]:
    """The prompts' tokens, each once, the first 500 of them."""
    ids = dict.fromkeys(id for row in model.batch(PromptSet(tuple(prompts))).ids.tolist() for id in row)
    return torch.tensor([*ids][:MOST_TOKENS])
