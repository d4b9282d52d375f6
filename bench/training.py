"""Training a dictionary beside dictionary_learning's and SAELens' own trainers: the same vectors, shape, rate and threads.

The two are in an environment of their own, whose python RESIDSCOPE_SAE_PEERS names (.bench-venv-sae/bin/python unless said).
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import residscope as rs
from bench.harness import Row, pair, paired
from bench.peers import Peer
from residscope.corpus.reading import Reader
from residscope.sae.training.learner import Learner
from residscope.sae.training.plan import Plan
from residscope.sae.training.stream import Stream

PYTHON = Path(os.environ.get("RESIDSCOPE_SAE_PEERS", Path(__file__).parents[1] / ".bench-venv-sae/bin/python"))
LIBRARIES = ("dictionary_learning", "sae_lens")
SITE, K, REACH = "resid_post.8", 32, 1 / 1.5
SHAPES = ((2304, 2048), (2304, 4096), (9216, 2048), (9216, 4096))  # features, batch
TOKENS, HELD_OUT = 80_000, 8_192
STEPS, RATE = 300, 2e-3  # of the comparison of quality
SIX = tuple(f"resid_post.{layer}" for layer in range(8, 14))


def vectors(model: rs.Model, tokens: int) -> torch.Tensor:
    """Vectors at the site over the built-in English, in random order, their mean square length 1."""
    found: list[torch.Tensor] = []
    for run in Stream(model, Reader(model, "english"), [SITE]).runs(lambda *_: None):
        found.append(run[SITE])
        if sum(map(len, found)) >= tokens:
            break
    x = torch.cat(found)[:tokens]
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return x * x.square().sum(1).mean().rsqrt()


def learner(x: torch.Tensor, features: int, batch: int, steps: int) -> Callable[[int], object]:
    """A function that takes so many more steps, on the vectors in their order; `one` is the learner."""
    one = Learner(Plan("batchtopk", SITE, SITE, features, K, lr=RATE), steps, steps * batch)
    one.patience = 10_000_000  # as the others have it
    one.begin(x, x)

    def train(count: int) -> None:
        for _ in range(count):
            at = one.number * batch % (len(x) - batch + 1)
            one.step(x[at : at + batch], x[at : at + batch])

    train.one = one  # type: ignore[attr-defined]
    return train


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    x = vectors(model, TOKENS // 4 if quick else TOKENS + HELD_OUT)
    with TemporaryDirectory() as folder, Peer("sae_training", python=PYTHON) as peer:
        files = [Path(folder) / name for name in ("train.npy", "held_out.npy")]
        train, held_out = x[:-HELD_OUT], x[-HELD_OUT:]
        for file, part in zip(files, (train, held_out), strict=True):
            np.save(file, part.numpy())
        for library in LIBRARIES:
            for features, batch in SHAPES[:1] if quick else SHAPES:
                yield speed(peer, library, files[0], train, features, batch, pairs=3 if quick else 7)
        if not quick:
            yield from quality(peer, files, train, held_out)
    yield six(model, quick=quick)


def speed(peer: Peer, library: str, file: Path, x: torch.Tensor, features: int, batch: int, *, pairs: int) -> Row:
    ours = learner(x, features, batch, STEPS)
    given = {"features": features, "k": K, "batch": batch, "steps": STEPS, "lr": RATE}
    peer.call("start", library=library, file=str(file), **given)
    note = f"F = {features:,}, batch {batch:,}, k = {K}, float32, cached vectors of {SITE}, two steps of BatchTopK"
    name = f"training beside {library}"
    return paired(
        name, lambda: ours(2), lambda: peer.call("train", count=2).seconds, pairs=pairs, reach=REACH, note=note
    )


def quality(peer: Peer, files: list[Path], x: torch.Tensor, held_out: torch.Tensor) -> Iterator[Row]:
    """FVU and L0 on held-out vectors, after as many steps at the same rate: as saved, with a threshold."""
    features, batch = SHAPES[0]
    ours = learner(x, features, batch, STEPS)
    ours(STEPS)
    made = ours.one.dictionary({SITE: 1.0}, {})  # type: ignore[attr-defined]
    a = made.encode(held_out)
    mine = float((made.decode(a) - held_out).square().sum() / (held_out - held_out.mean(0)).square().sum())
    l0 = float((a > 0).sum(1).float().mean())
    for library in LIBRARIES:
        given = {"features": features, "k": K, "batch": batch, "steps": STEPS, "lr": RATE}
        peer.call("start", library=library, file=str(files[0]), **given)
        peer.call("train", count=STEPS)
        found = peer.call("measure", file=str(files[1])).facts
        note = f"held-out FVU after {STEPS} steps, F = {features:,}, batch {batch:,}; L0 {l0:.1f} and {found['l0']:.1f}"
        ratio = mine / found["fvu"]
        yield Row(f"FVU beside {library}", mine, found["fvu"], ratio, ratio, ratio, 1.0, 1, note, unit="share")


def six(model: rs.Model, *, quick: bool) -> Row:
    """Six sites from one pass of the model, beside a pass for each."""
    tokens = 4_096 if quick else 16_384
    options = {"features": 2304, "k": K, "tokens": tokens, "batch": 512, "progress": False}

    def one_pass() -> object:
        return rs.sae.train(model, "english", SIX, **options)

    def six_passes() -> object:
        return [rs.sae.train(model, "english", [site], **options) for site in SIX]

    note = f"resid_post.8 to 13, F = 2,304, {tokens:,} tokens, the model's forwards included"
    return pair(
        "six sites from one pass", one_pass, six_passes, pairs=1 if quick else 3, reach=REACH, note=note, warm=0
    )
