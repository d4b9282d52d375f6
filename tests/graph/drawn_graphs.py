"""Graphs made by hand: with everything in them that a file or a picture has to keep."""

import math

import torch

from residscope.graph.graph import Graph, Group, Placed
from residscope.graph.nodes import ERROR, Node


def graph_of(levels=4, width=3, *, seed=0, positions=None, tokens=(" x", " y"), share=0.6):
    """A random graph between next levels; the last of each level is its error. positions: how many tokens nodes stand at."""
    g = torch.Generator().manual_seed(seed)
    nodes, columns = [], []
    for level in range(levels):
        for i in range(width):
            pos = None if positions is None else int(torch.randint(positions, (), generator=g))
            index = ERROR if i == width - 1 else 10 * level + i
            name = "error" if index == ERROR else f"{index}"
            id = f"sae@resid_post.{level}/{name}" + ("" if pos is None else f"@{pos}.{i}")
            value = float(torch.rand((), generator=g))
            nodes.append(
                Node(id, f"sae@resid_post.{level}", index, pos, value, "error" if index == ERROR else f"sae {index}")
            )
            columns.append(pos)
    pairs = [
        (level * width + a, (level + 1) * width + b)
        for level in range(levels - 1)
        for a in range(width)
        for b in range(width - 1)
    ]
    drawn = torch.rand(len(pairs), generator=g).tolist()
    weights = torch.randn(len(pairs), generator=g).tolist()
    edges = [(a, b, w) for (a, b), w, chance in zip(pairs, weights, drawn, strict=True) if chance < share]
    edges.sort(key=lambda edge: (-abs(edge[2]), *edge[:2]))
    source, target, weight = zip(*edges, strict=True)
    logits = torch.randn(len(nodes), len(tokens), generator=g)
    if len(nodes):
        logits[0] = math.nan
    last = (positions or 3) - 1
    return Graph(
        prompt=tuple(["Copy", "right", " (", "C", " of"][: positions or 3]), nodes=tuple(nodes),
        source=torch.tensor(source), target=torch.tensor(target), weight=torch.tensor(weight),
        of=torch.tensor([last if columns[b] is None else columns[b] for b in target]),
        placed=tuple(
            Placed(f"sae@resid_post.{lv}", f"{lv}" * 64, f"resid_post.{lv}", f"resid_post.{lv}", 99, width - 1, 0.1 * lv)
            for lv in range(levels)
        ),
        tokens=tuple(tokens), base=torch.tensor([-0.1 - i for i in range(len(tokens))]), logits=logits,
        labels={nodes[1].id: "opens a bracket\n“quoted” <b>"}, groups=(Group("brackets", (nodes[0].id, nodes[width].id)),),
        provenance={"model": "tiny", "method": "causal_graph", "positions": [1, 2], "nested": {"a": (1, None)}},
    )  # fmt: skip
