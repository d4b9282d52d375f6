"""Exact values for a sample of estimated edges, and how well the two agree."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine.slopes import Held
from residscope.graph.estimates.linear import frozen
from residscope.graph.exact import Source, effects_of
from residscope.graph.graph import Graph
from residscope.graph.setting import Setting
from residscope.methods._lib.agreement import correlations
from residscope.progress import Cancel, Progress, Tell, stage


def sampled(
    setting: Setting,
    graph: Graph,
    n: int,
    *,
    seed: int,
    scale: float,
    held: bool,
    memory: int | None,
    progress: Progress,
    cancel: Cancel,
) -> Graph:
    """The graph with the exact values of so many of its edges, half of them the strongest, half drawn from the rest.

    held: tell as well how the estimates agree with taking out under held patterns and norms.
    """
    chosen = drawn(len(graph.weight), n, seed)
    exact = torch.full((len(graph.weight),), torch.nan)
    with stage("Measuring edges exactly", len(chosen) * (1 + held), progress, cancel) as tell:
        exact[chosen] = exact_of(setting, graph, chosen, scale=scale, memory=memory, tell=tell)
        if held:
            still = Held(frozen(setting, 0, setting.model.n_layers))
            beside = replace(setting, background=(*setting.background, still))
            alike = exact_of(
                beside, graph, chosen, scale=scale, memory=memory, tell=lambda done: tell(len(chosen) + done)
            )
    strongest = min((n + 1) // 2, len(chosen))
    told: dict[str, Any] = {"edges": len(chosen), "strongest": strongest, "seed": seed}
    told |= correlations(graph.weight[chosen], exact[chosen])
    told["random"] = correlations(graph.weight[chosen[strongest:]], exact[chosen[strongest:]])
    if held:
        told["patterns and norms held"] = correlations(graph.weight[chosen], alike)
    return replace(graph, exact=exact, provenance={**graph.provenance, "sample": told})


def drawn(edges: int, n: int, seed: int) -> Int[Tensor, " some"]:
    """The numbers of the edges to measure: they are listed strongest first."""
    strongest = min((n + 1) // 2, edges)
    rest = torch.randperm(edges - strongest, generator=torch.Generator().manual_seed(seed))[: n // 2]
    return torch.cat([torch.arange(strongest), strongest + rest.sort().values])


def exact_of(
    setting: Setting,
    graph: Graph,
    edges: Int[Tensor, " some"],
    *,
    scale: float,
    memory: int | None,
    tell: Tell,
) -> Float[Tensor, " some"]:
    """What some edges are: a_j less a_j without the source, at the position at which each is read."""
    numbers = {level.id: number for number, level in enumerate(setting.levels)}
    groups: dict[tuple[int, int], list[int]] = {}
    for i, edge in enumerate(edges.tolist()):
        number = numbers[graph.nodes[int(graph.source[edge])].dictionary]
        groups.setdefault((number, int(graph.of[edge])), []).append(i)
    found = torch.zeros(len(edges))
    watch: dict[str, Any] = {"scale": scale, "memory": memory, "progress": False, "cancel": None}
    done = 0
    for (source, at), own in groups.items():
        ends = [(graph.nodes[int(graph.source[e])], graph.nodes[int(graph.target[e])]) for e in edges[own].tolist()]
        sources = list(dict.fromkeys((a.index, a.pos) for a, _ in ends))
        targets = list(dict.fromkeys(numbers[b.dictionary] for _, b in ends))
        read = [(target, setting.levels[target]) for target in targets]
        own_level = setting.levels[source]
        for effect in effects_of(setting, own_level, [Source(*s) for s in sources], read, at=at, **watch):
            for i, (a, b) in zip(own, ends, strict=True):
                row = sources.index((a.index, a.pos))
                if row in effect.rows and numbers[b.dictionary] == effect.target:
                    found[i] = float(effect.values[effect.rows.index(row), 0, b.index])
        done += len(own)
        tell(done)
    return found
