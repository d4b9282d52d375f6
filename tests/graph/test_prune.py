"""Pruning against networkx and against sums written out."""

from itertools import pairwise

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from residscope import errors
from residscope.graph.graph import Graph, Placed
from residscope.graph.nodes import Node
from residscope.graph.prune import influence_of, prune

LEVELS, WIDTH = 4, 3


def graph_of(edges):
    """edges: (level, index, index in the next level, weight)."""
    nodes = [Node(f"d{lv}/{i}", f"d{lv}", i, None, 1.0, f"{i}") for lv in range(LEVELS) for i in range(WIDTH)]
    edges = sorted(edges, key=lambda e: -abs(e[3]))
    return Graph(
        prompt=("a", "b"), nodes=tuple(nodes),
        source=torch.tensor([lv * WIDTH + a for lv, a, _, _ in edges], dtype=torch.int64),
        target=torch.tensor([(lv + 1) * WIDTH + b for lv, _, b, _ in edges], dtype=torch.int64),
        weight=torch.tensor([float(w) for *_, w in edges]), of=torch.ones(len(edges), dtype=torch.int64),
        placed=tuple(Placed(f"d{lv}", "", f"resid_post.{lv}", f"resid_post.{lv}", WIDTH, WIDTH, 0.1) for lv in range(LEVELS)),
        tokens=(" x",), base=torch.tensor([-1.0]), logits=torch.arange(LEVELS * WIDTH).float()[:, None] % 5 - 2,
    )  # fmt: skip


INDEX = st.integers(0, WIDTH - 1)
some_edges = st.lists(
    st.tuples(
        st.integers(0, LEVELS - 2), st.integers(0, WIDTH - 1), st.integers(0, WIDTH - 1), st.sampled_from([-3.0, -1, 0.5, 2])
    ),
    min_size=1, max_size=20, unique_by=lambda e: e[:3],
)  # fmt: skip


def ids(graph):
    return {
        (graph.nodes[a].id, graph.nodes[b].id)
        for a, b in zip(graph.source.tolist(), graph.target.tolist(), strict=True)
    }


@given(some_edges, st.integers(1, 4))
def test_edges_on_long_paths(edges, least):
    graph = graph_of(edges)
    drawn = networkx.DiGraph([*ids(graph)])
    tops = [n for n in drawn if drawn.in_degree(n) == 0]
    ends = [n for n in drawn if drawn.out_degree(n) == 0]
    long = [p for a in tops for b in ends for p in networkx.all_simple_paths(drawn, a, b) if len(p) > least]
    expected = {pair for p in long for pair in pairwise(p)}
    assert ids(prune(graph, path=least)) == expected


@given(some_edges)
def test_influence_is_the_sum_of_all_powers(edges):
    graph = graph_of(edges)
    n = len(graph.nodes)
    a = torch.zeros(n, n, dtype=torch.float64)
    a[graph.source, graph.target] = graph.weight.abs().double()
    a = a / a.sum(0, keepdim=True).clamp_min(1e-30)
    direct = graph.logits.abs().mean(1).double()
    expected = sum(torch.linalg.matrix_power(a, k) @ direct for k in range(LEVELS + 1))
    torch.testing.assert_close(influence_of(graph), expected.float())


@given(some_edges, st.integers(1, 5))
def test_top_and_per_level_keep_the_strongest(edges, n):
    graph = graph_of(edges)
    assert sorted(prune(graph, top=n).weight.abs().tolist()) == sorted(graph.weight.abs().tolist())[-n:]
    kept = prune(graph, per_level=n)
    for lv in range(LEVELS - 1):
        own = sorted((abs(w) for level, _, _, w in edges if level == lv), reverse=True)[:n]
        level = [n.dictionary for n in kept.nodes]
        got = [abs(w) for a, w in zip(kept.source.tolist(), kept.weight.tolist(), strict=True) if level[a] == f"d{lv}"]
        assert sorted(got, reverse=True) == own


def test_what_cannot_be_pruned_by_is_refused():
    graph = graph_of([(0, 0, 0, 1.0)])
    for asked in ({}, {"top": 0}, {"influence": 1.5}, {"least": -1.0}, {"path": 0}):
        with pytest.raises(errors.GraphError):
            prune(graph, **asked)
    with pytest.raises(errors.GraphError, match="' x'"):
        prune(graph, influence=0.5, tokens=[" y"])
