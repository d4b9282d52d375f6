"""Graphs as pictures: what is drawn, what is left out and said to be, groups as one, links, next tokens on top."""

from dataclasses import replace

import pytest
import torch

from graph.drawn_graphs import graph_of
from residscope.graph.graph import Group
from residscope.graph.picture import network_of, picture, strongest
from residscope.views import Network, Table


def named(network):
    return {node.id: node for node in network.nodes}


def edges_of(network):
    ids = [node.id for node in network.nodes]
    return {(ids[e.source], ids[e.target]): e.value for e in network.edges}


def test_the_picture_has_the_graph_and_its_tables():
    view = graph_of().view()
    assert [type(part) for part in view.views] == [Network, Table, Table]
    assert view.views[1].rows[0][2] == pytest.approx(float(graph_of().weight[0]))


def test_all_nodes_and_edges_of_a_small_graph_are_drawn_and_no_others():
    graph = replace(graph_of(), groups=(), tokens=(), base=torch.zeros(0), logits=torch.zeros(12, 0))
    network = network_of(graph)
    assert {*named(network)} == {node.id for node in graph.nodes}
    expected = {(graph.nodes[a].id, graph.nodes[b].id): w for a, b, w in zip(
        graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True)}  # fmt: skip
    assert edges_of(network) == expected
    assert network.note == ""


def test_next_tokens_stand_on_top_and_are_joined_by_what_the_last_nodes_add():
    graph = replace(graph_of(), groups=())
    network = network_of(graph)
    nodes, drawn = named(network), edges_of(network)
    assert nodes["next/0"].y > max(node.y for node in network.nodes if not node.id.startswith("next"))
    assert network.levels[-1] == "next token"
    sources = {graph.nodes[a].id for a in graph.source.tolist()}
    tops = {pair: w for pair, w in drawn.items() if pair[1].startswith("next")}
    assert tops
    assert not sources & {a for a, _ in tops}
    for (id, token), value in tops.items():
        nats = float(graph.logits[graph.numbers[id], int(token.removeprefix("next/"))])
        assert (value > 0) == (nats > 0)
    assert "in nats, full at" in network.note


def test_direct_effects_are_drawn_from_every_node():
    graph = graph_of()
    for about in ({"effects": "direct"}, {"by": "attribution"}):
        direct = network_of(replace(graph, groups=(), provenance=about))
        sources = {a for a, b in edges_of(direct) if b.startswith("next")}
        assert graph.nodes[int(graph.source[0])].id in sources


def test_a_group_is_one_box_with_the_sum_of_its_edges():
    graph = graph_of(levels=3, width=4, share=1.0, tokens=())
    first, second = graph.nodes[0].id, graph.nodes[1].id
    graph = replace(graph, groups=(Group("pair", (first, second, "not here")),), labels={})
    drawn = edges_of(network_of(graph))
    node = named(network_of(graph))["group/pair"]
    assert (node.group, node.label) == ("pair", "pair")
    assert first in node.text
    for target in {graph.nodes[b].id for b in graph.target.tolist()}:
        both = graph.edge(first, target) + graph.edge(second, target)
        assert drawn.get(("group/pair", target), 0.0) == pytest.approx(both)
    assert not {first, second} & {end for pair in drawn for end in pair}


def test_edges_within_a_group_are_its_own_affair():
    graph = graph_of(share=1.0)
    a, b = (graph.nodes[int(i[0])].id for i in (graph.source, graph.target))
    drawn = edges_of(network_of(replace(graph, groups=(Group("both", (a, b)),))))
    assert ("group/both", "group/both") not in drawn


def test_of_a_large_graph_the_strongest_edges_between_any_two_dictionaries_are_drawn_and_the_rest_is_said():
    graph = replace(graph_of(levels=6, width=80, seed=3, share=0.3), groups=(), labels={})
    shown = strongest(graph, nodes=100, edges=200)
    assert len(shown.nodes) <= 100
    assert len(shown.weight) <= 200
    pairs = {}
    level = {placed.id: i for i, placed in enumerate(graph.placed)}
    for a, w in zip(shown.source.tolist(), shown.weight.tolist(), strict=True):
        pairs.setdefault(level[shown.nodes[a].dictionary], []).append(abs(w))
    assert {len(found) for found in pairs.values()} == {len(pairs[0])}
    for between, found in pairs.items():
        every = [
            abs(w) for a, w in zip(graph.source.tolist(), graph.weight.tolist(), strict=True)
            if level[graph.nodes[a].dictionary] == between
        ]  # fmt: skip
        assert found == sorted(every, reverse=True)[: len(found)]
    note = picture(graph, nodes=100, edges=200).views[0].note
    assert f"{len(shown.nodes)} of 480 nodes" in note
    assert f"{len(shown.weight)} of {len(graph.weight):,} edges" in note


def test_what_people_named_or_grouped_is_drawn_however_weak():
    graph = replace(graph_of(levels=6, width=80, seed=3, share=0.3), groups=(), labels={})
    shown = {*strongest(graph, nodes=100, edges=200).numbers}
    weakest = [graph.nodes[i].id for i in graph.source.tolist() if graph.nodes[i].id not in shown][-2:]
    named = replace(graph, labels={weakest[0]: "mine"}, groups=(Group("ours", (weakest[1],)),))
    for network in (named.view().views[0], network_of(strongest(named, nodes=100, edges=200))):
        assert {"mine", "ours"} <= {node.label for node in network.nodes}


def test_exact_values_stand_beside_estimates():
    graph = graph_of()
    measured = replace(graph, exact=graph.weight + 1)
    table = measured.view().views[1]
    assert table.columns == ("from", "to", "raises by", "exactly")
    assert table.rows[0][3] == pytest.approx(table.rows[0][2] + 1)


def test_very_many_dictionaries_still_fit():
    graph = replace(graph_of(levels=120, width=4), groups=())
    assert len(strongest(graph, nodes=50, edges=60).nodes) <= 50


def test_labels_are_peoples_the_dictionarys_or_the_layer_and_index():
    graph = replace(graph_of(), groups=())
    graph = replace(graph, nodes=(replace(graph.nodes[0], label="closing bracket"), *graph.nodes[1:]))
    nodes = named(network_of(graph))
    assert nodes[graph.nodes[0].id].label == "closing bracket"
    assert nodes[graph.nodes[1].id].label == "opens a bracket\n“quoted” <b>"
    assert nodes[graph.nodes[3].id].label == "1.10"
    assert nodes[graph.nodes[2].id].label == "error"
    assert nodes[graph.nodes[2].id].error


def test_links_lead_to_the_features_page():
    graph = replace(graph_of(), groups=())
    nodes = named(network_of(graph, home="http://127.0.0.1:8765/"))
    assert nodes[graph.nodes[3].id].link == "http://127.0.0.1:8765/#feature=sae/tiny/resid_post.1/10"
    assert nodes[graph.nodes[2].id].link == ""
    hostile = replace(
        graph, provenance={"model": "a b'\"<>", "link": "javascript:{index}", "linked": ["sae@resid_post.1"]}
    )
    assert named(network_of(hostile))[graph.nodes[3].id].link == "#feature=sae/a%20b%27%22%3C%3E/resid_post.1/10"


def test_tokens_are_columns_where_nodes_have_positions():
    network = network_of(replace(graph_of(levels=4, width=9, positions=4), groups=()))
    heads = [name for name in network.columns if name]
    assert heads == ["Copy", "right", "·(", "C"]
    for node in network.nodes:
        if "@" in node.id.rpartition("/")[2]:
            pos = int(node.id.rpartition("@")[2].split(".")[0])
            starts = [i for i, name in enumerate(network.columns) if name]
            assert starts[pos] <= node.x < ([*starts, len(network.columns)][pos + 1])


@pytest.mark.parametrize("ending", [".html", ".svg", ".png", ".pdf"])
def test_it_is_saved_as_a_page_and_as_a_figure(ending, tmp_path):
    graph_of().save(tmp_path / f"g{ending}")
    assert (tmp_path / f"g{ending}").stat().st_size > 1000
    if ending == ".html":
        page = (tmp_path / "g.html").read_text()
        assert "default-src 'none'" in page
        assert "http://127.0.0.1:8765/#feature=sae/tiny/resid_post.1/11" in page
        assert '"kind":"network"' in page


def test_a_graph_without_edges_is_drawn():
    graph = graph_of()
    empty = graph.with_edges(torch.zeros(len(graph.weight), dtype=torch.bool))
    assert empty.view().views[0].nodes[-1].id == "next/1"
