"""Recording and steered generation beside TransformerLens 4.3, in one run, on the same weights."""

from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row, paired
from bench.patching import random_pair
from bench.peers import Peer
from residscope import edits

NEW = 20


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    pairs = 5 if quick else 15
    with Peer("transformer_lens") as peer:
        for batch, length in ((1, 16), (8, 128)):
            ids = torch.randint(0, model.d_vocab, (batch, length), generator=torch.Generator().manual_seed(0))
            told = ids.tolist()

            def recorded(ids: torch.Tensor = ids) -> object:
                return model.run(ids, ("resid_pre", "resid_post", "pattern", "logits"))

            for everything, what in ((True, "everything"), (False, "the stream and patterns")):
                if everything and batch > 1:
                    continue  # 1,393 tensors of 8 x 128 tokens do not fit beside the rest
                yield paired(
                    f"recording, {batch} x {length}",
                    recorded,
                    lambda told=told, everything=everything: (
                        peer.call("record", ids=told, everything=everything).seconds
                    ),
                    pairs=pairs if batch == 1 else 5,
                    note=f"stream and patterns, against run_with_cache of {what}",
                )
        prompt = random_pair(model, 16)[0]
        vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
        steer = edits.steer("resid_pre.10", vector, 20.0)

        def ours() -> tuple[int, ...]:
            return model.generate([prompt], edits=[steer], max_new_tokens=NEW, stop=()).ids

        def theirs() -> float:
            return peer.call(
                "generate", ids=prompt, layer=10, direction=vector.tolist(), strength=20.0, new_tokens=NEW
            ).seconds

        same = (
            list(ours()[-NEW:])
            == peer.call("generate", ids=prompt, layer=10, direction=vector.tolist(), strength=20.0, new_tokens=NEW)[
                "tokens"
            ].tolist()[-NEW:]
        )
        yield paired(
            "generation with a steering vector, 16 + 20 tokens",
            ours,
            theirs,
            pairs=5,
            note=f"against generate under hooks; {'the same' if same else 'OTHER'} tokens",
        )
