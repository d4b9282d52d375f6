"""Names and groups of a graph, and which groups are proposed."""

import pytest
import torch

from graph.test_prune import graph_of
from residscope import errors
from residscope.directions import Dictionary
from residscope.graph.shown.named import group_of, with_group, with_group_called, with_label, without_group
from residscope.graph.shown.proposals import proposals

EDGES = [(0, 0, 0, 2.0), (0, 1, 0, 1.0), (0, 2, 2, -1.5), (1, 0, 1, 1.0)]


def test_a_name_is_given_and_taken_away():
    graph = graph_of(EDGES)
    named = with_label(graph, "d0/1", " plural ")
    assert named.labels == {"d0/1": "plural"}
    assert with_label(named, "d0/1", "") == graph
    assert graph.labels == {}, "the graph itself is as it was"
    with pytest.raises(errors.NotFound, match="no such node"):
        with_label(graph, "d0/9", "x")
    with pytest.raises(errors.BadText):
        with_label(graph, "d0/1", "x" * 200)


def test_nodes_are_in_one_group_at_most():
    graph = with_group(graph_of(EDGES), ["d0/0", "d0/1", "d0/0"], "first")
    assert group_of(graph, "first").nodes == ("d0/0", "d0/1")
    moved = with_group(graph, ["d0/1", "d0/2"], "second")
    assert [(group.name, group.nodes) for group in moved.groups] == [("first", ("d0/0",)), ("second", ("d0/1", "d0/2"))]
    gone = with_group(moved, ["d0/0", "d0/1", "d0/2"], "second")
    assert [group.name for group in gone.groups] == ["second"], "groups that are left empty go, with their names"
    with pytest.raises(errors.NameTaken):
        with_group(moved, ["d1/0", "d1/1"], "first")
    with pytest.raises(errors.NameTaken):
        with_group_called(moved, "first", "second")
    assert with_group_called(moved, "first", "third").groups[0].name == "third"
    assert [group.name for group in without_group(moved, "first").groups] == ["second"]
    with pytest.raises(errors.NotFound, match="no such group"):
        without_group(moved, "fourth")


def dictionaries(write):
    return {"d0": Dictionary("sae", "resid_post.0", write, write, torch.zeros(write.shape[1]))}


def test_features_that_write_and_are_joined_alike_are_proposed():
    """0 and 1 write nearly one vector into one target: cosines 0.98 and 1. 2 writes like neither, to another."""
    write = torch.tensor([[1.0, 0, 0], [1.0, 0.2, 0], [0, 0, 1.0]])
    (found,) = proposals(graph_of(EDGES), dictionaries(write), least=0.9)
    assert found.nodes == ("d0/0", "d0/1")
    cosine = float(torch.nn.functional.cosine_similarity(write[0], write[1], dim=0))
    assert found.likeness == pytest.approx((cosine + 1) / 2)


def test_what_is_unlike_in_either_way_is_not_proposed():
    apart = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0]])
    assert proposals(graph_of(EDGES), dictionaries(apart), least=0.6) == [], "they write against each other"
    same = torch.ones(3, 3)
    against = [(0, 0, 0, 2.0), (0, 1, 0, -1.0), (0, 2, 2, 1.0)]
    assert proposals(graph_of(against), dictionaries(same), least=0.6) == [], "they do the opposite to what follows"


def test_those_in_a_group_are_left_alone():
    write = torch.ones(3, 3)
    graph = with_group(graph_of(EDGES), ["d0/0", "d0/1"], "taken")
    assert proposals(graph, dictionaries(write), least=0.2) == []
    with pytest.raises(errors.BadArguments, match="above 0"):
        proposals(graph, dictionaries(write), least=0)
