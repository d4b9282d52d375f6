"""Neuronpedia's JSON: what is written passes their schema and comes back; theirs is read whole; what is wrong is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch

from graph.drawn_graphs import graph_of
from residscope.errors import DamagedFile, GraphError
from residscope.graph.exchange.neuronpedia import cantor, layers, node_ids, read, to_neuronpedia
from residscope.graph.graph import Graph, Group

SCHEMA = json.loads((Path(__file__).parent / "neuronpedia.schema.json").read_text())


def checked(told):
    jsonschema.Draft7Validator(SCHEMA).validate(told)
    return told


def theirs():
    """A small file as circuit-tracer 0.5 writes it: an error whose id is that of a feature of layer 0."""

    def node(id, feature, layer, pos, kind, **more):
        told = {
            "node_id": id,
            "feature": feature,
            "layer": layer,
            "ctx_idx": pos,
            "feature_type": kind,
            "jsNodeId": id,
            "clerp": "",
        }
        return told | more

    feature, error = "cross layer transcoder", "mlp reconstruction error"
    return {
        "metadata": {"slug": "one", "scan": "gemma-2-2b", "prompt_tokens": ["<bos>", "The", " cat"], "prompt": "<bos>The cat",
                     "schema_version": 1, "feature_details": {"neuronpedia_source_set": "gemmascope-transcoder-16k"}},
        "qParams": {"pinnedIds": ["0_1_1"], "supernodes": [["animals", "0_1_1", "3_373_2", "5_9_2"]], "linkType": "both"},
        "nodes": [
            node("E_2_0", 0, "E", 0, "embedding"), node("E_7_1", 1, "E", 1, "embedding", clerp='Emb: " The"'),
            node("0_1_1", cantor(0, 1), "0", 1, feature, activation=2.5, clerp="articles"),
            node("0_1_1", -1, "1", 1, error), node("3_373_2", 71249, "3", 2, feature, activation=1.5),
            node("5_9_2", 9, "5", 2, "logit", clerp='Output " sat" (p=0.250)', token_prob=0.25),
            node("5_11_2", 11, "5", 2, "logit", clerp='Output " "quoted"" (p=0.125)', token_prob=0.125),
        ],
        "links": [
            {"source": "E_7_1", "target": "0_1_1", "weight": 2.0}, {"source": "0_1_1", "target": "3_373_2", "weight": -3.0},
            {"source": "3_373_2", "target": "5_9_2", "weight": 4.0},
        ],
    }  # fmt: skip


def test_what_is_written_passes_their_schema():
    for graph in (
        graph_of(),
        graph_of(positions=4),
        replace(graph_of(), tokens=(), base=torch.zeros(0), logits=torch.zeros(12, 0)),
    ):
        checked(to_neuronpedia(graph))


def test_a_file_without_what_they_require_does_not():
    """A negative control of the schema."""
    for lacking in ("metadata", "qParams", "nodes", "links"):
        with pytest.raises(jsonschema.ValidationError):
            checked({name: part for name, part in to_neuronpedia(graph_of()).items() if name != lacking})
    told = to_neuronpedia(graph_of())
    del told["nodes"][0]["clerp"]
    with pytest.raises(jsonschema.ValidationError):
        checked(told)


@pytest.mark.parametrize("positions", [None, 4])
def test_a_graph_comes_back_from_it(positions, tmp_path):
    graph = replace(graph_of(positions=positions), partial="it was cancelled")
    some = torch.where(torch.arange(len(graph.weight)) % 2 == 0, graph.weight + 1, math.nan)
    replace(graph, exact=some).save(tmp_path / "e.neuronpedia.json")
    assert Graph.load(tmp_path / "e.neuronpedia.json") == replace(graph, exact=some)
    graph.save(tmp_path / "g.neuronpedia.json")
    assert Graph.load(tmp_path / "g.neuronpedia.json") == graph


def test_every_node_edge_and_effect_is_in_the_file_once():
    graph = graph_of()
    told = to_neuronpedia(graph)
    ids = [node["node_id"] for node in told["nodes"]]
    assert len({*ids}) == len(ids) == len(graph.nodes) + len(graph.tokens)
    links = {(link["source"], link["target"]): link["weight"] for link in told["links"]}
    assert len(links) == len(told["links"])
    own = node_ids(graph)
    for a, b, w in zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True):
        assert links.pop((own[a], own[b])) == w
    assert len(links) == int((~graph.logits.isnan()).sum())


def test_errors_have_ids_that_no_feature_has():
    graph = graph_of(levels=2, width=3)
    ids = node_ids(graph)
    assert ids[1] == "0_1_2"  # as older files of theirs call the error of layer 1
    assert (ids[2], ids[5]) == ("0_-1_2", "1_-1_2")
    assert len({*ids}) == 6


def test_supernodes_and_labels_are_kept_and_changed_ones_are_read():
    graph = graph_of()
    told = to_neuronpedia(graph)
    assert told["qParams"]["supernodes"] == [["brackets", node_ids(graph)[0], node_ids(graph)[3]]]
    assert {*told["qParams"]["supernodes"][0][1:]} <= {*told["qParams"]["pinnedIds"]}
    told["qParams"]["supernodes"].append(["new", told["nodes"][4]["node_id"]])
    told["nodes"][4]["clerp"] = "named over there"
    again = read(told, "some.json")
    assert again.groups == (*graph.groups, Group("new", (graph.nodes[4].id,)))
    assert again.labels == {**graph.labels, graph.nodes[4].id: "named over there"}


def test_their_frontend_finds_what_it_takes_apart():
    """The layer and index in `feature` by Cantor's pairing, the probability in a logit's clerp, next tokens above all layers."""
    told = to_neuronpedia(graph_of())
    for node in told["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            w = (math.isqrt(8 * node["feature"] + 1) - 1) // 2
            index = node["feature"] - w * (w + 1) // 2
            assert (w - index, index) == (int(node["layer"]), int(node["node_id"].split("_")[1]))
        if node["feature_type"] == "logit":
            assert 0 < float(node["clerp"].split("(p=")[1].split(")")[0]) < 1
            assert int(node["layer"]) > max(int(n["layer"]) for n in told["nodes"] if n["feature_type"] != "logit")
    assert cantor(3, 373) == 71249  # of feature 373 of layer 3 in a published graph of theirs


def test_dictionaries_of_one_layer_are_layers_of_their_own():
    def called(**sites):
        one = graph_of().placed[0]
        return layers(
            replace(graph_of(), placed=tuple(replace(one, id=id, read_site=site) for id, site in sites.items()))
        )

    assert called(a="attn_out.4", b="mlp_out.4", c="resid_pre.5") == {"a": "0", "b": "1", "c": "2"}
    assert called(a="mlp_out.4", b="resid_pre.6", c="mlp_in.9") == {"a": "4", "b": "5", "c": "9"}
    assert called(embed="", a="resid_pre.0", b="resid_pre.6") == {"embed": "E", "a": "0", "b": "5"}
    assert called(a="final_norm", b="mlp_in.3") == {"a": "0", "b": "1"}
    assert called(**{"sae@resid_pre.6": "resid_pre.6", "b": "resid_pre.8"}) == {"sae@resid_pre.6": "6", "b": "7"}


def test_two_nodes_of_one_place_are_refused():
    graph = graph_of(positions=4)
    twice = replace(graph, nodes=(graph.nodes[0], replace(graph.nodes[0], id="another"), *graph.nodes[2:]))
    with pytest.raises(GraphError, match=r"one node for each feature and position.*save it as \.json"):
        to_neuronpedia(twice)


def test_a_file_of_theirs_is_read_whole(tmp_path):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(checked(theirs())))
    graph = Graph.load(path)
    assert graph.prompt == ("<bos>", "The", " cat")
    assert [node.id for node in graph.nodes] == [
        "embed/2@0", "embed/7@1", "transcoder@mlp_in.0/1@1", "transcoder@mlp_in.1/error@1", "transcoder@mlp_in.3/373@2",
    ]  # fmt: skip
    assert graph.tokens == (" sat", ' "quoted"')
    assert graph.base.exp().tolist() == [0.25, 0.125]
    assert graph.edge("embed/7@1", "transcoder@mlp_in.0/1@1") == 2.0
    assert graph.edge("transcoder@mlp_in.0/1@1", "transcoder@mlp_in.3/373@2") == -3.0
    assert graph.logits[4].tolist() == [4.0, 0.0]
    assert graph.labels == {"transcoder@mlp_in.0/1@1": "articles"}
    assert graph.groups == (Group("animals", ("transcoder@mlp_in.0/1@1", "transcoder@mlp_in.3/373@2")),)
    assert [placed.id for placed in graph.placed] == ["embed", *(f"transcoder@mlp_in.{layer}" for layer in (0, 1, 3))]
    assert graph.provenance["shared_ids"] == ["0_1_1"]
    assert graph.weight.tolist() == [-3.0, 2.0]
    network = graph.view().views[0]
    shown = {node.id: node for node in network.nodes}
    assert "group/animals" in shown
    plain = replace(graph, groups=()).view().views[0]
    links = {node.id: node.link for node in plain.nodes}
    assert (
        links["transcoder@mlp_in.3/373@2"] == "https://www.neuronpedia.org/gemma-2-2b/3-gemmascope-transcoder-16k/373"
    )
    graph.save(tmp_path / "again.neuronpedia.json")
    again = json.loads((tmp_path / "again.neuronpedia.json").read_text())
    checked(again)
    assert {node["node_id"] for node in again["nodes"]} == {
        "E_2_0", "E_7_1", "0_1_1", "1_-1_1", "3_373_2", "4_9_2", "4_11_2",
    }  # fmt: skip
    assert {node["feature_type"] for node in again["nodes"]} == {node["feature_type"] for node in theirs()["nodes"]}
    assert Graph.load(tmp_path / "again.neuronpedia.json") == graph


def test_influence_is_circuit_tracers():
    """Against the sum of powers of the row-normalised matrix of all nodes, tokens and logits, as their `graph.py` defines it."""
    from residscope.graph.prune import influence_of

    graph = read(theirs(), "some.json")
    n = len(graph.nodes)
    matrix = torch.zeros(n + 1, n + 1)
    matrix[graph.target, graph.source] = graph.weight.abs()
    matrix[n, :n] = graph.logits[:, 0].abs()
    shares = matrix / matrix.sum(1, keepdim=True).clamp_min(1e-10)
    power = torch.zeros(n + 1)
    power[n] = 1.0
    total = torch.zeros(n + 1)
    for _ in range(n):
        power = power @ shares
        total += power
    ours = influence_of(graph, [" sat"])
    assert torch.allclose(ours / ours.max(), total[:n] / total[:n].max())


DAMAGES = {
    "a link to a node that is not there": lambda told: told["links"][0].update(target="9_9_9"),
    "a supernode of a node that is not there": lambda told: told["qParams"]["supernodes"].append(["a", "9_9_9"]),
    "a supernode without a name": lambda told: told["qParams"]["supernodes"].append([]),
    "a link from a next token": lambda told: told["links"][0].update(source="5_9_2"),
    "a weight that is not finite": lambda told: told["links"][0].update(weight=math.inf),
    "a weight that is text": lambda told: told["links"][0].update(weight="1"),
    "two features of one id": lambda told: told["nodes"].append(told["nodes"][4]),
    "a node without a position": lambda told: told["nodes"][2].pop("ctx_idx"),
    "no metadata": lambda told: told.pop("metadata"),
    "tokens that are numbers": lambda told: told["metadata"].update(prompt_tokens=[1]),
    "nodes that are no objects": lambda told: told.update(nodes=["a"]),
    "a position beyond all": lambda told: told["nodes"][4].update(ctx_idx=10**40),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_does_not_make_a_graph_is_refused(name, tmp_path):
    told = theirs()
    DAMAGES[name](told)
    (tmp_path / "hurt.json").write_text(json.dumps(told))
    with pytest.raises(DamagedFile, match=r"hurt\.json holds no graph that is read\. Received: .+"):
        Graph.load(tmp_path / "hurt.json")


def test_errors_of_newer_files_have_ids_of_their_own():
    told = theirs()
    told["nodes"][3] |= {"node_id": "1_-1_1", "jsNodeId": "1_-1-1", "influence": 0.5, "activation": None}
    told["links"].append({"source": "1_-1_1", "target": "3_373_2", "weight": 0.5})
    graph = read(checked(told), "some.json")
    assert "shared_ids" not in graph.provenance
    assert graph.edge("transcoder@mlp_in.1/error@1", "transcoder@mlp_in.3/373@2") == 0.5
    assert math.isnan(graph.nodes[3].activation)


def test_other_kinds_of_features_are_nodes_too():
    told = theirs()
    told["nodes"] += [
        {
            "node_id": "A1_5_2",
            "feature": 5,
            "layer": "1",
            "ctx_idx": 2,
            "feature_type": "lorsa",
            "jsNodeId": "x",
            "clerp": "",
        },
        {
            "node_id": "b",
            "feature": None,
            "layer": "1",
            "ctx_idx": 2,
            "feature_type": "lorsa error",
            "jsNodeId": "y",
            "clerp": "",
        },
    ]
    graph = read(told, "some.json")
    assert [node.id for node in graph.nodes[-2:]] == ["lorsa@attn_in.1/2@2", "lorsa@attn_in.1/error@2"]
