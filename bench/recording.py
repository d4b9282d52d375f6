"""What recording costs: the whole residual stream and every attention pattern, against the plain Hugging Face forward."""

from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row, pair

CAPTURE = ("resid_pre", "resid_post", "pattern", "logits")


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    for batch, length, pairs in ((1, 16, 61), (8, 128, 15)):
        ids = torch.randint(0, model.d_vocab, (batch, length), generator=torch.Generator().manual_seed(0))

        def plain(ids: torch.Tensor = ids) -> object:
            with torch.no_grad():
                return model.hf(ids, use_cache=False).logits

        def recorded(ids: torch.Tensor = ids) -> object:
            return model.run(ids, CAPTURE)

        def stream(ids: torch.Tensor = ids) -> object:
            return model.run(ids, ("resid_pre", "resid_post", "logits"))

        n = 5 if quick else pairs
        size = f"{batch} x {length}"
        yield pair(
            f"stream + all patterns, {size}", recorded, plain, pairs=n, reach=1.05, note="against plain HF (sdpa)"
        )
        yield pair(f"stream alone, {size}", stream, plain, pairs=n, reach=1.05, note="against plain HF (sdpa)")
