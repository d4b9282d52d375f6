"""The strongest paths of a graph: along which features most of a next token's effect runs."""

from dataclasses import dataclass

import torch

from residscope.graph.graph import Graph


@dataclass(frozen=True)
class Path:
    """Nodes from the first to the last by their ids, the next token that they end at, and the share of it."""

    ids: tuple[str, ...]
    token: str
    share: float


def strongest_paths(graph: Graph, n: int = 5) -> list[Path]:
    """The strongest path that ends at each of n next-token effects, strongest first; none where these were not measured.

        share = |d(last)| / sum |d|  times, for each edge, |w(i -> j)| / sum_i |w(i -> j)|

    d: effects on the first next token, of the nodes that no edge leaves. Of all paths to a node the one with the largest product.
    """
    if not graph.tokens or not len(graph.weight):
        return []
    size = graph.weight.abs().double()
    into = torch.zeros(len(graph.nodes), dtype=torch.float64).index_add_(0, graph.target, size)
    share = (size / into[graph.target].clamp_min(1e-30)).tolist()
    place = {placed.id: i for i, placed in enumerate(graph.placed)}
    depth = [place[node.dictionary] for node in graph.nodes]
    best, before = [1.0] * len(graph.nodes), [-1] * len(graph.nodes)
    source, target = graph.source.tolist(), graph.target.tolist()
    incoming: dict[int, list[int]] = {}
    for edge, node in enumerate(target):
        incoming.setdefault(node, []).append(edge)
    for node in sorted(incoming, key=depth.__getitem__):
        edge = max(incoming[node], key=lambda edge: (share[edge] * best[source[edge]], -edge))
        best[node], before[node] = share[edge] * best[source[edge]], source[edge]
    leaves = {*source}
    effect = graph.logits[:, 0].nan_to_num().abs().tolist()
    ends = {node: effect[node] for node in incoming if node not in leaves and effect[node]}
    total = sum(ends.values())
    found = [
        Path(tuple(graph.nodes[i].id for i in _back(node, before)), graph.tokens[0], best[node] * nats / total)
        for node, nats in ends.items()
    ]
    return sorted(found, key=lambda path: (-path.share, path.ids))[:n]


def _back(node: int, before: list[int]) -> list[int]:
    nodes = [node]
    while before[nodes[-1]] >= 0:
        nodes.append(before[nodes[-1]])
    return nodes[::-1]
