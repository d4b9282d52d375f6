"""Gradients of a stock model by its own modules and torch.autograd, for comparison: nothing of the engine's."""

from typing import Any

import torch
from torch import Tensor

# of each family: its blocks, and within a block what reads the heads, what reads the neurons, and what ends the MLP's branch
PLACES = {
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj", "mlp"),
    "llama": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "mlp"),
    "qwen3": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "mlp"),
    "gemma2": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "post_feedforward_layernorm"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h", "mlp"),
    "gptj": ("transformer.h", "attn.out_proj", "mlp.fc_out", "mlp"),
}


def slopes(hf: Any, family: str, ids: Tensor, metric: Any) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Value and gradient at every block's stream, heads, neurons and MLP, and at the input embeddings."""
    blocks, heads, neurons, mlp = PLACES[family]
    found: dict[str, list[Tensor]] = {"resid": [], "heads": [], "neurons": [], "mlps": []}
    handles = []

    def read(name: str) -> Any:
        return lambda module, args, kwargs: found[name].append(args[0] if args else kwargs["hidden_states"])

    for block in hf.get_submodule(blocks):
        handles += [block.register_forward_pre_hook(read("resid"), with_kwargs=True)]
        handles += [block.get_submodule(heads).register_forward_pre_hook(read("heads"), with_kwargs=True)]
        handles += [block.get_submodule(neurons).register_forward_pre_hook(read("neurons"), with_kwargs=True)]
        handles += [block.get_submodule(mlp).register_forward_hook(lambda m, a, out: found["mlps"].append(out))]
    embeds = hf.get_input_embeddings()(ids).detach().requires_grad_()
    try:
        number = metric(hf(inputs_embeds=embeds, use_cache=False).logits).sum()
        every = {**found, "inputs": [embeds]}
        names = [name for name, values in every.items() for _ in values]
        grads = torch.autograd.grad(number, [x for values in every.values() for x in values])
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(names, [x for values in every.values() for x in values], grads, strict=True)
    made: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, x, g in pairs:
        made.setdefault(name, []).append((x.detach(), g))
    return made
