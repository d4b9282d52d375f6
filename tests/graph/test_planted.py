"""The planted transformer does what its weights were written to do, and a causal graph of it shows exactly its path."""

import math

import pytest
import torch
from transformers import AutoTokenizer

import residscope as rs
from residscope import errors
from residscope.graph import causal_graph
from residscope.graph.prune import prune
from residscope.model import planted as weights


@pytest.fixture(scope="module")
def known():
    return rs.planted()


@pytest.fixture(scope="module")
def graph(known):
    return causal_graph(known.model, known.prompt, known.dictionaries, reach="later", edges=100_000)


@pytest.mark.parametrize("country", weights.CAPITALS)
def test_it_says_the_capital_of_a_country_with_the_probability_that_is_written(known, country):
    ids = AutoTokenizer.from_pretrained(weights.folder())(f"we went to {country} and", return_tensors="pt").input_ids
    with torch.no_grad():
        p = known.model.hf(ids).logits[0, -1].softmax(-1)
    others = math.e * len(weights.FILLERS) + len(weights.ids()) - len(weights.FILLERS) - 1
    expected = math.exp(weights.LOGIT) / (math.exp(weights.LOGIT) + others)
    assert float(p[known.model.token_id(f" {weights.CAPITALS[country]}")]) == pytest.approx(expected, abs=1e-4)


def test_without_a_country_it_knows_nothing(known):
    p = known.model.run(known.texts[1]).logits[0, -1].softmax(-1)
    words = [known.model.token_id(f" {word}") for word in weights.FILLERS]
    torch.testing.assert_close(p[words], torch.full((len(words),), float(p.max())), atol=1e-5, rtol=1e-4)
    assert float(p[known.model.token_id(known.token)]) == pytest.approx(float(p.max()) / math.e, rel=1e-3)


def test_its_features_are_at_right_angles_and_it_has_as_many_as_it_is_wide():
    d = torch.stack([*weights.directions().values()])
    torch.testing.assert_close(d @ d.T, torch.eye(weights.D))


def test_active_features_are_those_that_are_planted_and_nothing_else(known):
    record = known.model.run(known.prompt, [d.site for d in known.dictionaries])
    for layer, wanted in enumerate(
        [
            {"country France", "idle 0.0", *(f"word {word}" for word in known.prompt.split())},
            {"asked France", *(f"idle 1.{k}" for k in range(6))},
            {"answer France", *(f"idle 2.{k}" for k in range(6))},
        ]
    ):
        d = known.dictionaries[layer]
        active = (d.encode(record[d.site])[0, 1:] != 0).any(0).nonzero()[:, 0].tolist()
        assert {d.names[i] for i in active} == wanted


def test_the_graph_s_edges_over_a_small_threshold_are_the_planted_path_and_no_others(known, graph):
    drawn = prune(graph, least=0.01)
    a, b, c = known.path
    assert {node.id for node in drawn.nodes} == {a, b, c}
    assert drawn.edge(a, b) == pytest.approx(1.0, abs=1e-3)
    assert drawn.edge(b, c) == pytest.approx(weights.ANSWER, abs=1e-3)
    assert drawn.edge(a, c) == pytest.approx(weights.ANSWER, abs=1e-3)
    assert len(drawn.weight) == 3
    assert graph.weight.abs().sort().values[-4] < 1e-3  # nothing is near the threshold
    assert prune(causal_graph(known.model, known.prompt, known.dictionaries), least=0.01).weight.shape == (2,)


def test_only_the_path_moves_the_answer(known, graph):
    token = graph.tokens.index(known.token)
    moved = {node.id: float(effect) for node, effect in zip(graph.nodes, graph.logits[:, token], strict=True)}
    assert all(moved.pop(id) > 3 for id in known.path)
    assert max(map(abs, moved.values())) < 1e-3
    assert {node.id for node in prune(graph, influence=0.99, tokens=[known.token]).nodes} == {*known.path}


def test_it_is_a_model_of_the_catalog_and_the_same_one_each_time(known, tmp_path, monkeypatch):
    assert rs.load("planted").provenance["hash"] == known.model.provenance["hash"]
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    assert weights.folder().parent.parent == tmp_path
    assert rs.load("planted").provenance["hash"] == known.model.provenance["hash"]
    assert rs.planted("Peru").token == " Lima"
    with pytest.raises(errors.BadArguments, match="France, Japan, Egypt, Peru"):
        rs.planted("Spain")


def test_its_words_come_back_as_they_were_typed(known):
    ids = known.model.encode(known.prompt)
    assert known.model.token_texts(ids)[1:] == [f" {word}" for word in known.prompt.split()]
    assert known.model.text(ids[1:]).strip() == known.prompt


def test_its_dictionaries_are_those_that_come_with_it(known):
    found = rs.sae.load("shipped", known.model)
    assert [*found] == [id.split("/")[0] for id in known.path]
    assert [d.hash for d in found.values()] == [d.hash for d in known.dictionaries]
    assert all(found[id.split("/")[0]].names[int(id.split("/")[1])].endswith("France") for id in known.path)
