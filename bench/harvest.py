"""A harvest of eight sites beside the forward that it is made of; and its memory over a million tokens."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

import residscope as rs
from bench.harness import Row, pair
from residscope.corpus.harvest.mapping import read_shard
from residscope.corpus.harvest.shards import Shard
from residscope.corpus.harvest.statistics import MomentsOf, TopTokens

SITES = [f"resid_post.{layer}" for layer in (2, 5, 8, 11, 14, 17, 20, 23)]
LENGTH, BATCH = 128, 8
MILLION = 1_000_000


def rows(*, quick: bool = False) -> Iterator[Row]:
    yield speed(quick)
    yield memory(MILLION // 20 if quick else MILLION)


def speed(quick: bool) -> Row:
    """One shard with the moments and the top 10 of every dimension of eight sites, and the same rows through transformers' own
    model, truncated above the last of them."""
    model = rs.load("smollm2-135m")
    ids = model.encode("".join(rs.corpus.text.python_docs())[: 400_000 if quick else 1_000_000])
    batches = 3 if quick else 16
    cut = [ids[i * LENGTH : (i + 1) * LENGTH] for i in range(BATCH * batches)]
    shard = Shard(0, 0, 0, cut)
    statistics = [make(site) for site in SITES for make in (MomentsOf, lambda site: TopTokens(site, k=10))]
    plain = rs.load("smollm2-135m").hf.model
    plain.layers = plain.layers[:24]

    def truncated() -> None:
        with torch.no_grad():
            for batch in shard.batches(BATCH):
                plain(input_ids=torch.tensor(batch), use_cache=False)

    note = (
        f"SmolLM2, {len(cut) * LENGTH:,} tokens in batches of {BATCH} x {LENGTH}, moments and top 10 of 576 dimensions at "
        f"{len(SITES)} sites, against transformers' own model with 24 of its 30 layers; 1.11 is 0.9 of its tokens a second"
    )
    return pair(
        "harvest of eight sites", lambda: read_shard(model, shard, statistics), truncated,
        pairs=2 if quick else 5, reach=1 / 0.9, note=note, warm=0 if quick else 1,
    )  # fmt: skip


def memory(tokens: int) -> Row:
    """The most memory at the end of a million tokens of a tiny model, beside the most after their first tenth."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    hf = LlamaForCausalLM(LlamaConfig(vocab_size=1000, max_position_embeddings=128, **sizes)).eval()
    model = rs.load((hf, None))
    draw = torch.Generator().manual_seed(0)
    peaks = {"early": 0, "late": 0}

    def progress(what: str, done: int, total: int) -> None:
        peaks["early" if done < tokens // 10 else "late"] = resident()

    statistics = [MomentsOf("resid_post.1"), TopTokens("mlp_post.1", k=10), rs.statistics.Quantiles("mlp_post.1")]
    reader = Drawn(model, draw)
    rs.harvest(model, reader, statistics, tokens=tokens, progress=progress)
    note = f"resident memory after {tokens:,} tokens of a tiny model, beside that after a tenth of them"
    late, early = float(peaks["late"]), float(peaks["early"])
    return Row("memory of a harvest", late, early, late / early, late / early, late / early, 1.05, 1, note, "bytes")


class Drawn(rs.corpus.reading.Reader):
    """A text without end, of ids drawn at random."""

    def __init__(self, model: rs.Model, draw: torch.Generator) -> None:
        super().__init__(model, [])
        self.draw = draw

    def batches(self, *, length: int, tokens: int, size: int, tell: object) -> Iterator[list[list[int]]]:
        for first in range(0, tokens, size * length):
            n = min(size, -(-(tokens - first) // length))
            yield torch.randint(1000, (n, length), generator=self.draw).tolist()


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
