"""A tiny model that reads text, texts for it, and models with a direction planted in them."""

from random import Random

import torch

from residscope.directions import Direction
from residscope.engine.model import Model
from session import worlds
from tiny_models import tiny_gpt2, tiny_llama

DRAWN = Random(5)
TEXTS = ["".join(DRAWN.choices("abcdefgh ", k=DRAWN.randint(12, 60))) for _ in range(60)]
D = 32


def reader(family: str = "llama") -> Model:
    """Random weights, one token a character."""
    return Model({"llama": tiny_llama, "gpt2": tiny_gpt2}[family](), worlds.tokenizer(), name=family)


def drawn(seed: int, *, site: str = "resid_post.1", d: int = D, head: int | None = None) -> Direction:
    """A direction drawn at random."""
    vector = torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vector = vector / vector.norm()
    return Direction(vector, vector, site, name=f"random {seed}", head=head)


def planted_readout(seed: int = 0) -> tuple[Model, Direction]:
    """A model whose predictions depend on one direction of the end of the stream, and hardly on anything else."""
    hf = tiny_llama(seed=seed)
    model = Model(hf, worlds.tokenizer(), name="planted readout")
    a, b = model.token_id("a"), model.token_id("b")
    v = drawn(99).read
    with torch.no_grad():
        hf.lm_head.weight.mul_(0.02)
        hf.lm_head.weight[a] = 2 * v
        hf.lm_head.weight[b] = -2 * v
    read = model.layout.final_norm.gain.double() * v
    read = (read / read.norm()).detach()
    return model, Direction(read, read, "resid_post.3", name="planted")


def planted_embedding(seed: int = 0) -> tuple[Model, Direction]:
    """A model whose embedding writes, along one direction, whether a character is of the first half; a gpt2, with positions."""
    hf = tiny_gpt2(tied=False, seed=seed)
    model = Model(hf, worlds.tokenizer(), name="planted embedding")
    v = drawn(98).read
    with torch.no_grad():
        for text in "abcdefgh ":
            hf.transformer.wte.weight[model.token_id(text)] += (8 if text in "abcd" else -8) * v
    return model, Direction(v, v, "resid_post.1", name="planted")
