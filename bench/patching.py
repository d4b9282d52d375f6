"""Exact sweeps beside a forward for every cell: TransformerLens 4.3, other peers, and plain Hugging Face batched by hand.

A peer's time for a sweep is that of cells drawn at random, times the number of cells: each of its cells is one whole forward, so
they all cost the same. Ours is the whole sweep, from the recording of the clean run on; at 256 tokens, of every 16th position
(in the middle of its sixteen, as cost falls evenly with position), times 16.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

import residscope as rs
from bench.harness import Row
from bench.peers import Peer, PeerError
from residscope import edits
from residscope.engine.planner.pricing import gemm_rate, shapes_of

ANSWERS = (" Mary", " John")
Cells = list[tuple[int, int]]


class Pair:
    """Two prompts and the metric between two answers, as a sweep of ours and as cells for a peer."""

    def __init__(self, model: rs.Model, clean: list[int], corrupted: list[int], site: str = "resid_pre") -> None:
        self.model, self.clean, self.corrupted, self.site = model, clean, corrupted, site
        self.metric = rs.logit_diff(*ANSWERS)
        self.answers = [model.token_id(answer) for answer in ANSWERS]

    def ours(self, positions: Sequence[int] | None = None) -> rs.Result:
        where = {} if self.site == "z" else {"positions": "each" if positions is None else positions}
        return rs.activation_patching(
            self.model, [self.clean], [self.corrupted], self.metric, site=self.site, progress=False, **where
        )

    def theirs(self, peer: Peer, cells: Cells) -> tuple[float, list[float]]:
        op = "head_patch" if self.site == "z" else "residual_patch"
        answer = peer.call(op, clean=self.clean, corrupted=self.corrupted, answers=self.answers, cells=cells)
        return answer.seconds / len(cells), answer["metric"].tolist()

    def by_hand(self, cells: Cells) -> float:
        """Seconds a cell of stock Hugging Face: one batch with a row for each cell, and a hook on every block."""
        hf, ids = self.model.hf, torch.tensor([self.corrupted] * len(cells))
        source = [x[0] for x in self.model.run([self.clean], ["resid_pre"]).stack("resid_pre")]
        rows: dict[int, list[tuple[int, int]]] = {}
        for row, (layer, pos) in enumerate(cells):
            rows.setdefault(layer, []).append((row, pos))

        def hook(layer: int) -> Callable[..., object]:
            def put(module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                stream = args[0].clone()
                for row, pos in rows[layer]:
                    stream[row, pos] = source[layer][pos]
                return (stream, *args[1:])

            return put

        handles = [hf.model.layers[layer].register_forward_pre_hook(hook(layer)) for layer in rows]
        try:
            began = time.perf_counter()
            with torch.no_grad():
                hf(ids, use_cache=False, logits_to_keep=1)
            return (time.perf_counter() - began) / len(cells)
        finally:
            for handle in handles:
                handle.remove()


def compared(
    name: str,
    pair: Pair,
    peer: Peer,
    *,
    every: Cells,
    sample: int,
    reach: float,
    rounds: int,
    stride: int = 1,
    share: bool = True,
) -> Iterator[Row]:
    """Rounds of: some of the peer's cells, our sweep, the peer's again; then the same beside a batch by hand.

    share: ask for 70 % of the GEMM rate, where every cell has long suffixes to work on.
    """
    length, draw = len(pair.clean), random.Random(0)
    positions = None if stride == 1 else [*range(stride // 2, length, stride)]
    known = every if positions is None else [c for c in every if c[1] in {*positions}]
    times: list[tuple[float, float, float, float]] = []
    worst = 0.0
    for _ in range(rounds):
        drawn = draw.sample(known, sample)
        half = sample // 2
        before, first = pair.theirs(peer, drawn[:half])
        began = time.perf_counter()
        found = pair.ours(positions)
        seconds = (time.perf_counter() - began) * stride
        rate = gemm_rate.__wrapped__("cpu", torch.float32, shapes_of(pair.model.layout))
        after, second = pair.theirs(peer, drawn[half:])
        hand = pair.by_hand(drawn[: min(16, sample)]) if pair.site != "z" else float("nan")
        times.append((seconds, (before + after) / 2 * len(every), hand * len(every), rate))
        for (layer, at), theirs in zip(drawn, first + second, strict=True):
            mine = found.select(layer=layer, **({"head": at} if pair.site == "z" else {"pos": at}))
            worst = max(worst, abs(float(mine.values) - theirs))
    ratios = sorted(ours / theirs for ours, theirs, _, _ in times)
    ours, theirs, hand, rate = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(ratios)
    note = f"{1 / ratio:.1f} times as fast as {pair.site} patching by {peer.name}; values within {worst:.0e}"
    yield Row(name, ours, theirs, ratio, ratios[0], ratios[-1], 1 / reach, rounds, note)
    if pair.site != "z":
        ratio = ours / hand
        note = f"{1 / ratio:.1f} times as fast as plain Hugging Face, 16 cells a batch, by hand"
        yield Row(name, ours, hand, ratio, ratio, ratio, None, rounds, note)
        cost = sweep_of(pair, positions).cost
        limit = cost.flops * stride / rate
        work = cost.flops * stride / 1e9
        note = (
            f"{limit / ours:.0%} of the GEMM rate ({rate / 1e9:.0f} GFLOP/s on the model's matrices; {work:.0f} GFLOP)"
        )
        asked = 1 / 0.7 if length >= 64 and share else None
        ratio = ours / limit
        yield Row(f"{name}: against the arithmetic's limit", ours, limit, ratio, ratio, ratio, asked, rounds, note)


def sweep_of(pair: Pair, positions: Sequence[int] | None = None) -> rs.Sweep:
    source = pair.model.run([pair.clean], ["resid_pre"])
    cells = [
        edits.patch(f"resid_pre.{layer}", source, pos=p)
        for layer in range(pair.model.n_layers)
        for p in (range(len(pair.clean)) if positions is None else positions)
    ]
    return rs.sweep(pair.model, [pair.corrupted], cells, pair.metric)


def random_pair(model: rs.Model, length: int) -> tuple[list[int], list[int]]:
    ids = torch.randint(100, 40_000, (2, length), generator=torch.Generator().manual_seed(length))
    ids[1] += ids[0] == ids[1]
    return ids[0].tolist(), ids[1].tolist()


def minimal_pair(model: rs.Model, length: int, at: int) -> tuple[list[int], list[int]]:
    """The IOI prompt behind other text, and the same with another subject: they differ at one index."""
    ends = [
        model.tokens(f"When John and Mary went to the store, {name} gave a bottle of milk to")[0].tolist()
        for name in ("John", "Mary")
    ]
    text = model.tokens(
        "The weather had been fine for most of the week, and nobody in the village expected any rain before Sunday. "
        "Still the old man took his coat. The children were told to stay near the house until the evening, and so they did. "
        "Nothing stirred on the road but a cart, and its driver was asleep."
    )[0].tolist()
    (differs,) = [i for i, (a, b) in enumerate(zip(*ends, strict=True)) if a != b]
    clean, corrupted = (text[: at - differs] + end + text[: length - (at - differs) - len(end)] for end in ends)
    assert len(clean) == length
    assert [i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b] == [at]
    return clean, corrupted


# two sentences of one form behind other text: each token stands for what the other's does, as in pairs that people patch
ALIGNED = (
    "Nobody had slept much. It had been raining in the valley for nine days, the river stood high under the bridge, and few "
    "people could remember a wetter spring. The shops stayed open anyway, and so did the school. Then, when John and Mary "
    "went to the store, John gave a bottle of milk to",
    "My uncle worked alone. He was the last of four sons on that farm, which lay far behind the hills, yet everybody would greet "
    "his old father. Some friends came over each year, but never for long. Later, after Mary and John came from a park, Mary "
    "handed some box with letters to",
)
# two texts that have nothing to do with each other: nearly half of the work is in cells over 5 % of their gap
UNRELATED = (
    "The weather had been fine for most of the week, and nobody in the village expected any rain before Sunday. Still the old "
    "man took his coat. When John and Mary went to the store, John gave a bottle of milk to",
    "Prices rose again in the spring, which surprised only those who had never kept a shop, or a household, in that part of "
    "town. When Mary and John came back from the park, Mary handed some old letters to",
)


def told(model: rs.Model, text: str, length: int) -> list[int]:
    """The last so many tokens of a text behind itself."""
    return (model.tokens(f"{text}. {text}")[0].tolist())[-length:]


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    n = model.n_layers
    with Peer("transformer_lens") as peer:
        each = {length: [(la, p) for la in range(n) for p in range(length)] for length in (16, 64, 256)}
        for length, reach, rounds, stride in ((16, 10, 5, 1), (64, 7, 2, 1), (256, 4, 1, 16)):
            if quick and length > 16:
                break
            pair = Pair(model, *random_pair(model, length))
            yield from compared(
                f"residual patching, {length} tokens, pairs that differ everywhere", pair, peer, every=each[length],
                sample=8, reach=reach, rounds=rounds, stride=stride,
            )  # fmt: skip
        heads = [(la, h) for la in range(n) for h in range(model.n_heads)]
        pair = Pair(model, *random_pair(model, 16), site="z")
        yield from compared("head patching, 16 tokens", pair, peer, every=heads, sample=8, reach=7, rounds=3)
        pair = Pair(model, *minimal_pair(model, 64, 55))
        yield from compared(
            "residual patching, 64 tokens, one difference at 55", pair, peer, every=each[64], sample=8, reach=40, rounds=3,
            share=False,
        )  # fmt: skip
    pair = Pair(model, *random_pair(model, 16))
    for name in ("nnsight", "interp_engine"):
        try:
            with Peer(name) as other:
                found = compared(
                    f"residual patching, 16 tokens, beside {name}",
                    pair,
                    other,
                    every=each[16],
                    sample=8,
                    reach=1,
                    rounds=2,
                )
                yield next(found)
        except PeerError as error:
            print(f"{name}: {error}")
    if not quick:
        growth(model, Path(__file__).parent / "growth.html")


def growth(model: rs.Model, path: Path) -> None:
    """How a sweep's cost grows with tokens, layers and prompts: one page with a curve for each."""
    from residscope import views

    def seconds(clean: object, corrupted: object, **how: object) -> float:
        began = time.perf_counter()
        rs.activation_patching(model, clean, corrupted, rs.logit_diff(*ANSWERS), progress=False, **how)  # type: ignore[arg-type]
        return time.perf_counter() - began

    tokens = [8, 16, 32, 64]
    by_tokens = [seconds(*([row] for row in random_pair(model, length))) for length in tokens]
    one = [[row] for row in random_pair(model, 16)]
    layers = [5, 10, 20, 30]
    by_layers = [seconds(*one, layers=[*range(k)]) for k in layers]
    prompts = [1, 2, 4, 8]
    by_prompts = [seconds(one[0] * k, one[1] * k) for k in prompts]
    told = (
        ("tokens", tokens, by_tokens),
        ("layers patched, from 0 on", layers, by_layers),
        ("prompts of 16 tokens", prompts, by_prompts),
    )
    pictures = [
        views.Curve(x, [views.Line("every layer x position", y)], title=f"Seconds by {what}", x_title=what, y_title="s")
        for what, x, y in told
    ]
    views.save_html(pictures, path, title="How the cost of a residual patching sweep grows")
