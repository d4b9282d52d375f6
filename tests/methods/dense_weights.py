"""Weights of four tiny families by their modules' own names and packings, gains folded in: what methods are checked against."""

import torch
from families import FAMILIES

from residscope.engine.model import Model

NAMES = ("gpt2", "llama", "gemma2", "gpt_neox")
C = torch.eye(32).double() - 1 / 32


def built(name):
    hf = FAMILIES[name].build()
    return Model(hf.requires_grad_(False), name=name), hf


class Dense:
    """q, k, v [head d_model d_head], o [head d_head d_model], W_in [d_model n], W_out [n d_model] of each layer, gains folded in.

    E: embeddings over the divisor of the first norm of the layer; raw: as they are; U: the unembedding behind the final gain.
    """

    @torch.no_grad()
    def __init__(self, name, hf, layer):
        d = 32
        if name == "gpt2":
            stack, block = hf.transformer, hf.transformer.h[layer]
            q, k, v = (w.unflatten(1, (4, 8)).transpose(0, 1) for w in block.attn.c_attn.weight.split(d, 1))
            G = C @ torch.diag(block.ln_1.weight)
            self.o = block.attn.c_proj.weight.unflatten(0, (4, 8))
            self.W_in = C @ torch.diag(block.ln_2.weight) @ block.mlp.c_fc.weight
            self.W_out = block.mlp.c_proj.weight
            self.raw, eps, self.factor = stack.wte.weight, 1e-5, 8**-0.5
            self.U = C @ torch.diag(stack.ln_f.weight) @ hf.lm_head.weight.T
        elif name == "gpt_neox":
            block = hf.gpt_neox.layers[layer]
            packed = block.attention.query_key_value.weight.reshape(4, 3, 8, d)
            q, k, v = (packed[:, i].transpose(1, 2) for i in range(3))
            G = C @ torch.diag(block.input_layernorm.weight)
            self.o = block.attention.dense.weight.T.unflatten(0, (4, 8))
            self.W_in = C @ torch.diag(block.post_attention_layernorm.weight) @ block.mlp.dense_h_to_4h.weight.T
            self.W_out = block.mlp.dense_4h_to_h.weight.T
            self.raw, eps, self.factor = hf.gpt_neox.embed_in.weight, 1e-5, 8**-0.5
            self.U = C @ torch.diag(hf.gpt_neox.final_layer_norm.weight) @ hf.get_output_embeddings().weight.T
        else:
            more, block = float(name == "gemma2"), hf.model.layers[layer]
            attn, n = block.self_attention if hasattr(block, "self_attention") else block.self_attn, 12 if more else 8
            q = attn.q_proj.weight.T.unflatten(1, (4, n)).transpose(0, 1)
            k, v = (
                w.weight.T.unflatten(1, (2, n)).transpose(0, 1).repeat_interleave(2, 0)
                for w in (attn.k_proj, attn.v_proj)
            )
            G = torch.diag(block.input_layernorm.weight + more)
            before = block.pre_feedforward_layernorm if more else block.post_attention_layernorm
            W = torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight]).T
            self.W_in = torch.diag(before.weight + more) @ W
            self.o, self.W_out = attn.o_proj.weight.T.unflatten(0, (4, n)), block.mlp.down_proj.weight.T
            if more:
                self.o = self.o @ torch.diag(block.post_attention_layernorm.weight + 1)
                self.W_out = self.W_out @ torch.diag(block.post_feedforward_layernorm.weight + 1)
            self.raw = hf.model.embed_tokens.weight * (32**0.5 if more else 1)
            eps, self.factor = 1e-6, (20 if more else 8) ** -0.5
            self.U = torch.diag(hf.model.norm.weight + more) @ hf.lm_head.weight.T
        self.q, self.k, self.v = G @ q, G @ k, G @ v
        self.E = self.raw / ((self.raw @ C if name.startswith("gpt") else self.raw).square().mean(1, True) + eps).sqrt()
