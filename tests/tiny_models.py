"""Tiny random models of each family, in float64: what the tests that need no real model run on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

IOI = "When John and Mary went to the store, John gave a bottle of milk to"
VOCAB = 97


def tiny_llama(
    *, kv_heads: int = 2, tied: bool = False, bias: bool = False, layers: int = 4, seed: int = 0
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=64, tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return shaken(LlamaForCausalLM(config))


def tiny_gpt2(*, tied: bool = True, layers: int = 4, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=layers, n_head=4, n_positions=64, tie_word_embeddings=tied,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return shaken(GPT2LMHeadModel(config))


def shaken(hf):  # type: ignore[no-untyped-def]
    """Norm gains and biases away from one and zero, so that a forgotten one shows."""
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if weight.ndim == 1 or "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif not weight.any():
                weight.normal_(std=0.1)
            elif "embed" not in name and "wte" not in name:
                weight.mul_(4)
    return hf.double().eval()


VARIANTS = {
    "llama": lambda: tiny_llama(),
    "llama-mha-tied": lambda: tiny_llama(kv_heads=4, tied=True),
    "llama-mqa-biased": lambda: tiny_llama(kv_heads=1, bias=True),
    "gpt2": lambda: tiny_gpt2(),
    "gpt2-untied": lambda: tiny_gpt2(tied=False),
}


@contextmanager
def left_as_it_was(hf: torch.nn.Module) -> Iterator[None]:
    """What transformers hooks in to answer `output_hidden_states` and `output_attentions` stays there for good: here it goes."""
    before = [(m, m._forward_hooks.copy(), m._forward_pre_hooks.copy()) for m in hf.modules()]
    try:
        yield
    finally:
        for m, after, pre in before:
            m._forward_hooks, m._forward_pre_hooks = after, pre
            m.__dict__.pop("_output_capturing_hooks_installed", None)


def hook_count(hf: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in hf.modules())
