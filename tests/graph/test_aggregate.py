"""Graphs of several prompts against counts by hand, and against the graphs themselves."""

import math

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.graph import Graph, aggregate, causal_graph, causal_graphs, difference
from residscope.graph.graph import Placed
from residscope.graph.nodes import Node
from residscope.graph.pruning.prune import prune

from .test_exact import TEXT, encoders

PLACED = tuple(Placed(id, id, id, id, 9, 3, 0.1) for id in ("a", "b"))


def graph_of(edges, *, most=100, prompt="x", tokens=(), **about):
    """edges: {(index of a, index of b): weight}."""
    edges = dict(sorted(edges.items(), key=lambda e: -abs(e[1])))
    nodes = [*dict.fromkeys([("a", i) for i, _ in edges] + [("b", j) for _, j in edges])]
    number = {node: k for k, node in enumerate(nodes)}
    return Graph(
        prompt=(prompt,), nodes=tuple(Node(f"{d}/{i}", d, i, None, 1.0, str(i)) for d, i in nodes),
        source=torch.tensor([number["a", i] for i, _ in edges]), target=torch.tensor([number["b", j] for _, j in edges]),
        weight=torch.tensor([*edges.values()]), of=torch.ones(len(edges), dtype=torch.int64), placed=PLACED, tokens=tokens,
        base=torch.arange(len(tokens)) - 3.0, logits=torch.ones(len(nodes), len(tokens)),
        provenance={"ablate": "all", "read": "last", "reach": "next", "scale": 0.0, "edges": most, **about},
    )  # fmt: skip


def weights_of(graph):
    return {
        (graph.nodes[a].id, graph.nodes[b].id): w
        for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True)
    }


ONE = {(0, 0): 2.0, (0, 1): -1.0}
TWO = {(0, 0): 4.0, (1, 1): 0.5}
THREE = {(0, 0): -3.0, (0, 1): -3.0}


def test_stability_union_and_intersection_by_hand():
    found = aggregate([graph_of(edges, prompt=name) for name, edges in {"x": ONE, "y": TWO, "z": THREE}.items()])
    table = {edge: row.tolist() for edge, row in zip(found.labels, found.stability.values, strict=True)}
    assert table["a/0 > b/0"] == pytest.approx([1.0, 2 / 3, 1.0, math.sqrt((1 + 9 + 16) / 3)])
    assert table["a/0 > b/1"] == pytest.approx([2 / 3, 1.0, -4 / 3, math.sqrt((1 / 9 + 16 / 9 + 25 / 9) / 3)])
    assert table["a/1 > b/1"] == pytest.approx([1 / 3, 1.0, 1 / 6, math.sqrt((1 / 36 + 1 / 9 + 1 / 36) / 3)])
    assert weights_of(found.union()) == pytest.approx(
        {("a/0", "b/0"): 1.0, ("a/0", "b/1"): -4 / 3, ("a/1", "b/1"): 1 / 6}
    )
    assert set(weights_of(found.intersection())) == {("a/0", "b/0")}
    assert set(weights_of(found.intersection(0.5))) == {("a/0", "b/0"), ("a/0", "b/1")}


def test_an_edge_that_may_have_been_cut_is_not_known_and_not_zero():
    whole, cut = graph_of(ONE), graph_of({(0, 0): 4.0}, most=1)
    found = aggregate([whole, cut])
    at = found.labels.index("a/0 > b/1")
    assert found.weights[1, at].isnan()
    assert found.there[at] == 1.0
    assert found.mean[at] == -1.0
    pruned = prune(graph_of(ONE), top=1)
    assert aggregate([whole, pruned]).weights[1, at].isnan()
    estimates = [graph_of(edges, by="gradient") for edges in (ONE, {(0, 0): 4.0})]
    assert aggregate(estimates).weights[1, at].isnan()
    assert weights_of(difference(whole, cut)) == {("a/0", "b/0"): -2.0}
    assert difference(whole, cut).provenance["not known"] == 1


def test_a_difference_is_the_first_less_the_second():
    one, two = graph_of(ONE, tokens=(" t", " u")), graph_of(TWO, tokens=(" u",))
    found = difference(one, two)
    assert weights_of(found) == {("a/0", "b/0"): -2.0, ("a/0", "b/1"): -1.0, ("a/1", "b/1"): -0.5}
    assert found.tokens == (" u",)
    assert found.base.tolist() == [1.0]
    assert weights_of(difference(one, one)) == {}


def test_what_cannot_be_compared_is_refused():
    one = graph_of(ONE)
    with pytest.raises(errors.GraphError, match="one or more"):
        aggregate([])
    with pytest.raises(errors.GraphError, match="same way"):
        difference(one, graph_of(ONE, scale=2.0))
    other = graph_of(ONE)
    object.__setattr__(other, "placed", (PLACED[0], Placed("b", "changed", "b", "b", 9, 3, 0.1)))
    with pytest.raises(errors.GraphError, match="of different dictionaries") as refused:
        difference(one, other)
    assert refused.value.received == "b"
    with pytest.raises(errors.GraphError, match="up to 1"):
        aggregate([one, one]).intersection(1.5)


def test_many_prompts_are_their_own_graphs_taken_together(tmp_path):
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    made = encoders(model, ["resid_post.0", "resid_post.1"], activation="relu")
    prompts = [TEXT, TEXT[:4], TEXT[::-1]]
    found = causal_graphs(model, prompts, made, edges=100_000)
    assert len(found) == 3
    for row, prompt in enumerate(prompts):
        alone = weights_of(causal_graph(model, prompt, made, edges=100_000, tokens=0))
        for edge, label in enumerate(found.labels):
            weight = alone.get(tuple(label.split(" > ")), 0.0)
            assert float(found.weights[row, edge]) == pytest.approx(weight, abs=1e-5)
    found.save(tmp_path / "graphs.safetensors")
    assert type(found).load(tmp_path / "graphs.safetensors") == found


def test_prompts_that_are_done_are_kept_when_it_is_cancelled():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    made = encoders(model, ["resid_post.0", "resid_post.1"])
    told = []
    with pytest.raises(errors.Cancelled) as stopped:
        causal_graphs(
            model, [TEXT] * 4, made, progress=lambda what, done, total: told.append(done), cancel=lambda: 2 in told
        )
    assert "2 of 4 prompts" in stopped.value.partial.provenance["partial"]
