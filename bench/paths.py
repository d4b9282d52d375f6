"""Path patching of every head to one receiver, planned and run, beside as many plain forwards: each path by a run of its own."""

import time
from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row, paired
from residscope import edits

CLEAN = "When John and Mary went to the store, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the store, Mary gave a bottle of milk to"
METRIC = rs.logit_diff(" Mary", " John")
SAMPLE = 18  # plain forwards timed for each sweep; they all cost the same


def cells_of(model: rs.Model, receiver: str, head: int | None, before: int) -> list[edits.BaseEdit]:
    """The paths from every head of the layers before one to a receiver, from the corrupted prompt."""
    source = model.run(CORRUPTED, ["z"])
    where = {} if head is None else {"head": head}
    return [
        edits.path(f"z.{layer}", receiver, source, sender_head=sender, **where)
        for layer in range(before)
        for sender in range(model.n_heads)
    ]


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    ids, n = model.tokens(CLEAN), model.n_layers
    for name, receiver, head, before in (
        ("the logits", "final_norm", None, n),
        (f"q of head {n - 5}.3", f"q.{n - 5}", 3, n - 5),
    ):
        cells = cells_of(model, receiver, head, before)

        def ours(cells: list[edits.BaseEdit] = cells) -> torch.Tensor:
            return rs.sweep(model, CLEAN, cells, METRIC).run(progress=False).values

        def theirs(count: int = len(cells)) -> float:
            with torch.no_grad():
                began = time.perf_counter()
                for _ in range(SAMPLE):
                    model.hf(ids)
                return (time.perf_counter() - began) / SAMPLE * count

        drawn = range(0, len(cells), 15)
        alone = torch.stack([METRIC(model.run(CLEAN, METRIC.sites, edits=cells[i])) for i in drawn])
        worst = float((ours()[list(drawn)] - alone).abs().max())
        assert worst < 1e-4, worst
        note = f"{len(cells)} cells beside a plain forward each; values within {worst:.0e} of a run for each"
        yield paired(
            f"path patching of {len(cells)} heads to {name}, {ids.shape[1]} tokens", ours, theirs,
            pairs=2 if quick else 5, reach=0.2, note=note,
        )  # fmt: skip
