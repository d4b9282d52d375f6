"""Exact edges equal a brute-force run: the whole model, with one feature taken out by its own arithmetic."""

import warnings
from dataclasses import replace

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.directions import EncoderDictionary
from residscope.graph import causal_graph
from residscope.graph.exact import Effects, Strongest, removed, sources_of
from residscope.graph.setting import Setting

TEXT = [5, 9, 3, 17, 8, 2, 11]


def encoders(model, sites, *, n=24, seed=0, activation="topk"):
    """Random dictionaries of the stream, scaled to what the model writes."""
    made = []
    for i, site in enumerate(sites):
        g = torch.Generator().manual_seed(seed + i)
        x = model.run(TEXT, [site])[site][0, 1:]
        d = x.shape[-1]
        write = torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1) * x.norm(dim=1).mean() / 4
        read = torch.randn(n, d, generator=g) / x.norm(dim=1).mean()
        more = {"topk": {"k": 5}, "jumprelu": {"threshold": torch.full((n,), 0.1)}, "relu": {}}[activation]
        parts = {"mean": x.mean(0), "bias": 0.1 * torch.randn(n, generator=g), "base": x.mean(0)}
        made.append(EncoderDictionary("sae", site, read, write, **parts, activation=activation, **more))
    return made


def layer_of(dictionary):
    return int(dictionary.site.split(".")[1])


def plain_streams(model, dictionaries, layer=None, change=None):
    """The streams after the dictionaries' layers in a plain forward of the stock model, with a change added after one layer."""

    def cut(module, args, output):
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

    def catch(number):
        def hook(module, args, output):
            seen[number] = (output[0] if isinstance(output, tuple) else output)[0]

        return model.layout.blocks[number].block.register_forward_hook(hook)

    seen = {}
    handles = [] if layer is None else [model.layout.blocks[layer].block.register_forward_hook(cut)]
    handles += [catch(layer_of(one)) for one in dictionaries]
    try:
        with torch.no_grad():
            model.hf(torch.tensor([TEXT]))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def brute(x, source, index, pos, scale=0.0):
    """What is added to the stream where one feature is multiplied by `scale`: by its own arithmetic, the first token left out."""
    a = source.encode(x)[:, index]
    change = (scale - 1) * a[:, None] * source.write[index]
    change[[p for p in range(len(TEXT)) if p == 0 or pos not in (None, p)]] = 0
    return change


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
@pytest.mark.parametrize(("ablate", "read"), [("all", "last"), ("each", "all")])
def test_every_edge_is_a_plain_forward_s(name, activation, ablate, read):
    model = rs.load((FAMILIES[name].build().float(), None))
    one, two, three = encoders(model, ["resid_post.0", "resid_post.1", "resid_post.2"], activation=activation)
    graph = causal_graph(
        model, TEXT, [three, one, two], ablate=ablate, read=read, reach="later", edges=100_000, errors=False
    )
    by_id = {placed.id: d for placed, d in zip(graph.placed, (one, two, three), strict=True)}
    assert [placed.read_site for placed in graph.placed] == [
        str(model.sites.canonical(d.site)) for d in (one, two, three)
    ]
    drawn = {}
    for a, b, of, w in zip(
        graph.source.tolist(), graph.target.tolist(), graph.of.tolist(), graph.weight.tolist(), strict=True
    ):
        target = graph.nodes[b]
        drawn.setdefault((graph.nodes[a].id, target.dictionary), torch.zeros(len(TEXT), 24))[of, target.index] = w
    streams = plain_streams(model, by_id.values())
    features = {id: d.encode(streams[layer_of(d)]) for id, d in by_id.items()}
    at = [len(TEXT) - 1] if read == "last" else [*range(1, len(TEXT))]
    checked = 0
    for node in graph.nodes:
        source = by_id[node.dictionary]
        layer = layer_of(source)
        later = {id: d for id, d in by_id.items() if layer_of(d) > layer}
        if node.activation == 0 and node.pos is not None:
            continue
        changed = plain_streams(model, later.values(), layer, brute(streams[layer], source, node.index, node.pos))
        for id, target in later.items():
            expected = torch.zeros(len(TEXT), 24)
            expected[at] = (features[id] - target.encode(changed[layer_of(target)]))[at]
            got = drawn.get((node.id, id), torch.zeros(len(TEXT), 24))
            torch.testing.assert_close(
                got, expected, atol=1e-4, rtol=1e-6, msg=lambda m, n=node, i=id: f"{n.id} {i}: {m}"
            )
            checked += int((got.abs() > 1e-3).sum())
    assert checked > 20


def test_a_transcoder_writes_where_it_says_and_the_next_one_reads_it():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    g = torch.Generator().manual_seed(0)
    made = []
    for layer in (0, 1):
        read, write = (torch.randn(16, 32, generator=g) / 6 for _ in range(2))
        parts = {"mean": torch.zeros(32), "bias": torch.zeros(16), "base": torch.zeros(32)}
        made.append(EncoderDictionary("t", f"mlp_in.{layer}", read, write, written=f"mlp_out.{layer}", **parts))
    graph = causal_graph(model, TEXT, {"first": made[0], "second": made[1]}, edges=10_000)
    a = made[0].encode(model.run(TEXT, ["mlp_in.0"])["mlp_in.0"])[0]
    for index in range(4):
        change = -a[:, index : index + 1] * made[0].write[index]
        change[0] = 0
        edited = model.run(
            TEXT,
            ["mlp_in.1", "mlp_out.0"],
            edits=[edits.ablate("mlp_out.0", to=model.run(TEXT, ["mlp_out.0"])["mlp_out.0"] + change)],
        )
        effect = (
            made[1].encode(model.run(TEXT, ["mlp_in.1"])["mlp_in.1"])[0, -1] - made[1].encode(edited["mlp_in.1"])[0, -1]
        )
        for j in range(16):
            try:
                got = graph.edge(f"first/{index}", f"second/{j}")
            except KeyError:
                got = 0.0
            assert got == pytest.approx(float(effect[j]), abs=1e-4)
    assert graph.weight.abs().max() > 0.01


def test_the_default_model_s_edges_and_its_next_token_are_plain_forwards_with_a_feature_edit(smollm2):
    text = "When John and Mary went to the store, John gave a bottle of milk to"
    made = []
    for layer in (8, 9):
        g = torch.Generator().manual_seed(layer)
        x = smollm2.run(text, [f"resid_post.{layer}"])[f"resid_post.{layer}"][0, 1:]
        write = torch.nn.functional.normalize(torch.randn(512, 576, generator=g), dim=1)
        parts = {"mean": x.mean(0), "bias": torch.zeros(512), "base": x.mean(0)}
        made.append(EncoderDictionary("sae", f"resid_post.{layer}", write, write, **parts, activation="topk", k=16))
    graph = causal_graph(smollm2, text, made, edges=5_000, tokens=[" Mary", " John"])
    assert graph.tokens == (" Mary", " John")
    before = smollm2.run(text, ["resid_post.9"])
    n = len(before.tokens[0])
    for number in [int(i) for i in graph.source[:4]]:
        node = graph.nodes[number]
        if node.is_error:
            continue
        cut = edits.feature(made[0], node.index, 0.0, pos=list(range(1, n)))
        after = smollm2.run(text, ["resid_post.9"], edits=[cut])
        effect = made[1].encode(before["resid_post.9"][0, -1]) - made[1].encode(after["resid_post.9"][0, -1])
        drawn = graph.weight[graph.source == number]
        targets = [graph.nodes[i].index for i in graph.target[graph.source == number].tolist()]
        torch.testing.assert_close(drawn, effect[targets], atol=1e-4, rtol=1e-4)
        ids = [smollm2.token_id(t) for t in graph.tokens]
        change = (before.logits[0, -1].log_softmax(-1) - after.logits[0, -1].log_softmax(-1))[ids]
        torch.testing.assert_close(graph.logits[number], change, atol=1e-4, rtol=1e-3)


def test_what_is_written_before_it_is_read_is_read():
    """A transcoder's write into the stream is read by the dictionary of that stream, and not the other way round."""
    model = rs.load((FAMILIES["llama"].build().float(), None))
    sae = encoders(model, ["resid_post.1"], activation="relu")[0]
    g = torch.Generator().manual_seed(3)
    parts = {"mean": torch.zeros(32), "bias": torch.zeros(16), "base": torch.zeros(32)}
    read, write = (torch.randn(16, 32, generator=g) / 4 for _ in range(2))
    code = EncoderDictionary("t", "mlp_in.1", read, write, written="mlp_out.1", **parts)
    graph = causal_graph(model, TEXT, {"sae": sae, "code": code}, errors=False, tokens=0, edges=10_000)
    assert {
        (graph.nodes[int(a)].dictionary, graph.nodes[int(b)].dictionary)
        for a, b in zip(graph.source, graph.target, strict=True)
    } == {("code", "sae")}
    x = model.run(TEXT, ["resid_post.1", "mlp_in.1"])
    node = graph.nodes[int(graph.source[0])]
    target = graph.nodes[int(graph.target[0])]
    off = code.encode(x["mlp_in.1"])[0, -1, node.index] * code.write[node.index]
    expected = (
        sae.encode(x["resid_post.1"][0, -1])[target.index] - sae.encode(x["resid_post.1"][0, -1] - off)[target.index]
    )
    assert float(graph.weight[0]) == pytest.approx(float(expected), abs=1e-5)


def test_a_dictionary_of_all_heads_end_to_end_has_edges_too():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    g = torch.Generator().manual_seed(5)
    read, write = (torch.randn(12, 32, generator=g) / 4 for _ in range(2))
    parts = {"mean": torch.zeros(32), "bias": torch.zeros(12), "base": torch.zeros(32)}
    heads = EncoderDictionary("heads", "z.1", read, write, **parts)
    sae = encoders(model, ["resid_post.1"], activation="relu")[0]
    graph = causal_graph(model, TEXT, {"heads": heads, "sae": sae}, errors=False, tokens=0, edges=10_000)
    node, target = graph.nodes[int(graph.source[0])], graph.nodes[int(graph.target[0])]
    cut = edits.feature(heads, node.index, 0.0, pos=list(range(1, len(TEXT))))
    before, after = (model.run(TEXT, ["resid_post.1"], edits=stack)["resid_post.1"][0, -1] for stack in ([], [cut]))
    expected = sae.encode(before)[target.index] - sae.encode(after)[target.index]
    assert float(graph.weight[0]) == pytest.approx(float(expected), abs=1e-5)


def test_a_dictionary_before_the_first_block_has_edges_too():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    one, two = encoders(model, ["resid_pre.0", "resid_pre.1"], activation="relu")
    graph = causal_graph(model, TEXT, [one, two], tokens=0, errors=False)
    node, target = graph.nodes[int(graph.source[0])], graph.nodes[int(graph.target[0])]
    cut = edits.feature(one, node.index, 0.0, pos=list(range(1, len(TEXT))))
    before, after = (model.run(TEXT, ["resid_pre.1"], edits=stack)["resid_pre.1"][0, -1] for stack in ([], [cut]))
    expected = two.encode(before)[target.index] - two.encode(after)[target.index]
    assert float(graph.weight[0]) == pytest.approx(float(expected), abs=1e-5)
    assert abs(float(expected)) > 0.1


def test_a_dictionary_of_all_heads_is_read_at_one_position_too():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    g = torch.Generator().manual_seed(6)
    read, write = (torch.randn(12, 32, generator=g) / 4 for _ in range(2))
    parts = {"mean": torch.zeros(32), "bias": torch.zeros(12), "base": torch.zeros(32)}
    code = EncoderDictionary("code", "mlp_in.0", read, write, written="mlp_out.0", **parts)
    heads = EncoderDictionary("heads", "z.1", read, read, **parts)
    graph = causal_graph(model, TEXT, {"code": code, "heads": heads}, errors=False, tokens=0)
    cut = edits.feature(code, graph.nodes[int(graph.source[0])].index, 0.0, pos=list(range(1, len(TEXT))))
    before, after = (heads.encode(model.run(TEXT, ["z.1"], edits=e)["z.1"].flatten(2)[0, -1]) for e in ([], [cut]))
    target = graph.nodes[int(graph.target[0])].index
    assert float(graph.weight[0]) == pytest.approx(float((before - after)[target]), abs=1e-5)


def test_the_strongest_are_kept_whatever_comes_first():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(40, 2, 30, generator=g).round(decimals=1)
    whole = Strongest(50)
    whole.add(Effects(tuple(range(40)), 0, values))
    parts = Strongest(50)
    for first in range(0, 40, 7):
        parts.add(Effects(tuple(range(first, min(first + 7, 40))), 0, values[first : first + 7]))
    expected = sorted(((-abs(float(w)), r, p, f) for r, p, f in values.nonzero().tolist() for w in [values[r, p, f]]))[
        :50
    ]
    for found in (whole, parts):
        weight, key = found.sorted()
        assert [(-abs(w), *k) for w, k in zip(weight.tolist(), key.tolist(), strict=True)] == expected


def test_errors_are_told():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    one, two = encoders(model, ["resid_post.0", "resid_post.1"])
    with pytest.raises(errors.GraphError, match="of one prompt"):
        causal_graph(model, [TEXT, TEXT], [one, two])
    with pytest.raises(errors.GraphError, match="between the features of dictionaries"):
        causal_graph(model, TEXT, [])
    with pytest.raises(errors.NoFeatures):
        causal_graph(model, TEXT[:1], [one, two])
    with pytest.raises(errors.BadArguments, match="last, all"):
        causal_graph(model, TEXT, [one, two], read="first")


def test_a_cancelled_build_keeps_what_it_has_and_says_so():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    made = encoders(model, ["resid_post.0", "resid_post.1", "resid_post.2"])
    asked = []

    def cancel():
        asked.append(1)
        return len(asked) > 6

    with pytest.raises(errors.Cancelled) as stopped:
        causal_graph(model, TEXT, made, cancel=cancel)
    graph = stopped.value.partial
    assert "cancelled" in graph.partial
    assert "partial" in repr(graph)


def test_a_build_that_is_cancelled_at_the_next_token_has_its_edges_whole_and_says_that():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    made = encoders(model, ["resid_post.0", "resid_post.1"])
    whole = causal_graph(model, TEXT, made, tokens=0)
    stages = []
    with pytest.raises(errors.Cancelled) as stopped:
        causal_graph(
            model, TEXT, made, progress=lambda what, *_: stages.append(what), cancel=lambda: "next token" in stages[-1]
        )
    graph = stopped.value.partial
    assert "edges are whole" in graph.partial
    torch.testing.assert_close(graph.weight, whole.weight)


def test_a_dictionary_that_does_not_fit_and_blocks_without_one_are_said(smollm2):
    """One dictionary as it is, and one hooked where it does not belong: its features make it worse than its base alone."""
    text = "When John and Mary went to the store, John gave a bottle of milk to"
    shipped = rs.sae.load("shipped", smollm2)
    fits = [shipped["sae@resid_post.8"], shipped["sae@resid_post.11"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = causal_graph(smollm2, text, fits, tokens=0, edges=50)
    assert graph.provenance["notes"] == [
        "no dictionary stands between sae@resid_post.8 and sae@resid_post.11 (2): edges across are of all the blocks between"
    ]
    assert graph.provenance["notes"][0] in graph.view().views[0].note
    with pytest.warns(errors.PoorFit, match=r"wrong would describe this run better without"):
        graph = causal_graph(
            smollm2,
            text,
            {"right": fits[0], "wrong": replace(fits[1], site="resid_post.25", written=None)},
            tokens=0,
            edges=50,
        )
    assert "fit_check" in graph.provenance["notes"][0]


def test_a_prompt_over_the_context_is_refused():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    made = encoders(model, ["resid_post.0", "resid_post.1"])
    with pytest.raises(errors.PromptError, match=r"longer than the model's context"):
        causal_graph(model, [3] * 2000, made)


def test_thousands_of_sources_hold_no_change_of_their_own():
    """Each one's change is as large as the prompt's stream: held for all features of a long prompt, they would fill memory."""
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    setting = Setting.of(model, TEXT, encoders(model, ["resid_post.0"]))
    level = setting.levels[0]
    cells = [
        removed(level, source, keep=setting.keep, scale=0.0)
        for source in sources_of(level, setting.keep, each=True, errors=True)
    ]
    assert len(cells) > 20
    held = [part for cell in cells for part in vars(cell).values() if isinstance(part, torch.Tensor)]
    assert all(part is setting.keep for part in held)
    torch.testing.assert_close(cells[-1].change[-1], -level.error[-1])
    assert cells[-1].change[:-1].abs().max() == 0


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "site",
    [
        "embed",
        "resid_pre.0",
        "resid_mid.0",
        "attn_out.0",
        "mlp_out.0",
        "mlp_in.1",
        "resid_post.1",
        "attn_out.2",
        "resid_mid.2",
    ],
)
def test_wherever_a_feature_is_written_its_edges_are_those_of_an_edited_run(name, site):
    """By `edits.feature` through the engine's whole forward, which knows nothing of one position of one block."""
    model = rs.load((FAMILIES[name].build().float(), None))

    def encoder(site, seed):
        read = torch.randn(12, model.d_model, generator=torch.Generator().manual_seed(seed)) / 4
        zero = torch.zeros(model.d_model)
        return EncoderDictionary("sae", site, read, read, mean=zero, bias=torch.zeros(12), base=zero)

    source, target = encoder(site, 3), encoder("resid_post.2", 9)
    graph = causal_graph(model, TEXT, {"s": source, "t": target}, errors=False, tokens=0, edges=9999)
    base = target.encode(model.run(TEXT, ["resid_post.2"])["resid_post.2"][0, -1])
    seen = 0
    for index in range(12):
        cut = edits.feature(source, index, 0.0, pos=list(range(1, len(TEXT))))
        change = base - target.encode(model.run(TEXT, ["resid_post.2"], edits=[cut])["resid_post.2"][0, -1])
        there = f"s/{index}" in graph.numbers
        got = [graph.edge(f"s/{index}", f"t/{j}") if there and f"t/{j}" in graph.numbers else 0.0 for j in range(12)]
        torch.testing.assert_close(torch.tensor(got), change, atol=1e-5, rtol=1e-4)
        seen += sum(abs(weight) > 1e-4 for weight in got)
    assert seen > 10
