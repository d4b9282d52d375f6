"""Circuits: the matrices a head multiplies by, of any family, with the norms' gains folded in."""

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.engine.layout import Norm, weight_in_out
from residscope.engine.model import Model
from residscope.engine.parameters import plain_weight
from residscope.engine.recording import Recording
from residscope.engine.windows import Window
from residscope.model.prompts import Batch
from residscope.model.sites import Site

_ROWS = 8192


def value_weights(model: Model, layer: int) -> Float[Tensor, "kv_head d_model d_head"]:
    """W_V of each KV head, behind the gain of the norm that its values are read through: a row for each entry of the stream.

    Read off the model itself, however it packs its projections: what `v` is where attention's input is one entry alone, less
    what it is where that is zero.
    """
    site, d = Site("attn_in", layer), model.d_model
    rows = -(-(d + 1) // model.context)
    length = -(-(d + 1) // rows)
    x = torch.zeros(rows * length, d, dtype=model.dtype, device=model.device)
    x[1 : d + 1] = torch.eye(d)
    x = x.reshape(rows, length, d)
    ids = torch.zeros(rows, length, dtype=torch.long, device=model.device)
    batch = Batch(ids, (length,) * rows)
    nothing = torch.zeros_like(x)
    streams = {Site("resid_pre", at): nothing for at in range(model.n_layers)}  # what stands there is not read
    base = Recording(model, batch, streams, weights=model.weights_version())
    run = model.run(
        batch, [f"v.{layer}"], edits=[edits.patch(str(site), {str(site): x})], window=Window(base, layer, layer)
    )
    v = run["v", layer].flatten(0, 1)
    return folded(model.layout.blocks[layer].attn_norm, (v[1 : d + 1] - v[:1]).transpose(0, 1))


def head_weights(model: Model, layer: int) -> tuple[dict[str, Float[Tensor, "head d_model d_head"]], dict[str, str]]:
    """W_Q, W_K, W_V [head d_model d_head] and W_O [head d_head d_model] as q, k, v, o; and why some are not to be had.

    The first three are read off the model: what q, k and v are of an input that is one entry alone, less what they are of zero,
    at the first position, which rotary embeddings leave as it is. A norm of queries and keys makes no matrix of these two.
    """
    parts, d = model.layout.blocks[layer], model.d_model
    absent = {name: "a norm stands behind it" for name, norm in (("q", parts.q_norm), ("k", parts.k_norm)) if norm}
    names = [name for name in "qkv" if name not in absent and name in model.sites.names]
    absent |= {name: model.sites.absent.get(name, "") for name in "qkv" if name not in model.sites.names}
    x = torch.zeros(d + 1, 1, d, dtype=model.dtype, device=model.device)
    x[1:, 0] = torch.eye(d)
    batch = Batch(torch.zeros(d + 1, 1, dtype=torch.long, device=model.device), (1,) * (d + 1))
    nothing = torch.zeros_like(x)
    base = Recording(
        model, batch, {Site("resid_pre", at): nothing for at in range(model.n_layers)}, weights=model.weights_version()
    )
    put = edits.patch(f"attn_in.{layer}", {f"attn_in.{layer}": x})
    run = model.run(batch, [f"{name}.{layer}" for name in names], edits=[put], window=Window(base, layer, layer))
    found = {name: (run[name, layer][1:, 0] - run[name, layer][0, 0]).movedim(0, 1) for name in names}
    if model.quantised is None:
        found["o"] = weight_in_out(parts.attn_proj).reshape(model.heads_at(layer).n_heads, -1, model.d_model)
    return found, absent


def output_weights(model: Model, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O of each head, in front of the gain of attention's post-norm where there is one."""
    parts = model.layout.blocks[layer]
    W_O = weight_in_out(parts.attn_proj).reshape(model.heads_at(layer).n_heads, -1, model.d_model)
    post = parts.attn_post_norm
    return W_O if post is None else post.center(W_O) * post.gain


def embedding_to_logits(model: Model) -> Float[Tensor, "d_model d_model"]:
    """W_U W_E, behind the final norm's gain: the logits of what is written, each token's given back as its embedding.

    The embedding is what is added to the stream, behind its own norm where it has one.
    """
    layout = model.layout
    W_E, W_U = plain_weight(layout.embed), model.W_U
    wide = torch.promote_types(model.dtype, torch.float32)
    total = torch.zeros(model.d_model, model.d_model, dtype=wide, device=W_U.device)
    for first in range(0, min(len(W_E), W_U.shape[1]), _ROWS):
        ids = slice(first, min(first + _ROWS, len(W_E), W_U.shape[1]))
        rows = W_E[ids]
        if layout.embed_writer is not layout.embed:
            rows = layout.embed_writer(rows)
        total += W_U[:, ids].to(wide) @ rows.to(total)
    return folded(layout.final_norm, total)


def folded(norm: Norm | None, weights: Float[Tensor, "*some d_model out"]) -> Tensor:
    """Weights that read a norm's output, as weights that read what the norm reads, over its divisor: the gain, and the mean."""
    if norm is None:
        return weights
    read = norm.gain.to(weights)[:, None] * weights
    return read - read.mean(-2, keepdim=True) if norm.kind == "layer" else read
