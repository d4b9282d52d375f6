"""A tiny model that reads text, texts of random characters, and what it has at a site over them, read in the plainest way."""

import random
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import OPTConfig, OPTForCausalLM

import residscope as rs
from residscope.engine.model import Model
from session.worlds import model, tokenizer
from tiny_models import VOCAB, shaken


def texts(seed: int = 0, n: int = 60, alphabet: str = "abcdefghij klmnop.,XYZ") -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(alphabet, k=chance.randint(8, 64))) for _ in range(n)]


@cache
def relu_model() -> Model:
    """A model whose neurons are never below zero."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    }
    config = OPTConfig(
        vocab_size=VOCAB, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes
    )
    return rs.load((shaken(OPTForCausalLM(config)), tokenizer()))


def vectors(of: Model, corpus: list[str], site: str, head: int | None = None) -> np.ndarray[Any, Any]:
    """One vector a token but the first of each text, one text at a time."""
    found = []
    for text in corpus:
        x = of.run(text, [site])[site][0, 1:]
        found.append(x if head is None else x[:, head])
    return torch.cat(found).numpy()


__all__ = ["model", "relu_model", "texts", "vectors"]
