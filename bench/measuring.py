"""Measuring techniques beside TransformerLens 4.3 in one run; the reading ones also against a second, maps against a minute.

What is held against the clock says beside it how fast the machine multiplies just then.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator

import torch

import residscope as rs
from bench.harness import Row, paired
from bench.patching import ALIGNED, told
from bench.paths import CLEAN, CORRUPTED, METRIC
from bench.peers import Peer
from residscope.engine.planner.pricing import gemm_rate, shapes_of

SAMPLE = 8  # of a peer's cells, each a whole forward or two
STEPS = 5


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    clean, corrupted = (model.tokens(text)[0].tolist() for text in (CLEAN, CORRUPTED))
    answers = [model.token_id(" Mary"), model.token_id(" John")]
    given = {"clean": clean, "corrupted": corrupted, "answers": answers}
    pairs = 2 if quick else 5
    text = told(model, ALIGNED[0], 64)
    with Peer("transformer_lens") as peer:
        yield from _paths(model, peer, given, pairs)
        yield paired(
            f"EAP-IG, {STEPS} steps, every edge, {len(clean)} tokens",
            lambda: rs.edge_attribution(model, CLEAN, CORRUPTED, METRIC, steps=STEPS, sample=0, progress=False),
            lambda: peer.call("eap_ig", **given, steps=STEPS).seconds,
            pairs=pairs,
            reach=1 / 1.5,
            note="against the authors' way, hooks and a backward pass a step, on TransformerLens",
        )
        for name, ours, op, asked in (
            ("logit lens", lambda: rs.logit_lens(model, [text]), "lens", {}),
            (
                "direct attribution by head",
                lambda: rs.direct_attribution(model, [text], METRIC, by="head", progress=False),
                "attribution",
                {"answers": answers, "unit": "head"},
            ),
        ):
            note = f"every row and position, against its {op}" if op == "lens" else "against its own, weights folded"

            def theirs(op: str = op, asked: dict[str, object] = asked) -> float:
                return peer.call(op, ids=text, **asked).seconds

            yield paired(f"{name}, 64 tokens", ours, theirs, pairs=pairs, note=note)
            yield _under(model, f"{name}, 64 tokens", ours, 1.0, pairs)
    ends = [[told(model, side, 64)] for side in ALIGNED]
    for site in () if quick else ("resid_pre", "z"):
        yield _under(
            model,
            f"a map of {site}, 64 tokens, every layer and {'head' if site == 'z' else 'position'}",
            lambda site=site: rs.activation_patching(model, *ends, METRIC, site=site, progress=False),
            60.0,
            1,
        )


def _paths(model: rs.Model, peer: Peer, given: dict[str, object], pairs: int) -> Iterator[Row]:
    n, many, draw = model.n_layers, model.n_heads, random.Random(0)
    last = n - 5
    for name, receiver, before, reach in (
        ("the logits", None, n, 1 / 8),
        (f"q of head {last}.3", [last, 3], last, None),
    ):
        every = [[i, j] for i in range(before) for j in range(many)]
        ends = None if receiver is None else [tuple(receiver)]

        def ours(ends: object = ends, before: int = before) -> rs.Result:
            return rs.path_patching(
                model, CLEAN, CORRUPTED, METRIC, receivers=ends, layers=range(before), progress=False
            )

        def theirs(every: list[list[int]] = every, receiver: object = receiver) -> float:
            cells = draw.sample(every, SAMPLE)
            return peer.call("path_patch", **given, cells=cells, receiver=receiver).seconds / SAMPLE * len(every)

        yield paired(
            f"path patching of {len(every)} heads to {name}, 16 tokens, beside TransformerLens",
            ours,
            theirs,
            pairs=pairs,
            reach=reach,
            note="rs.path_patching whole, against hooks that put every other head back, a forward a cell",
        )


def _under(model: rs.Model, name: str, ours: Callable[[], object], seconds: float, times: int) -> Row:
    """Against so many seconds; the rate of the model's own matrices beside it says what machine it was."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        ours()
        taken.append(time.perf_counter() - began)
    low, middle, high = statistics.quantiles(taken, n=4) if times > 1 else taken * 3
    shares = (x / seconds for x in (middle, low, high))
    rate = gemm_rate.__wrapped__("cpu", torch.float32, shapes_of(model.layout)) / 1e9
    note = f"against {seconds:g} s; {rate:.0f} GFLOP/s of this machine just then"
    return Row(name, middle, seconds, *shares, 1.0, times, note)
