"""What a screened sweep of 64 tokens takes, beside a peer's whole forwards; its recall against the exact sweep."""

import random
import statistics
import time
from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row
from bench.patching import ALIGNED, UNRELATED, Pair, told
from bench.peers import Peer


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    with Peer("transformer_lens") as peer:
        yield from screened_rows(model, peer, rounds=1 if quick else 2)


def screened_rows(model: rs.Model, peer: Peer, *, rounds: int) -> Iterator[Row]:
    """Screening at 64 tokens, beside the peer's whole forwards; recall against the exact sweep."""
    for name, texts, ways, reach in (
        ("aligned pair", ALIGNED, ("bfloat16", "neighbours", "gradient"), 20),
        ("unrelated texts", UNRELATED, ("bfloat16",), None),
    ):
        pair = Pair(model, *(told(model, text, 64) for text in texts))
        cells = [(layer, pos) for layer in range(model.n_layers) for pos in range(64)]
        exact = pair.ours()
        gap = abs(exact.provenance["clean"][0] - exact.provenance["corrupted"][0])
        big = (exact.values - exact.provenance["corrupted"][0]).abs().flatten() >= 0.05 * gap
        for by in ways:
            times, found = [], None
            for i in range(rounds):
                before, _ = pair.theirs(peer, random.Random(i).sample(cells, 4))
                began = time.perf_counter()
                found = rs.activation_patching(
                    model, [pair.clean], [pair.corrupted], pair.metric, screen=by, progress=False
                )
                times.append((time.perf_counter() - began, before * len(cells)))
            assert found is not None
            known = torch.tensor([k == "exact" for k in found.provenance["known"]])
            recall = float((known & big).sum() / big.sum())
            ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
            ratios = sorted(a / b for a, b in times)
            ratio = statistics.median(ratios)
            audit, left = found.provenance["audit"], found.provenance["estimates"]
            bound = f"at most {audit['at most over']} of the {left} estimates over it, {audit['cells']} drawn"
            cost = ", ".join(f"{stage} {spent['seconds']:.3g} s" for stage, spent in found.provenance["cost"].items())
            note = (
                f"{1 / ratio:.1f} times as fast as transformer_lens; recall {recall:.3f} of the {int(big.sum())} cells over "
                f"5 % of the gap, {int(known.sum())} of {len(cells)} exact; {bound}; {cost}"
            )
            asked = None if reach is None or by != "bfloat16" else 1 / reach
            yield Row(
                f"screened by {by}, 64 tokens, {name}", ours, theirs, ratio, ratios[0], ratios[-1], asked, rounds, note
            )
