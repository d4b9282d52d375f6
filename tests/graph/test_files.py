"""Files of graphs: the graph's own JSON both ways to the bit, in lines; what is damaged or hostile is refused by name."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import residscope as rs
from graph.drawn_graphs import graph_of
from residscope.errors import DamagedFile, FileNotThere, WrongEnding
from residscope.graph.exchange import own
from residscope.graph.graph import Graph
from residscope.graph.prune import prune
from residscope.shelf.shown import file_of

FULL = replace(
    graph_of(), exact=torch.where(torch.arange(len(graph_of().weight)) % 2 == 0, graph_of().weight * 1.1, math.nan),
    partial="it was cancelled", base=torch.tensor([-0.1, -math.inf]),
)  # fmt: skip
GRAPHS = {
    "plain": graph_of(),
    "full": FULL,
    "positions": graph_of(positions=4),
    "no tokens": replace(graph_of(), tokens=(), base=torch.zeros(0), logits=torch.zeros(12, 0)),
    "no edges": graph_of().with_edges(torch.zeros(len(graph_of().weight), dtype=torch.bool)),
    "odd texts": replace(
        graph_of(), prompt=("\ud800", "\x00\n", "日本"), labels={graph_of().nodes[0].id: "\ud83d half \u2028"}
    ),
    "pruned": prune(graph_of(), top=5, path=2),
    "in an order of its own": graph_of().with_edges(torch.arange(len(graph_of().weight)).flip(0)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_its_own_json_is_the_graph_again_to_the_bit(name, tmp_path):
    graph = GRAPHS[name]
    graph.save(tmp_path / "g.json")
    again = Graph.load(tmp_path / "g.json")
    assert again == graph
    for part in ("weight", "logits", "exact", "base"):
        a, b = (getattr(one, part).numpy() for one in (again, graph))
        assert a.dtype == b.dtype
        assert np.array_equal(np.nan_to_num(a, nan=7).view(np.int32), np.nan_to_num(b, nan=7).view(np.int32))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "g.json").read_bytes()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=8))
def test_any_float32_comes_back(values):
    graph = graph_of()
    weight = torch.tensor(sorted(values, key=lambda x: -abs(x)), dtype=torch.float32)
    n = min(len(weight), len(graph.weight))
    graph = replace(graph.with_edges(torch.arange(len(graph.weight)) < n), weight=weight[:n])
    again = own.read(json.loads(own.to_json(graph)), "some.json")
    pairs = {
        (a, b): w for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True)
    }
    assert pairs == {
        (a, b): w for a, b, w in zip(again.source.tolist(), again.target.tolist(), again.weight.tolist(), strict=True)
    }


def test_a_change_of_one_edge_is_a_change_of_one_line():
    graph = graph_of()
    weight = graph.weight.clone()
    weight[3] *= 1.001
    before, after = (own.to_json(one).splitlines() for one in (graph, replace(graph, weight=weight)))
    assert len(before) > 20
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_it_says_what_it_is_and_where_it_comes_from(tmp_path):
    graph = prune(graph_of(), top=5)
    graph.save(tmp_path / "g.json")
    told = json.loads((tmp_path / "g.json").read_text())
    assert told["residscope graph"] == 1
    assert told["made by"].startswith("residscope ")
    assert told["more"]["provenance"]["pruned"] == {"top": 5}
    assert told["dictionaries"][0]["hash"] == graph.placed[0].hash
    assert sorted(told["edges"], key=lambda e: (e["from"], e["to"], e["at"])) == told["edges"]


def test_the_other_files_load_as_before_and_load_item_opens_each(tmp_path):
    for ending in (".safetensors", "", ".json"):
        FULL.save(tmp_path / f"g{ending}")
        assert Graph.load(tmp_path / f"g{ending}") == FULL
        assert rs.load_item(tmp_path / f"g{ending}") == FULL
    assert rs.Graph is Graph


def broken(change):
    told = json.loads(own.to_json(graph_of()))
    change(told)
    return told


DAMAGES = {
    "another version": lambda told: told.update({"residscope graph": 2}),
    "an edge to a node that is not there": lambda told: told["edges"][0].update({"to": "nowhere"}),
    "two nodes of one id": lambda told: told["nodes"].append(told["nodes"][0]),
    "no nodes": lambda told: told.pop("nodes"),
    "a weight that is text": lambda told: told["edges"][0].update({"weight": "0.5"}),
    "a weight that is true": lambda told: told["edges"][0].update({"weight": True}),
    "a weight that is a list": lambda told: told["edges"][0].update({"weight": [1]}),
    "an index beyond all": lambda told: told["edges"][0].update({"at": 10**40}),
    "effects on too few tokens": lambda told: told["nodes"][0].update({"logits": []}),
    "a node without a dictionary": lambda told: told["nodes"][0].pop("dictionary"),
    "a node with a number for its id": lambda told: told["nodes"][0].update({"id": 5}),
    "labels that are a list": lambda told: told.update({"labels": ["a"]}),
    "labels that are numbers": lambda told: told.update({"labels": {"a": 1}}),
    "a group of numbers": lambda told: told["groups"].append({"name": "a", "nodes": [1]}),
    "some exact values": lambda told: told["edges"][0].update({"exact": 1.0}),
    "unknown parts": lambda told: told["more"].update({"other": 1}),
    "edges that are no objects": lambda told: told.update({"edges": [1]}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_does_not_make_a_graph_is_refused_by_the_files_name(name, tmp_path):
    (tmp_path / "hurt.json").write_text(json.dumps(broken(DAMAGES[name])))
    with pytest.raises(DamagedFile, match=r"hurt\.json holds no graph that is read\. Received: .+"):
        Graph.load(tmp_path / "hurt.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"residscope graph"', "[" * 100_000, '{"a": 1', "\x00\xff", '{"nodes": []}']
)
def test_what_is_no_json_of_a_graph_is_refused(text, tmp_path):
    (tmp_path / "hurt.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFile, match=r"hurt\.json"):
        Graph.load(tmp_path / "hurt.json")


def test_every_truncation_is_refused(tmp_path):
    whole = own.to_json(graph_of())
    for cut in range(0, len(whole) - 2, 97):
        (tmp_path / "cut.json").write_text(whole[:cut])
        with pytest.raises(DamagedFile):
            Graph.load(tmp_path / "cut.json")


def test_a_graph_on_the_shelf_is_downloaded_as_its_own_json_and_as_neuronpedias(tmp_path):
    kept = SimpleNamespace(name="brackets", item=graph_of())
    for ending in (".json", ".neuronpedia.json"):
        name, told = file_of(kept, ending)
        assert name == f"brackets{ending}"
        (tmp_path / name).write_bytes(told)
        assert Graph.load(tmp_path / name) == graph_of()
    table = rs.Result(torch.zeros(2), dims=("layer",), name="x")
    assert json.loads(file_of(SimpleNamespace(name="x", item=table), ".json")[1])["rows"] == [[0, 0.0], [1, 0.0]]
    with pytest.raises(WrongEnding):
        file_of(SimpleNamespace(name="x", item=table), ".neuronpedia.json")


def test_what_is_not_there_and_what_is_not_written(tmp_path):
    with pytest.raises(FileNotThere):
        Graph.load(tmp_path / "none.json")
    with pytest.raises(WrongEnding, match=r"graph cannot be written as \.csv.*\.json"):
        graph_of().save(tmp_path / "g.csv")
    with pytest.raises(FileNotThere, match="no such folder"):
        graph_of().save(tmp_path / "none" / "g.json")
    assert not [*tmp_path.iterdir()]
