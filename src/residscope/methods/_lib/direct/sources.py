"""The direct effect of each head, split over the source positions that it attends to."""

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.engine.model import Model
from residscope.errors import UnalignedPrompts
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.direct.reading import SLACK, Reading, require
from residscope.model.sites import Site


def source_effects(
    reading: Reading, heads: Float[Tensor, "layer head batch pos"], allowed: Float[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "layer head source batch pos"], Float[Tensor, "layer head batch pos"]]:
    """What each head moves from each source position, and what its value's bias adds, which no source answers for.

    sources[k] = A[q, k] (v_k - b_V) W_O . read / sigma,    value_bias = sum_k A[q, k] b_V W_O . read / sigma
    """
    recording, model = reading.recording, reading.model
    if len({*recording.lengths}) > 1 or recording.offset:
        raise UnalignedPrompts(
            "sources of prompts of unequal length do not correspond",
            received=f"lengths {min(recording.lengths)} to {max(recording.lengths)}, from position {recording.offset}",
            allowed="whole runs of prompts of one length",
            fix="take the prompts of one length, or one prompt",
        )
    model.require_plain_mix("attribution by source")
    found, biases = [], []
    for layer, (parts, bias) in enumerate(zip(reading.layout.blocks, value_biases(model), strict=True)):
        read, divisor, _ = reading.through(parts.attn_proj, parts.attn_post_norm, f"attn_post_scale.{layer}")
        n, groups = model.heads_at(layer).n_heads, model.heads_at(layer).groups
        by_head = read.reshape(len(read), n, -1)
        bias = bias.to(read).repeat_interleave(groups, 0)
        value = recording[f"v.{layer}"].to(read).repeat_interleave(groups, 2) - bias
        pattern = reading.at_queries(f"pattern.{layer}")
        own = pattern * torch.einsum("bkhd,bhd->bhk", value, by_head)[:, None] / divisor[..., None, None]
        each = torch.einsum("bphk,hd,bhd->hbp", pattern, bias, by_head) / divisor
        own, rest = own.permute(2, 3, 0, 1), heads[layer][:n] - own.sum(-1).permute(2, 0, 1)
        if {Site("z", layer), Site("result", layer)} & reading.changed:
            each = rest
        slack = allowed + own.square().sum(1).sqrt() * reading.eps * SLACK
        require(f"the sources of the heads of layer {layer} do not sum to what they add", rest, each, slack)
        found.append(own)
        biases.append(each)
    return stacked(found, fill=0.0), stacked(biases, fill=0.0)


def value_biases(model: Model) -> list[Float[Tensor, "kv_head d_head"]]:
    """Each layer's values where attention reads nothing: their bias, whichever way the family writes it."""
    nothing = [edits.ablate(f"attn_in.{layer}") for layer in range(model.n_layers)]
    run = model.run([[0]], model.sites.expand("v"), edits=nothing)
    return [run[f"v.{layer}"][0, 0] for layer in range(model.n_layers)]
