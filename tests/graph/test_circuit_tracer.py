"""A graph that circuit-tracer 0.5.0 made (recipes/circuit_tracer_graph.py): its JSON and `.pt`, read, drawn, written again."""

import json
import pickle
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import torch

import residscope as rs
from residscope.errors import DamagedFile, FileNotThere
from residscope.graph.exchange.neuronpedia import to_neuronpedia
from residscope.graph.graph import Graph

PEERS = Path(__file__).parent / "peers"
JSON, PT = PEERS / "circuit_tracer-0.5.0.json", PEERS / "circuit_tracer-0.5.0.pt"
TOLD = json.loads(JSON.read_text())


@pytest.fixture(scope="module")
def graph():
    return Graph.load(JSON)


def own_id(node):
    """The id here of a node there, by its own fields."""
    number = node["node_id"].split("_")[1]
    return {
        "embedding": f"embed/{number}@{node['ctx_idx']}",
        "cross layer transcoder": f"transcoder@mlp_in.{node['layer']}/{number}@{node['ctx_idx']}",
        "mlp reconstruction error": f"transcoder@mlp_in.{node['layer']}/error@{node['ctx_idx']}",
    }[node["feature_type"]]


def test_every_node_of_the_file_is_in_the_graph_and_in_the_picture(graph):
    inner = [node for node in TOLD["nodes"] if node["feature_type"] != "logit"]
    assert sorted(node.id for node in graph.nodes) == sorted(map(own_id, inner))
    tokens = [node["clerp"].split('"')[1] for node in TOLD["nodes"] if node["feature_type"] == "logit"]
    assert [*graph.tokens] == tokens
    network = graph.view().views[0]
    assert {node.id for node in network.nodes} == {*graph.numbers} | {f"next/{i}" for i in range(len(tokens))}


def test_the_file_has_one_id_for_a_feature_and_an_error_and_its_links_are_told_apart(graph):
    twice = [id for id, n in Counter(node["node_id"] for node in TOLD["nodes"]).items() if n > 1]
    assert graph.provenance["shared_ids"] == twice != []
    assert twice[0] in graph.view().views[0].note
    whole = Graph.load(PT)
    named = {own_id(node) for node in TOLD["nodes"] if node["node_id"] in twice}
    second = [pair for pair, n in Counter((k["source"], k["target"]) for k in TOLD["links"]).items() if n > 1]
    assert second
    for _, target in second:
        if target in (node["node_id"] for node in TOLD["nodes"] if node["feature_type"] == "logit"):
            continue
        end = next(own_id(node) for node in TOLD["nodes"] if node["node_id"] == target)
        for id in named:
            assert graph.edge(id, end) == pytest.approx(whole.edge(id, end), abs=1e-6)
    assert len(graph.weight) + int((graph.logits != 0).sum()) == len(TOLD["links"])


def test_json_and_pt_of_one_graph_say_the_same(graph):
    whole = Graph.load(PT)
    assert {node.id for node in graph.nodes} <= {node.id for node in whole.nodes}
    shared = {own_id(node) for node in TOLD["nodes"] if node["node_id"] in graph.provenance["shared_ids"]}
    compared = 0
    ids = [node.id for node in graph.nodes]
    for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True):
        if ids[a] not in shared:
            assert whole.edge(ids[a], ids[b]) == pytest.approx(w, abs=1e-6)
            compared += 1
    assert compared > 40
    assert whole.tokens == graph.tokens
    assert torch.allclose(whole.base, graph.base)
    for i, node in enumerate(graph.nodes):
        known = graph.logits[i] != 0
        assert node.id in shared or torch.allclose(whole.logits[whole.numbers[node.id]][known], graph.logits[i][known])


def test_the_pt_has_every_entry_of_its_matrix():
    """Against the matrix itself, out of the file's own bytes: a torch file is a zip of a pickle and raw storages."""
    from zipfile import ZipFile

    graph = Graph.load(PT)
    with ZipFile(PT) as file:
        storages = [
            torch.frombuffer(bytearray(file.read(n)), dtype=torch.float32) for n in file.namelist() if "/data/" in n
        ]
    matrix = max(storages, key=len)
    assert int(len(matrix) ** 0.5) ** 2 == len(matrix)
    total = graph.weight.double().abs().sum() + graph.logits.double().abs().sum()
    assert float(total) == pytest.approx(float(matrix.double().abs().sum()), rel=1e-6)
    assert int((matrix != 0).sum()) == len(graph.weight) + int((graph.logits != 0).sum())


def test_what_is_written_again_has_no_shared_ids_and_passes_their_schema(graph, tmp_path):
    told = to_neuronpedia(graph)
    schema = json.loads((Path(__file__).parent / "neuronpedia.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(told)
    ids = [node["node_id"] for node in told["nodes"]]
    assert len({*ids}) == len(ids) == len(TOLD["nodes"])
    same = {
        node["node_id"] for node in TOLD["nodes"] if node["feature_type"] in ("cross layer transcoder", "embedding")
    }
    assert same <= {*ids}
    graph.save(tmp_path / "again.neuronpedia.json")
    assert Graph.load(tmp_path / "again.neuronpedia.json") == graph
    assert rs.load_item(tmp_path / "again.neuronpedia.json") == graph


@pytest.mark.parametrize("ending", [".svg", ".html"])
def test_it_draws(graph, ending, tmp_path):
    graph.save(tmp_path / f"g{ending}")
    assert "transcoder@mlp_in.1" in (tmp_path / f"g{ending}").read_text()


def test_nothing_in_a_pt_is_run(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save({"adjacency_matrix": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "old.pt"):
        with pytest.raises(DamagedFile, match=name):
            Graph.load(tmp_path / name)
    assert not ran.exists()
    with pytest.raises(FileNotThere):
        Graph.load(tmp_path / "none.pt")


@pytest.mark.parametrize("cut", [0, 10, 1000, 15_000])
def test_a_truncated_pt_is_refused(cut, tmp_path):
    (tmp_path / "cut.pt").write_bytes(PT.read_bytes()[:cut])
    with pytest.raises(DamagedFile, match=r"cut\.pt"):
        Graph.load(tmp_path / "cut.pt")


def test_a_matrix_of_another_size_is_refused(tmp_path):
    parts = {
        "adjacency_matrix": torch.zeros(5, 5), "input_tokens": torch.tensor([0, 1]), "selected_features": torch.tensor([0]),
        "active_features": torch.tensor([[0, 1, 3]]), "activation_values": torch.tensor([1.0]),
        "logit_targets": torch.tensor([4]), "logit_probabilities": torch.tensor([0.5]), "input_string": "a b",
    }  # fmt: skip
    torch.save(parts, tmp_path / "old.pt")
    with pytest.raises(DamagedFile, match=r"its matrix is \(5, 5\)"):
        Graph.load(tmp_path / "old.pt")
    torch.save(parts | {"adjacency_matrix": torch.ones(1, 1).expand(400_000, 400_000)}, tmp_path / "huge.pt")
    with pytest.raises(DamagedFile, match=r"huge\.pt .*larger than what is stored"):
        Graph.load(tmp_path / "huge.pt")
    torch.save(parts | {"adjacency_matrix": torch.ones(6, 6).tril(-1)}, tmp_path / "old.pt")
    assert len(Graph.load(tmp_path / "old.pt").nodes) == 5
