"""Shares of an edge: they sum to what a plain forward gives, and each head's is what its own output says."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.directions import EncoderDictionary
from residscope.graph import causal_graph
from residscope.graph.build import Setting
from residscope.graph.shares import shares

from .test_exact import TEXT, encoders


def changed(model, source, index, sites):
    """What some sites have at the last position less what they have without a feature, by a hook on the stock model."""
    layer = int(source.site.split(".")[1])
    base = model.run(TEXT, [source.site, *sites])
    a = source.encode(base[source.site][0])[:, index : index + 1] * source.write[index]
    a[0] = 0
    edited = model.run(TEXT, sites, edits=[rs.edits.ablate(f"resid_post.{layer}", to=base[source.site] - a)])
    return {site: (base[site] - edited[site])[0, -1] for site in sites}, a[-1]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_they_sum_to_the_change_and_are_each_writer_s_own(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    one, two = encoders(model, ["resid_post.0", "resid_post.2"], activation="relu")
    setting = Setting.of(model, TEXT, {"one": one, "two": two})
    graph = causal_graph(model, TEXT, {"one": one, "two": two}, errors=False, tokens=0)
    found = shares(setting, graph, range(6))
    for edge in range(6):
        a, b = graph.nodes[int(graph.source[edge])], graph.nodes[int(graph.target[edge])]
        sites = ["resid_post.2", "attn_out.1", "mlp_out.1", "attn_out.2", "mlp_out.2"]
        change, straight = changed(model, one, a.index, sites)
        read = two.read[b.index]
        parts = dict(zip(found.coords["part"], found.values[edge].tolist(), strict=True))
        assert sum(parts.values()) == pytest.approx(float(read @ change["resid_post.2"]), abs=1e-4)
        assert parts["straight"] == pytest.approx(float(read @ straight), abs=1e-5)
        for layer in (1, 2):
            heads = sum(value for part, value in parts.items() if part.startswith((f"{layer}.h", f"{layer}.attn")))
            assert heads == pytest.approx(float(read @ change[f"attn_out.{layer}"]), abs=1e-4)
            assert parts[f"{layer}.mlp"] == pytest.approx(float(read @ change[f"mlp_out.{layer}"]), abs=1e-4)
        assert parts["norm"] == 0


def test_one_head_s_share_is_what_its_result_says():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    one, two = encoders(model, ["resid_post.0", "resid_post.1"], activation="relu")
    setting = Setting.of(model, TEXT, {"one": one, "two": two})
    graph = causal_graph(model, TEXT, {"one": one, "two": two}, errors=False, tokens=0)
    found = shares(setting, graph, [0])
    a, b = graph.nodes[int(graph.source[0])], graph.nodes[int(graph.target[0])]
    change, _ = changed(model, one, a.index, ["result.1"])
    for head in range(4):
        got = float(found.select(edge=found.coords["edge"][0], part=f"1.h{head}").values)
        assert got == pytest.approx(float(two.read[b.index] @ change["result.1"][head]), abs=1e-5)


def test_a_norm_before_the_read_is_a_part_of_its_own():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    one = encoders(model, ["resid_post.0"], activation="relu")[0]
    g = torch.Generator().manual_seed(1)
    parts = {"mean": torch.zeros(32), "bias": torch.zeros(16), "base": torch.zeros(32)}
    two = EncoderDictionary(
        "t",
        "mlp_in.1",
        torch.randn(16, 32, generator=g),
        torch.randn(16, 32, generator=g),
        written="mlp_out.1",
        **parts,
    )
    setting = Setting.of(model, TEXT, {"one": one, "two": two})
    graph = causal_graph(model, TEXT, {"one": one, "two": two}, errors=False, tokens=0)
    found = shares(setting, graph, [0])
    a, b = graph.nodes[int(graph.source[0])], graph.nodes[int(graph.target[0])]
    change, _ = changed(model, one, a.index, ["mlp_in.1"])
    assert float(found.values.sum()) == pytest.approx(float(two.read[b.index] @ change["mlp_in.1"]), abs=1e-4)
    assert "norm" in found.coords["part"]


def test_edges_elsewhere_are_refused():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    made = encoders(model, ["resid_post.0", "resid_post.1"])
    setting = Setting.of(model, TEXT, made)
    graph = causal_graph(model, TEXT, made, ablate="each", read="all", tokens=0)
    edge = int((graph.of < len(TEXT) - 1).nonzero()[0])
    with pytest.raises(errors.GraphError, match="last position"):
        shares(setting, graph, [edge])
