"""The strongest paths against all paths, written out."""

from itertools import pairwise

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.drawn_graphs import graph_of
from residscope.graph.paths import strongest_paths


@given(st.integers(0, 40))
def test_each_is_the_largest_product_of_shares_of_all_paths_to_its_end(seed):
    graph = graph_of(seed=seed)
    ids = [node.id for node in graph.nodes]
    drawn = networkx.DiGraph()
    for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True):
        drawn.add_edge(ids[a], ids[b], size=abs(w))
    into = {node: sum(drawn[a][node]["size"] for a in drawn.predecessors(node)) for node in drawn}
    ends = {n: abs(float(graph.logits[graph.numbers[n], 0])) for n in drawn if not drawn.out_degree(n)}
    starts = [n for n in drawn if not drawn.in_degree(n)]
    found = strongest_paths(graph, 100)
    assert {path.ids[-1] for path in found} == {*ends}
    for path in found:
        products = []
        for start in starts:
            for one in networkx.all_simple_paths(drawn, start, path.ids[-1]):
                share = 1.0
                for a, b in pairwise(one):
                    share *= drawn[a][b]["size"] / into[b]
                products.append((share, tuple(one)))
        best = max(share for share, _ in products)
        assert path.share == pytest.approx(best * ends[path.ids[-1]] / sum(ends.values()))
        assert path.ids in {one for share, one in products if share == pytest.approx(best)}
    assert [path.share for path in found] == sorted((path.share for path in found), reverse=True)
