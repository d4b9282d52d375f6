"""Pricing: the arithmetic of a pass, and what this machine makes of it."""

import time
from dataclasses import dataclass

import torch

from residscope.engine.layout import Layout
from residscope.once import once

OVERHEAD_TOKENS = 40  # what one block of one pass costs beside its tokens (weights read, calls made), in tokens


@dataclass(frozen=True)
class Prices:
    """What a token costs in one model: floating-point operations per block, and bytes in flight."""

    block: tuple[int, ...]
    attention: int
    unembed: int
    bytes: int
    d_vocab: int

    def forward(self, rows: int, length: int, columns: int | None = None) -> int:
        """FLOPs of whole forwards: blocks, attention over the keys before each position, and one position's logits."""
        tokens = rows * length
        blocks = sum(self.block) * tokens
        attention = len(self.block) * self.attention * rows * length * (length + 1) // 2
        return blocks + attention + rows * self.unembed * (self.d_vocab if columns is None else columns)

    def block_tokens(self, layer: int, rows: int, length: int, keys: int) -> int:
        """FLOPs of one block over `rows` x `length` tokens, the last of which sees `keys` keys."""
        return rows * length * (self.block[layer] + self.attention * keys)


def prices_of(layout: Layout) -> Prices:
    """The model's own prices: two FLOPs for each weight a token meets, four for each key and head dimension."""
    s, config = layout.sizes, layout.hf.config
    share = getattr(config, "num_experts_per_tok", 1) / s.n_experts if s.n_experts else 1.0

    def weights(parts: object) -> int:
        every = sum(w.numel() for w in parts.block.parameters() if w.ndim > 1)  # type: ignore[attr-defined]
        experts = getattr(parts, "experts", None)
        routed = sum(w.numel() for w in experts.parameters() if w.ndim > 1) if experts is not None else 0
        return int(every - routed * (1 - share))

    wide = 8 * s.d_model + 3 * max(s.d_mlp, s.d_model) + 4 * s.n_heads * s.d_head
    return Prices(
        block=tuple(2 * weights(parts) for parts in layout.blocks),
        attention=4 * s.n_heads * s.d_head,
        unembed=2 * s.d_model,
        bytes=wide * layout.dtype.itemsize,
        d_vocab=s.d_vocab,
    )


@once
def gemm_rate(device: str, dtype: torch.dtype, shapes: tuple[tuple[int, int], ...], rows: int = 1024) -> float:
    """FLOPs per second this machine reaches on the products [rows, d_in] @ [d_in, d_out], the best of a few tries of each."""
    flops, seconds = 0, 0.0
    for d_in, d_out in shapes:
        a = torch.ones(rows, d_in, device=device, dtype=dtype)
        b = torch.ones(d_out, d_in, device=device, dtype=dtype).T
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            c = a @ b
            if c.is_cuda:
                torch.cuda.synchronize(c.device)
            best = min(best, time.perf_counter() - began)
        flops, seconds = flops + 2 * rows * d_in * d_out, seconds + best
    return flops / seconds


def shapes_of(layout: Layout) -> tuple[tuple[int, int], ...]:
    """The matrices of one block, but for experts."""
    experts = layout.blocks[0].experts
    routed = {id(w) for w in experts.parameters()} if experts is not None else set()
    weights = [w for w in layout.blocks[0].block.parameters() if w.ndim == 2 and id(w) not in routed]
    return tuple((int(w.shape[1]), int(w.shape[0])) for w in weights) or ((layout.sizes.d_model, layout.sizes.d_model),)


def rate_of(layout: Layout) -> float:
    """The machine's rate on this model's matrices, measured once."""
    return gemm_rate(str(layout.device), layout.dtype, shapes_of(layout))
