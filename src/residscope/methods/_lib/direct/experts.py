"""The direct effect of each expert of a mixture."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.seams import RouterLogits
from residscope.methods._lib.direct.reading import SLACK, Reading, require
from residscope.model.sites import Site


def expert_effects(
    reading: Reading, mlp: Float[Tensor, "layer batch pos"], allowed: Float[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "layer expert batch pos"], Float[Tensor, "layer batch pos"]]:
    """What each expert adds, weighted as the router weights it (0 where it is not chosen), and what the MLP adds beside them.

    experts[e] = w_e expert_e(mlp_in) . read / sigma,    with w of the run's own router logits
    """
    found, biases = [], []
    for layer, parts in enumerate(reading.layout.blocks):
        read, divisor, bias = reading.onward(parts.mlp, parts.mlp_post_norm, f"mlp_post_scale.{layer}")
        chosen, slots = _slots(reading, layer)
        effects = torch.einsum("sbpm,bm->sbp", slots.to(read), read) / divisor
        own = effects.new_zeros(reading.model.sites.sizes.n_experts, *effects.shape[1:]).scatter_add(0, chosen, effects)
        rest = mlp[layer] - own.sum(0)
        if {Site("mlp_out", layer), Site("mlp_raw", layer)} & reading.changed:
            bias = rest
        slack = allowed + own.square().sum(0).sqrt() * reading.eps * SLACK
        require(f"the experts of layer {layer} do not sum to what the MLP adds", rest, bias, slack)
        found.append(own)
        biases.append(bias)
    return torch.stack(found), torch.stack(biases)


def _slots(reading: Reading, layer: int) -> tuple[Tensor, Float[Tensor, "slot batch pos d_model"]]:
    """The experts chosen at each position, [slot batch pos], and what each of them writes, by the stock modules."""
    parts: Any = reading.layout.blocks[layer]
    x, logits = (reading.own(f"{site}.{layer}") for site in ("mlp_in", "router"))
    shape, flat = x.shape[:2], x.flatten(0, 1)
    with RouterLogits(lambda _: logits.flatten(0, 1).to(flat)):
        _, weights, chosen = parts.router(flat)
    written = [parts.experts(flat, chosen[:, [slot]], weights[:, [slot]]) for slot in range(chosen.shape[1])]
    slots = chosen.shape[1]
    return chosen.T.reshape(slots, *shape), torch.stack(written).reshape(slots, *shape, -1)
