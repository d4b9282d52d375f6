"""Which nodes of a graph might be taken as one: features that write alike, and are joined alike."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary
from residscope.errors import BadArguments
from residscope.graph.graph import Graph

MOST_NODES = 2_000
RULE = (
    "features of one dictionary whose likeness is at least {least:g} on average: half the cosine of what they write, "
    "half that of their edges' weights"
)


@dataclass(frozen=True)
class Proposal:
    """Nodes that might be taken as one; likeness: the mean over its pairs."""

    nodes: tuple[str, ...]
    likeness: float


def proposals(graph: Graph, dictionaries: Mapping[str, Dictionary], *, least: float = 0.6) -> list[Proposal]:
    """Groups of a graph's features that write alike and are joined alike, the most alike first.

        s_ij = (cos(write_i, write_j) + cos(w_i, w_j)) / 2        w_i: the weights of all edges into and out of i

    Of each dictionary the features are joined by average linkage while s is at least `least`; errors, and nodes that are in a
    group already, are left alone. dictionaries: by the names that the graph has them by; of one that is missing, nothing is said.

    Raises:
        BadArguments: `least` is not above 0 and up to 1.
    """
    if not 0 < least <= 1:
        raise BadArguments("a likeness is above 0 and up to 1", received=f"least={least}")
    taken = {id for group in graph.groups for id in group.nodes}
    found: list[Proposal] = []
    for placed in graph.placed:
        dictionary = dictionaries.get(placed.id)
        own = [
            i for i, node in enumerate(graph.nodes)
            if node.dictionary == placed.id and not node.is_error and node.id not in taken
        ][:MOST_NODES]  # fmt: skip
        if dictionary is None or len(own) < 2:
            continue
        alike = (_cosines(dictionary.write[[graph.nodes[i].index for i in own]].float()) + _joined(graph, own)) / 2
        for rows in _linked(alike, least):
            pairs = alike[rows][:, rows]
            mean = (pairs.sum() - pairs.diagonal().sum()) / (len(rows) * (len(rows) - 1))
            found.append(Proposal(tuple(graph.nodes[own[i]].id for i in rows), float(mean)))
    return sorted(found, key=lambda one: (-one.likeness, one.nodes))


def _cosines(x: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    unit = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit @ unit.T


def _joined(graph: Graph, own: list[int]) -> Float[Tensor, "n n"]:
    """Cosines of the weights of the edges that nodes have, in and out."""
    row = torch.full((len(graph.nodes),), -1, dtype=torch.int64)
    row[own] = torch.arange(len(own))
    w = torch.zeros(len(own), 2 * len(graph.nodes))
    for ends, others, first in ((graph.source, graph.target, 0), (graph.target, graph.source, len(graph.nodes))):
        mine = row[ends] >= 0
        w.index_put_((row[ends[mine]], first + others[mine]), graph.weight[mine].float(), accumulate=True)
    return _cosines(w)


def _linked(alike: Float[Tensor, "n n"], least: float) -> list[list[int]]:
    """Groups of two and more by average linkage, each in order."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    away = (1 - alike).clamp_min(0).double()
    away = ((away + away.T) / 2).fill_diagonal_(0)
    numbers = fcluster(linkage(squareform(away.numpy(), checks=False), "average"), 1 - least, "distance")
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(numbers.tolist()):
        groups.setdefault(number, []).append(i)
    return [rows for rows in groups.values() if len(rows) > 1]
