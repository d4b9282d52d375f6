"""Neurons and heads as nodes, against plain edits of them."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.graph import causal_graph, heads, neurons

from .test_exact import TEXT, encoders

WHERE = list(range(1, len(TEXT)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_heads_raise_heads_and_features(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    sae = encoders(model, ["resid_post.2"], activation="relu")[0]
    made = {"low": heads(model, 0), "high": heads(model, 1), "sae": sae}
    graph = causal_graph(model, TEXT, made, reach="later", errors=False, tokens=2, edges=10_000)
    sites = ["z.1", "resid_post.2"]
    before = model.run(TEXT, sites)
    for head in range(model.n_heads):
        after = model.run(TEXT, sites, edits=[edits.ablate("z.0", head=head, pos=WHERE)])
        for other in range(model.n_heads):
            expected = before["z.1"][0, -1, other].norm() - after["z.1"][0, -1, other].norm()
            assert graph.edge(f"low/{head}", f"high/{other}") == pytest.approx(float(expected), abs=1e-5)
        change = sae.encode(before["resid_post.2"])[0, -1] - sae.encode(after["resid_post.2"])[0, -1]
        strongest = int(change.abs().argmax())
        assert graph.edge(f"low/{head}", f"sae/{strongest}") == pytest.approx(float(change[strongest]), abs=1e-5)
        assert abs(float(change[strongest])) > 1e-4
    assert graph.nodes[graph.numbers["low/1"]].label == "head 1"


def test_neurons_raise_features_and_neurons():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    graph = causal_graph(
        model, TEXT, {"low": neurons(model, 0), "high": neurons(model, 1)}, errors=False, tokens=0, edges=100_000
    )
    before = model.run(TEXT, ["mlp_post.1"])["mlp_post.1"][0, -1]
    for neuron in (0, 7, 31):
        after = model.run(TEXT, ["mlp_post.1"], edits=[edits.ablate("mlp_post.0", neuron=neuron, pos=WHERE)])
        change = before - after["mlp_post.1"][0, -1]
        got = torch.tensor([graph.edge(f"low/{neuron}", f"high/{i}") for i in range(len(before))])
        torch.testing.assert_close(got, change, atol=1e-5, rtol=1e-4)


def test_a_layer_that_is_not_there_is_refused():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    for made in (heads, neurons):
        with pytest.raises(errors.SiteError):
            made(model, 99)
