"""Estimated edges equal gradients that plain autograd takes through the stock model; attribution graphs sum to what is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES
from scipy.stats import pearsonr, spearmanr

import residscope as rs
from residscope import errors
from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.graph import causal_graph
from residscope.graph.cost import price
from residscope.graph.estimates import linear

from .test_exact import TEXT, encoders

FEW = {"errors": False, "tokens": 0, "edges": 100_000, "exact_sample": 0}


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


def tiny(name):
    return Model(FAMILIES[name].build().float(), name=name)


def transcoders(layers, *, d=32, n=16, skip=False, seed=0, **more):
    made = []
    for layer in layers:
        g = torch.Generator().manual_seed(seed + layer)
        read, write = (torch.randn(n, d, generator=g) / 4 for _ in range(2))
        parts = {"mean": torch.zeros(d), "bias": 0.1 * torch.randn(n, generator=g), "base": torch.randn(d, generator=g)}
        beside = {"skip": torch.randn(d, d, generator=g) / 20} if skip else {}
        made.append(
            EncoderDictionary(
                "t", f"mlp_in.{layer}", read, write, written=f"mlp_out.{layer}", **parts, **beside, **more
            )
        )
    return made


def weights(graph):
    ids = [node.id for node in graph.nodes]
    ends = zip(graph.source.tolist(), graph.target.tolist(), graph.of.tolist(), graph.weight.tolist(), strict=True)
    return {(ids[a], ids[b], of): w for a, b, of, w in ends}


def hooked(model, source, target, change):
    """The stock model's stream at the target's block, and its logits, with `change` added to the source's block's output."""
    seen = []

    def add(module, args, output):
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

    def see(module, args, output):
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    blocks = [model.layout.blocks[int(d.site[-1])].block for d in (source, target)]
    handles = [blocks[0].register_forward_hook(add), blocks[1].register_forward_hook(see)]
    try:
        return seen, model.hf(torch.tensor([TEXT])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(("activation", "ablate", "read"), [("topk", "all", "last"), ("jumprelu", "each", "all")])
def test_a_gradient_edge_is_plain_autograd_s(name, activation, ablate, read):
    model = tiny(name)
    one, two, three = encoders(model, ["resid_post.0", "resid_post.1", "resid_post.2"], activation=activation)
    graph = causal_graph(
        model, TEXT, {"a": one, "b": two, "c": three}, method="gradient", ablate=ablate, read=read, reach="later",
        tokens=[5, 9], errors=True, edges=100_000, exact_sample=0,
    )  # fmt: skip
    drawn, checked = weights(graph), 0
    n, last = len(TEXT), len(TEXT) - 1
    for source, target, ids in ((one, two, "ab"), (one, three, "ac"), (two, three, "bc")):
        x = model.run(TEXT, [source.site])[source.site][0]
        a, left = source.encode(x), x - source.reconstruct(x)
        change = torch.zeros_like(x).requires_grad_()
        seen, _ = hooked(model, source, target, change)
        after = target.encode(seen[0])
        for of in [last] if read == "last" else range(1, n):
            for j in after[of].nonzero()[:, 0].tolist():
                (slope,) = torch.autograd.grad(after[of, j], change, retain_graph=True)
                for i in [*a[1:].any(0).nonzero()[:, 0].tolist(), "error"]:
                    written = left if i == "error" else a[:, i : i + 1] * source.write[i]
                    each = (slope * written).sum(1)
                    for pos in [None] if ablate == "all" else range(1, n):
                        expected = float(each[1:].sum() if pos is None else each[pos])
                        at = ("", "") if pos is None else (f"@{pos}", f"@{of}")
                        got = drawn.get((f"{ids[0]}/{i}{at[0]}", f"{ids[1]}/{j}{at[1]}", of), 0.0)
                        assert got == pytest.approx(expected, abs=2e-4, rel=1e-3)
                        checked += abs(expected) > 1e-3
    assert checked > 20
    x = model.run(TEXT, [one.site])[one.site][0]
    change = torch.zeros_like(x).requires_grad_()
    _, logits = hooked(model, one, two, change)
    for k, token in enumerate((5, 9)):
        (slope,) = torch.autograd.grad(logits.log_softmax(-1)[token], change, retain_graph=True)
        for node, values in zip(graph.nodes, graph.logits, strict=True):
            if node.dictionary == "a" and not node.is_error:
                each = (slope * (one.encode(x)[:, node.index : node.index + 1] * one.write[node.index])).sum(1)
                expected = each[1:].sum() if node.pos is None else each[node.pos]
                assert float(values[k]) == pytest.approx(float(expected), abs=1e-4, rel=1e-3)
    assert graph.base.tolist() == pytest.approx(logits.log_softmax(-1)[[5, 9]].tolist(), abs=1e-4)


def test_the_mean_slope_is_the_share_of_the_way_on_which_a_feature_is_on(llama):
    """A transcoder writes, a dictionary of the same block's end reads: nothing lies between, so it is worked out by hand."""
    code = transcoders([1])[0]
    sae = encoders(llama, ["resid_post.1"], activation="relu")[0]
    graph = causal_graph(llama, TEXT, {"code": code, "sae": sae}, method="integrated", **FEW)
    record = llama.run(TEXT, ["mlp_in.1", "resid_post.1"])
    a, x = code.encode(record["mlp_in.1"])[0, -1], record["resid_post.1"][0, -1]
    drawn, last = weights(graph), len(TEXT) - 1
    for j in sae.encode(x).nonzero()[:, 0].tolist():
        p = float((x - sae.mean) @ sae.read[j] + sae.bias[j])
        moves = {i: float(a[i] * code.write[i] @ sae.read[j]) for i in a.nonzero()[:, 0].tolist()}
        whole = sum(moves.values())
        on = sum(p - (step + 0.5) / 10 * whole > 0 for step in range(10)) / 10
        got = {i: drawn.get((f"code/{i}", f"sae/{j}", last), 0.0) for i in moves}
        assert got == pytest.approx({i: on * move for i, move in moves.items()}, abs=1e-5)
        assert sum(got.values()) == pytest.approx(max(p, 0) - max(p - whole, 0), abs=abs(whole) / 20 + 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_mean_slopes_of_a_level_sum_to_what_taking_all_of_it_out_does(name):
    model = tiny(name)
    one, two = encoders(model, ["resid_post.0", "resid_post.1"], activation="relu")
    graph = causal_graph(model, TEXT, {"a": one, "b": two}, method="integrated", **{**FEW, "errors": True})
    x = model.run(TEXT, [one.site])[one.site][0]
    change = one.base - x
    change[0] = 0
    with torch.no_grad():
        base, _ = hooked(model, one, two, torch.zeros_like(x))
        seen, _ = hooked(model, one, two, change)
    effect = (two.encode(base[0]) - two.encode(seen[0]))[-1]
    for j in two.encode(base[0])[-1].nonzero()[:, 0].tolist():
        total = sum(w for (_, b, _), w in weights(graph).items() if b == f"b/{j}")
        assert total == pytest.approx(float(effect[j]), abs=0.1 * float(effect.abs().max()))


def linear_reads(model, x, patterns, sigmas, embed, mlps):
    """What the MLPs of a Llama read when the embedding and the MLPs write this, every pattern and divisor given."""
    hf, stream, reads = model.hf.model, embed, []
    for layer, block in enumerate(hf.layers):
        normed = stream / sigmas[layer][0] * block.input_layernorm.weight
        v = (normed @ block.self_attn.v_proj.weight.T).view(len(normed), 2, 8).repeat_interleave(2, 1)
        z = torch.einsum("hqk,khd->qhd", patterns[layer], v).flatten(1)
        mid = stream + z @ block.self_attn.o_proj.weight.T
        reads.append(mid / sigmas[layer][1] * block.post_attention_layernorm.weight)
        stream = mid + mlps[layer]
    return reads


@pytest.mark.parametrize("skip", [False, True])
def test_an_attribution_edge_is_the_linear_model_s_written_by_hand(skip):
    hf = FAMILIES["llama"].build().float()
    hf.config._attn_implementation = "eager"
    model = Model(hf, name="llama")
    made = transcoders([0, 1, 2], skip=skip)
    graph = causal_graph(
        model, TEXT, made, method="attribution", ablate="each", read="all", reach="later",
        tokens=0, edges=100_000, exact_sample=0,
    )  # fmt: skip
    with torch.no_grad():
        out = hf(torch.tensor([TEXT]), output_attentions=True, output_hidden_states=True)
        patterns = [p[0] for p in out.attentions]
        sites = [f"{name}.{layer}" for layer in range(3) for name in ("resid_pre", "resid_mid", "mlp_in", "mlp_out")]
        run = model.run(TEXT, [*sites, "embed"])
        eps = hf.config.rms_norm_eps

        def sigma(x):
            return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

        sigmas = [(sigma(run["resid_pre", i][0]), sigma(run["resid_mid", i][0])) for i in range(3)]
        zero = torch.zeros(len(TEXT), 32)
        drawn = weights(graph)
        seen = 0
        for node in graph.nodes:
            if node.pos is None or node.dictionary in ("mlp_out.2", "t@mlp_in.2"):
                continue
            embed, mlps = zero.clone(), [zero.clone() for _ in range(3)]
            if node.dictionary == "embed":
                embed[node.pos] = run["embed"][0, node.pos]
            else:
                level = int(node.dictionary[-1])
                code, x = made[level], run["mlp_in", level][0]
                y = run["mlp_out", level][0]
                mlps[level][node.pos] = (
                    (y - code.reconstruct(x))[node.pos]
                    if node.is_error
                    else code.encode(x)[node.pos, node.index] * code.write[node.index]
                )
            if skip:  # the linear path goes on: written again with what each transcoder then reads
                for layer in range(3):
                    mlps[layer] = (
                        mlps[layer]
                        + linear_reads(model, None, patterns, sigmas, embed, mlps)[layer] @ made[layer].skip.T
                    )
            reads = linear_reads(model, None, patterns, sigmas, embed, mlps)
            first = 0 if node.dictionary == "embed" else int(node.dictionary[-1]) + 1
            for layer in range(first, 3):
                active = made[layer].encode(run["mlp_in", layer][0])
                for of in range(1, len(TEXT)):
                    for j in active[of].nonzero()[:, 0].tolist():
                        expected = float(reads[layer][of] @ made[layer].read[j])
                        got = drawn.get((node.id, f"t@mlp_in.{layer}/{j}@{of}", of), 0.0)
                        assert got == pytest.approx(expected, abs=1e-4)
                        seen += abs(expected) > 1e-3
    assert seen > 100
    assert graph.nodes[[node.dictionary for node in graph.nodes].index("embed")].label == repr(graph.prompt[1])


@pytest.mark.parametrize(
    "name",
    ["llama", "gpt2", "gemma2", "gpt_neox", "qwen3", "mixtral", "olmo2", "bloom", "granite", "phi"],
)
def test_sources_sum_to_what_is_read_in_every_kind_of_block(name):
    model = tiny(name)
    made = [*transcoders([0, 2], skip=name == "llama"), *encoders(model, ["resid_post.1"], activation="relu")]
    graph = causal_graph(model, TEXT, made, method="attribution", reach="later", tokens=0, exact_sample=0)
    told = graph.provenance["sum"]
    assert told["features"] > 10
    assert "sum over their sources" in graph.view().views[1].note
    assert told["largest difference"] < 1e-3
    kinds = {
        (graph.nodes[int(a)].dictionary, graph.nodes[int(b)].dictionary)
        for a, b in zip(graph.source, graph.target, strict=True)
    }
    names = {placed.id for placed in graph.placed}
    assert ("embed", "t@mlp_in.0") in kinds
    assert not any(a == "embed" and b == "t@mlp_in.2" for a, b in kinds)  # the dictionary of the stream stands between
    assert {"embed", "mlp_out.1"} <= names
    assert "mlp_out.0" not in names
    assert not any(placed.features for placed in graph.placed if placed.id in ("embed", "mlp_out.1"))


@pytest.mark.parametrize("kept", ["pattern", "scale"])
def test_a_run_that_is_not_linear_is_refused(llama, monkeypatch, kept):
    """Planted: patterns alone are held, or norms alone."""
    whole = linear.frozen
    monkeypatch.setattr(linear, "frozen", lambda *args: {s: x for s, x in whole(*args).items() if kept in s.name})
    with pytest.raises(errors.NotAdditive, match="not the sum over its sources"):
        causal_graph(llama, TEXT, transcoders([0, 2]), method="attribution", reach="later", tokens=0)


@pytest.mark.parametrize("where", [{}, {"ablate": "each", "read": "all", "reach": "later"}])
def test_a_sample_is_what_the_exact_graph_has(llama, where):
    made = encoders(llama, ["resid_post.0", "resid_post.1", "resid_post.2"], activation="relu")
    told = {**where, "background": [rs.edits.scale("z.1", 0.5)], "scale": 0.25, "tokens": 0, "edges": 100_000}
    exact = weights(causal_graph(llama, TEXT, made, **told))
    graph = causal_graph(llama, TEXT, made, method="gradient", exact_sample=24, **told)
    known = (~graph.exact.isnan()).nonzero()[:, 0].tolist()
    assert len(known) == 24
    for edge in known:
        key = graph.nodes[int(graph.source[edge])].id, graph.nodes[int(graph.target[edge])].id, int(graph.of[edge])
        assert float(graph.exact[edge]) == pytest.approx(exact.get(key, 0.0), abs=1e-4)


def test_agreement_is_told_and_the_sample_drawn_by_its_seed(llama):
    made = encoders(llama, ["resid_post.0", "resid_post.1"], activation="relu")
    graph = causal_graph(llama, TEXT, made, method="gradient", tokens=0, exact_sample=20, seed=3)
    assert len(graph.exact) == len(graph.weight)
    known = (~graph.exact.isnan()).nonzero()[:, 0].tolist()
    assert len(known) == 20
    assert known[:10] == list(range(10))
    a, b = graph.weight[known].numpy(), graph.exact[known].numpy()
    told = graph.provenance["sample"]
    assert told["pearson"] == pytest.approx(pearsonr(a, b).statistic)
    assert told["spearman"] == pytest.approx(spearmanr(a, b).statistic)
    assert (told["edges"], told["strongest"], told["seed"]) == (20, 10, 3)
    again = causal_graph(llama, TEXT, made, method="gradient", tokens=0, exact_sample=20, seed=3)
    other = causal_graph(llama, TEXT, made, method="gradient", tokens=0, exact_sample=20, seed=4)
    assert torch.equal(again.exact.isnan(), graph.exact.isnan())
    assert not torch.equal(other.exact.isnan(), graph.exact.isnan())
    assert "gradient" in repr(graph)
    assert any(view.kind == "scatter" for view in graph.view().views)
    none = causal_graph(llama, TEXT, made, method="gradient", tokens=0, exact_sample=0)
    assert bool(none.exact.isnan().all())
    assert len(none.exact) == len(none.weight)
    few = graph.with_edges(torch.arange(len(graph.weight)) < 15)
    assert len(few.exact) == 15


def test_removing_under_held_patterns_and_norms_is_what_an_attribution_edge_says_where_no_mlp_is_on_the_way(llama):
    """From a dictionary of the stream to the next block's MLP there is its attention alone, which is held; features stay on."""
    (code,) = transcoders([1])
    made = [*encoders(llama, ["resid_post.0"], activation="relu"), replace(code, bias=code.bias + 20)]
    graph = causal_graph(llama, TEXT, made, method="attribution", **{**FEW, "exact_sample": 40})
    told = graph.provenance["sample"]
    assert told["patterns and norms held"]["pearson"] > 0.9999
    assert told["pearson"] < 0.9999


def test_the_same_under_edits_and_in_part_removed(llama):
    made = encoders(llama, ["resid_post.0", "resid_post.1"], activation="relu")
    edit = rs.edits.scale("z.1", 0.0)
    whole = causal_graph(llama, TEXT, made, method="gradient", background=[edit], **FEW)
    plain = causal_graph(llama, TEXT, made, method="gradient", **FEW)
    half = causal_graph(llama, TEXT, made, method="gradient", background=[edit], scale=0.5, **FEW)
    assert weights(half) == pytest.approx({key: w / 2 for key, w in weights(whole).items()}, abs=1e-6)
    assert weights(plain) != weights(whole)
    linear = causal_graph(llama, TEXT, made, method="attribution", background=[edit], reach="later", **FEW)
    assert linear.provenance["sum"]["largest difference"] < 1e-3


def test_an_estimate_is_priced_by_its_passes(llama):
    """One block forward, and for each active feature that is read two more; ten times that on a way of ten steps."""
    made = encoders(llama, ["resid_post.0", "resid_post.1"], activation="relu")
    x = llama.run(TEXT, ["resid_post.1"])["resid_post.1"][0, -1]
    blocks = 1 + 2 * int((made[1].encode(x) != 0).sum())
    for method, times in (("gradient", 1), ("integrated", 10)):
        asked = price(llama, TEXT, made, method=method, tokens=0)
        assert asked == pytest.approx(len(TEXT) * (1 + times * blocks / 3))
    assert price(llama, TEXT, made, method="attribution", tokens=0) > price(
        llama, TEXT, made, method="gradient", tokens=0
    )


def test_errors_are_told(llama, monkeypatch):
    made = encoders(llama, ["resid_post.0", "resid_post.1"])
    with pytest.raises(errors.BadArguments, match="exact, gradient, integrated, attribution"):
        causal_graph(llama, TEXT, made, method="guess")
    neurons = EncoderDictionary(
        "n", "mlp_post.0", torch.eye(48), torch.eye(48), torch.zeros(48), torch.zeros(48), torch.zeros(48)
    )
    with pytest.raises(errors.GraphError, match="stands elsewhere"):
        causal_graph(llama, TEXT, [neurons, made[1]], method="attribution")
    with pytest.raises(errors.GraphError, match="one dictionary for each place"):
        causal_graph(llama, TEXT, {"a": made[0], "b": made[0]}, method="attribution")
    stages = []
    with pytest.raises(errors.Cancelled) as stopped:
        causal_graph(
            llama, TEXT, made, method="gradient", progress=lambda what, *_: stages.append(what),
            cancel=lambda: "Measuring" in stages[-1],
        )  # fmt: skip
    assert "estimates are whole" in stopped.value.partial.partial
    monkeypatch.setattr(type(llama), "quantised", "gptq")
    with pytest.raises(errors.QuantisedModel):
        causal_graph(llama, TEXT, made, method="gradient")


def test_on_the_default_model_estimates_agree_with_what_they_estimate(smollm2):
    shipped = rs.sae.load("shipped", smollm2)
    saes = [shipped[f"sae@resid_post.{layer}"] for layer in (8, 9)]
    text = "The Eiffel Tower is in the city of"
    graph = causal_graph(smollm2, text, saes, method="gradient", tokens=2, exact_sample=30)
    assert graph.provenance["sample"]["pearson"] > 0.8
    assert np.isfinite(graph.logits[graph.source[0]].numpy()).all()
    codes = [d for id, d in shipped.items() if d.write_site != d.read_site][:2]
    graph = causal_graph(smollm2, text, codes, method="attribution", tokens=0, exact_sample=0)
    assert graph.provenance["sum"]["largest difference"] < 1e-3
