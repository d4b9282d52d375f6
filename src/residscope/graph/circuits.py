"""The connected parts of a graph: sets of nodes that lead to one another."""

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from residscope.graph.graph import Graph


def circuits(graph: Graph) -> list[tuple[str, ...]]:
    """The nodes of each connected part, by id; the part with the most |weight| first, then by its first node."""
    if not len(graph.weight):
        return []
    n = len(graph.nodes)
    joined = coo_array(
        (torch.ones(len(graph.source)).numpy(), (graph.source.numpy(), graph.target.numpy())), shape=(n, n)
    )
    count, of = connected_components(joined, directed=False)
    weight = torch.zeros(count).index_add_(0, torch.tensor(of, dtype=torch.int64)[graph.source], graph.weight.abs())
    parts: list[list[str]] = [[] for _ in range(count)]
    for node, part in zip(graph.nodes, of.tolist(), strict=True):
        parts[part].append(node.id)
    order = sorted(range(count), key=lambda part: (-float(weight[part]), parts[part][0]))
    return [tuple(parts[part]) for part in order if weight[part] > 0]
