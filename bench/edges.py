"""Every head-to-head edge exactly, beside one plain forward for each edge."""

import time
from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row, paired
from bench.paths import CLEAN, CORRUPTED, METRIC

SAMPLE = 18  # plain forwards timed in each pair; they all cost the same
SENDERS, LAYERS = (
    range(0, 30, 3),
    [5, 15, 25],
)  # 10.5 layers from the receiver to the end in the mean; of all edges, 10.3
OTHER = "Since John and Mary went to the store, Mary gave a bottle of milk to"  # differs from its first token on


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    ids = model.tokens(CLEAN)
    for name, corrupted in (("its 11th token", CORRUPTED), ("its first token", OTHER)):

        def found(corrupted: str = corrupted) -> rs.Result:
            return rs.edge_patching(
                model, CLEAN, corrupted, METRIC, nodes="heads", senders=SENDERS, receivers=LAYERS, progress=False
            )

        edges = found().provenance["edges"]

        def theirs(edges: int = edges) -> float:
            with torch.no_grad():
                began = time.perf_counter()
                for _ in range(SAMPLE):
                    model.hf(ids)
                return (time.perf_counter() - began) / SAMPLE * edges

        layers = ", ".join(map(str, LAYERS))
        yield paired(
            f"edges of every third layer's heads into layers {layers}, {ids.shape[1]} tokens, differing from {name} on",
            found,
            theirs,
            pairs=2 if quick else 4,
            reach=0.1,
            note=f"{edges} edges beside a plain forward each; of the model's 35,235 head-to-head edges",
        )
