"""The exact causal graph of a short prompt with the dictionaries that ship, beside one full forward for each active feature; and
what it takes of memory at 64, 512 and 2,048 tokens."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import residscope as rs
from bench.harness import Row, pair
from residscope.errors import Cancelled

TEXT = "When John and Mary went to the store, John gave a bottle of milk to"
LAYERS = range(8, 14)
TIMES, LENGTHS = 50, (64, 512, 2048)
PASSES = 4  # of each length, until memory is at its most


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    shipped = rs.sae.load("shipped", model)
    saes = {layer: shipped[f"sae@resid_post.{layer}"] for layer in LAYERS}
    yield speed(model, saes, quick=quick)
    yield whole(model, saes, quick=quick)
    for length in LENGTHS[:2] if quick else LENGTHS:
        yield memory(length)


def speed(model: Any, saes: dict[int, Any], *, quick: bool) -> Row:
    """Every edge from each active feature to the next layer's, at the last position."""
    drawn: list[Any] = []
    plain: list[Any] = []

    def ours() -> None:
        drawn[:] = [
            rs.causal_graph(model, TEXT, list(saes.values()), errors=False, edges=1_000_000, tokens=0, progress=False)
        ]

    def theirs() -> None:
        plain[:] = [brute(model, saes)]

    made = pair("an exact causal graph", ours, theirs, pairs=1, reach=1 / TIMES, warm=0)
    far, edges = furthest(drawn[0], plain[0])
    features = sum(len(of) for of in plain[0].values())
    note = (
        f"{len(drawn[0].prompt)} tokens of SmolLM2, six dictionaries that ship, {features:,} active features, {edges:,} edges, "
        f"against one forward of transformers' own model for each feature; the edges differ by at most {far:.1e}"
    )
    return Row(**{**vars(made), "note": note})


def whole(model: Any, saes: dict[int, Any], *, quick: bool) -> Row:
    """The same graph with errors and the effects of every node on five next tokens, beside one plain forward."""

    def ours() -> None:
        rs.causal_graph(model, TEXT, list(saes.values()), progress=False)

    def plain() -> None:
        with torch.no_grad():
            model.hf(torch.tensor([model.encode(TEXT)]))

    note = "with errors, the strongest 2,000 edges of each step, and what every node does to five next tokens; beside one forward"
    return pair("a causal graph with its next tokens", ours, plain, pairs=1 if quick else 3, note=note, warm=0)


def brute(model: Any, saes: dict[int, Any]) -> dict[int, dict[int, torch.Tensor]]:
    """Layer, feature: the change of the next layer's features at the last position, by one forward of the stock model each."""
    ids, blocks = torch.tensor([model.encode(TEXT)]), model.hf.model.layers
    seen: dict[int, torch.Tensor] = {}

    def catch(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            seen[layer] = (output[0] if isinstance(output, tuple) else output).reshape(-1, model.d_model)

        return blocks[layer].register_forward_hook(hook)

    handles = [catch(layer) for layer in saes]
    with torch.no_grad():
        model.hf(ids)
    for handle in handles:
        handle.remove()
    streams = dict(seen)
    found: dict[int, dict[int, torch.Tensor]] = {}
    for layer in [*saes][:-1]:
        one, two, x = saes[layer], saes[layer + 1], streams[layer]
        a = one.encode(x)
        base = two.encode(streams[layer + 1][-1])
        found[layer] = {}
        for index in (a[1:] != 0).any(0).nonzero()[:, 0].tolist():
            change = -a[:, index : index + 1] * one.write[index]
            change[0] = 0

            def cut(module: Any, args: Any, output: Any, change: torch.Tensor = change) -> Any:
                return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

            handles = [blocks[layer].register_forward_hook(cut), catch(layer + 1)]
            with torch.no_grad():
                model.hf(ids)
            for handle in handles:
                handle.remove()
            found[layer][index] = base - two.encode(seen[layer + 1][-1])
    return found


def furthest(graph: Any, plain: dict[int, dict[int, torch.Tensor]]) -> tuple[float, int]:
    """The largest difference of any edge, those that one of the two does not have among them; and how many there are."""
    ends = zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True)
    drawn: dict[tuple[int, int], dict[int, float]] = {}
    for a, b, weight in ends:
        source, target = graph.nodes[a], graph.nodes[b]
        drawn.setdefault((int(source.dictionary.rpartition(".")[2]), source.index), {})[target.index] = weight
    far = 0.0
    for layer, features in plain.items():
        for index, effect in features.items():
            mine = torch.zeros_like(effect)
            for target, weight in drawn.get((layer, index), {}).items():
                mine[target] = weight
            far = max(far, float((mine - effect).abs().max()))
    return far, len(graph.weight)


def memory(length: int) -> Row:
    """The most that a process holds while it builds, over the most it held for the run with its dictionaries alone."""
    told = subprocess.run(
        [sys.executable, "-c", f"from bench.graph import peak; peak({length})"], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    building, before, passes = map(float, told.stdout.split())
    note = (
        f"{length:,} tokens, two dictionaries of 2,304 features, after {passes:.0f} passes; beside the process with the run and "
        "its dictionaries"
    )
    return Row(
        f"memory of a graph of {length:,} tokens", building, before, building / before, building / before, building / before,
        2.0, 1, note, "bytes",
    )  # fmt: skip


def peak(length: int) -> None:
    """Print the most memory while building, that of the run alone, and how many steps were told."""
    from residscope.graph.setting import Setting

    model = rs.load("smollm2-135m")
    shipped = rs.sae.load("shipped", model)
    saes = [shipped[f"sae@resid_post.{layer}"] for layer in (8, 9)]
    ids = model.encode("".join(rs.corpus.text.python_docs())[:40_000])[:length]
    Setting.of(model, ids, saes)
    before, told = most(), list[int]()

    def progress(what: str, done: int, total: int) -> None:
        told.append(done)

    with suppress(Cancelled):
        rs.causal_graph(model, ids, saes, tokens=0, progress=progress, cancel=lambda: len(set(told)) > PASSES)
    print(most(), before, len(set(told)))


def most() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
