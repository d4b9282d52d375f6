"""The direct effect of each expert of a mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.protocols import At, Edit
from residscope.engine.seams import RouterLogits
from residscope.methods._lib.direct.reading import SLACK, Reading, require
from residscope.model.prompts import Batch
from residscope.model.sites import Site, SiteTable


def expert_effects(
    reading: Reading, mlp: Float[Tensor, "layer batch pos"], allowed: Float[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "layer expert batch pos"], Float[Tensor, "layer batch pos"]]:
    """What each expert adds, weighted as the router weights it (0 where it is not chosen), and what the MLP adds beside them.

    experts[e] = w_e expert_e(mlp_in) . read / sigma,    with w of the run's own router logits
    """
    found, biases = [], []
    for layer, parts in enumerate(reading.layout.blocks):
        read, divisor, bias = reading.onward(parts.mlp, parts.mlp_post_norm, f"mlp_post_scale.{layer}")
        x, logits = (reading.own(f"{site}.{layer}") for site in ("mlp_in", "router"))
        chosen, slots = _slots(parts, x, logits)
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


@dataclass(frozen=True, eq=False)
class WithoutExpert(Edit):
    """An MLP's output less what one of its experts adds to it, the others weighted as they were.

    written: that expert's weighted output in the run, 0 where it is not chosen.
    """

    layer: int
    written: Float[Tensor, "prompt pos d_model"]

    def places(self, table: SiteTable) -> list[Site]:
        return [table.canonical(Site("mlp_raw", self.layer))]

    def apply(self, value: Tensor, at: At) -> Tensor:
        return value - at.mine(self.written)[:, at.offset : at.offset + value.shape[1]].to(value)


def without_experts(
    model: Model, batch: Batch, experts: Sequence[tuple[int, int]], background: Sequence[Edit]
) -> list[WithoutExpert]:
    """The edit that takes each (layer, expert) out of a run: what it writes there hangs on nothing that is taken out."""
    layers = sorted({layer for layer, _ in experts})
    run = model.run(batch, [f"{site}.{layer}" for site in ("mlp_in", "router") for layer in layers], edits=background)
    found: dict[tuple[int, int], WithoutExpert] = {}
    for layer in layers:
        chosen, slots = _slots(model.layout.blocks[layer], run["mlp_in", layer], run["router", layer])
        for at, expert in experts:
            if at == layer:
                written = torch.where((chosen == expert)[..., None], slots, 0).sum(0)
                found[at, expert] = WithoutExpert(layer, written)
    return [found[one] for one in experts]


def _slots(
    parts: Any, x: Float[Tensor, "batch pos d_model"], logits: Float[Tensor, "batch pos expert"]
) -> tuple[Tensor, Float[Tensor, "slot batch pos d_model"]]:
    """The experts chosen at each position, [slot batch pos], and what each of them writes, by the stock modules."""
    shape, flat = x.shape[:2], x.flatten(0, 1)
    with RouterLogits(lambda _: logits.flatten(0, 1).to(flat)):
        _, weights, chosen = parts.router(flat)
    with torch.no_grad():
        written = [parts.experts(flat, chosen[:, [slot]], weights[:, [slot]]) for slot in range(chosen.shape[1])]
    slots = chosen.shape[1]
    return chosen.T.reshape(slots, *shape), torch.stack(written).reshape(slots, *shape, -1)
