"""Validation: every number against a plain forward of the stock model with hooks; verdicts where the truth is known."""

import math
from dataclasses import replace

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.directions import EncoderDictionary
from residscope.graph import Graph, causal_graph, parts
from residscope.graph.graph import Placed
from residscope.graph.named import with_group
from residscope.graph.nodes import Node
from residscope.graph.prune import prune
from residscope.graph.setting import Setting
from residscope.graph.validation import claims, controls
from residscope.graph.validation.asked import check
from residscope.graph.validation.circuits import disjoint_paths
from residscope.graph.validation.cuts import cut
from residscope.graph.validation.report import Elsewhere
from residscope.graph.validation.validate import price

TEXT = [5, 9, 3, 17, 8, 2, 11]
OTHERS = [[7, 4, 21, 6, 13, 2], [1, 8, 9, 3], [12, 30, 5, 5, 2, 9, 14, 3]]
LAYERS = (0, 1, 2)


def encoders(model, *, n=24, seed=0, activation="topk"):
    """Random dictionaries of the stream after the first blocks, scaled to what the model writes."""
    made = []
    for layer in LAYERS:
        g = torch.Generator().manual_seed(seed + layer)
        x = model.run(TEXT, [f"resid_post.{layer}"])[f"resid_post.{layer}"][0, 1:].float()
        d, size = x.shape[-1], x.norm(dim=1).mean()
        write = torch.nn.functional.normalize(torch.randn(n, d, generator=g), dim=1) * size / 4
        read = torch.randn(n, d, generator=g) / size
        more = {"topk": {"k": 6}, "relu": {}}[activation]
        parts = {"mean": x.mean(0), "bias": 0.1 * torch.randn(n, generator=g), "base": x.mean(0)}
        made.append(
            EncoderDictionary("sae", f"resid_post.{layer}", read, write, **parts, activation=activation, **more)
        )
    return made


def active(d, x):
    """A dictionary's activations, by the formula of its kind."""
    p = (x - d.mean) @ d.read.T + d.bias
    if d.k is None:
        return p.clamp_min(0)
    lowest = p.sort(-1, descending=True).values[..., d.k - 1 : d.k]
    return torch.where(p >= lowest, p, 0).clamp_min(0)


def brute(model, ids, made, chosen, *, scale=0.0, keep_only=False):
    """log p of the next token in a plain forward in which features are set, block by block, at all tokens but the first.

    chosen: (level, index, pos or None).
    """

    def hook_of(level, d):
        def hook(module, args, output):
            x = output[0] if isinstance(output, tuple) else output
            a = active(d, x)
            factor = torch.zeros_like(a) if keep_only else torch.ones_like(a)
            for at, i, pos in chosen:
                if at == level:
                    where = slice(None) if pos is None else pos
                    factor[:, where, i] = 1.0 if keep_only else 0.0
            factor[:, 0] = 1
            dose = torch.where(factor == 0, scale * active(d, whole[level]), 0.0) if scale else 0.0
            x = x + ((factor - 1) * a + dose) @ d.write
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return hook

    whole = [model.run([ids], [d.site])[d.site] for d in made] if scale else []
    levels = sorted({at for at, _, _ in chosen}) if not keep_only else range(len(made))
    handles = [model.layout.blocks[LAYERS[at]].block.register_forward_hook(hook_of(at, made[at])) for at in levels]
    try:
        with torch.no_grad():
            return model.hf(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def parsed(ids):
    """Level, index and position of node ids such as sae@resid_post.1/3@5."""
    found = []
    for id in ids:
        place, _, rest = id.partition("/")
        index, _, pos = rest.partition("@")
        found.append((int(place[-1]), int(index), int(pos) if pos else None))
    return found


def kl(p, q):
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize(("name", "activation", "ablate"), [("llama", "topk", "all"), ("gpt2", "relu", "each")])
def test_every_number_is_a_plain_forward_s(name, activation, ablate):
    model = rs.load((FAMILIES[name].build().float(), None))
    made = encoders(model, activation=activation)
    graph = causal_graph(model, TEXT, made, ablate=ablate, errors=False)
    graph = prune(graph, per_level=2)
    v = graph.validate(
        model, made, controls=3, scales=(0.0, 0.5, 2.0), contexts=OTHERS, texts=[], random_texts=0, circuits=2
    )
    nodes, target = parsed(v.nodes), v.provenance["target id"]
    assert {at for at, _, _ in nodes} == {0, 1, 2}
    whole = brute(model, TEXT, made, [])
    assert v.whole.log_prob == pytest.approx(float(whole[target]), abs=1e-5)
    assert target == int(whole.argmax())
    runs = {
        "without": brute(model, TEXT, made, nodes),
        "only": brute(model, TEXT, made, nodes, keep_only=True),
        "none": brute(model, TEXT, made, [], keep_only=True),
    }
    for run, expected in runs.items():
        assert getattr(v, run).log_prob == pytest.approx(float(expected[target]), abs=1e-4), run
        assert getattr(v, run).kl == pytest.approx(kl(whole, expected), abs=1e-4), run
    assert v.lost == pytest.approx(1 - math.exp(runs["without"][target] - whole[target]), abs=1e-4)
    gap = whole[target] - runs["none"][target]
    assert v.faithfulness == pytest.approx(float((runs["only"][target] - runs["none"][target]) / gap), rel=1e-3)
    assert v.completeness == pytest.approx(float((runs["without"][target] - runs["none"][target]) / gap), rel=1e-3)
    for scale, found in zip(v.scales, v.dose.tolist(), strict=True):
        assert found == pytest.approx(float(brute(model, TEXT, made, nodes, scale=scale)[target]), abs=1e-4)
    for control in v.controls[:2]:
        for draw, ids in enumerate(control.sets):
            expected = brute(model, TEXT, made, parsed(ids))
            assert float(control.log_prob[draw]) == pytest.approx(float(expected[target]), abs=1e-4)
            assert float(control.kl[draw]) == pytest.approx(kl(whole, expected), abs=1e-4)
            if control.kept is not None:
                expected = brute(model, TEXT, made, parsed(ids), keep_only=True)
                assert float(control.kept[draw]) == pytest.approx(float(expected[target]), abs=1e-4)
    everywhere = [(at, i, None) for at, i, _ in nodes]
    for context, ids in zip(v.contexts, OTHERS, strict=True):
        before, after = brute(model, ids, made, []), brute(model, ids, made, everywhere)
        own = int(before.argmax())
        assert (context.before, context.after) == pytest.approx((float(before[own]), float(after[own])), abs=1e-4)
        assert context.kl == pytest.approx(kl(before, after), abs=1e-4)


def test_unrelated_texts_are_plain_forwards_too_and_circuits_add_up():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    made = encoders(model, activation="relu")
    setting = Setting.of(model, TEXT, made)
    graph = prune(causal_graph(model, TEXT, made, errors=False), per_level=2)
    from residscope.graph.validation import others
    from residscope.graph.validation.asked import asked

    what = asked(model, graph, made, prompt=None, nodes=None, target=None, background=())
    paths = disjoint_paths(graph, 2)
    found = _elsewhere(others, what, graph, paths)
    nodes = [(at, i, None) for at, i, _ in parsed(node.id for node in what.nodes)]
    for row, ids in enumerate(OTHERS):
        whole = brute(model, ids, made, [])
        assert float(found.kl[row]) == pytest.approx(kl(whole, brute(model, ids, made, nodes)), abs=1e-4)
        for n in range(len(paths)):
            chosen = parsed({id for path in paths[: n + 1] for id in path})
            assert float(found.by_number[n, row]) == pytest.approx(kl(whole, brute(model, ids, made, chosen)), abs=1e-4)
    assert setting.batch.ids.tolist() == [TEXT]


def _elsewhere(others, what, graph, paths):
    """`others.elsewhere` of prompts of our own, as this model has no tokenizer that would read a text."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(others, "windows", lambda *args, **more: (OTHERS, "ours"))
        return others.elsewhere(what, graph, [], paths, n=3, length=4, seed=0, memory=None, progress=False, cancel=None)


@pytest.fixture(scope="module")
def known():
    return rs.planted()


@pytest.fixture(scope="module")
def graph(known):
    return causal_graph(known.model, known.prompt, known.dictionaries)


@pytest.fixture(scope="module")
def validated(known, graph):
    return rs.validate_graph(
        known.model, prune(graph, least=0.01), known.dictionaries, contexts=list(known.contexts), texts=list(known.texts),
        random_texts=150, length=8, controls=40,
    )  # fmt: skip


def test_of_the_planted_path_every_claim_is_shown(known, validated):
    assert validated.target == known.token
    assert {claim.claim: claim.shown for claim in validated.claims} == dict.fromkeys(
        ("Necessary", "Sufficient", "Beyond controls", "Dose-dependent", "Specific", "Stable"), True
    )
    assert validated.means is True
    assert validated.whole.probability == pytest.approx(0.971, abs=1e-3)
    assert validated.without.probability == pytest.approx(1 / (10 + 29 * math.e), abs=1e-3)
    assert validated.faithfulness == pytest.approx(1, abs=1e-3)
    assert validated.completeness == pytest.approx(0, abs=1e-3)
    assert float(validated.elsewhere.kl.max()) < 1e-3
    assert all(c.lost > 0.9 and c.token == known.token for c in validated.contexts)


def test_the_nodes_that_hold_the_influence_are_the_path(known, graph):
    v = graph.validate(known.model, known.dictionaries, influence=0.99, target=known.token, random_texts=0, controls=1)
    assert {*v.nodes} == {*known.path}
    assert v.claims[0].numbers["p"] == 0.5  # of one draw: no test, whatever it does
    assert v.claims[0].shown is False


def test_its_controls_do_nothing_and_are_called_so(known, graph, validated):
    for control in validated.controls:
        assert len(control.log_prob) == 40
        drop, own = validated.whole.log_prob - control.log_prob, validated.whole.log_prob - validated.without.log_prob
        assert float(drop.median()) < 0.1
        assert float(drop.max()) < (own - 1 if control.name == "directions" else 0.01)
        if control.kept is not None:
            assert float((control.kept - validated.none.log_prob).abs().max()) < 0.01
    ids = validated.control("active").sets[0]
    assert not {*ids} & {*known.path}
    own = rs.validate_graph(
        known.model, graph, known.dictionaries, nodes=list(ids), contexts=list(known.contexts), texts=list(known.texts),
        random_texts=100, length=8, controls=20,
    )  # fmt: skip
    assert own.means is False
    assert {claim.claim for claim in own.claims if claim.shown} == set()
    assert abs(own.lost) < 0.01


def test_half_of_the_path_is_necessary_and_not_sufficient(known, graph):
    v = graph.validate(known.model, known.dictionaries, nodes=known.path[1:2], random_texts=0)
    shown = {claim.claim: claim.shown for claim in v.claims}
    assert shown["Necessary"]
    assert v.faithfulness == pytest.approx(1, abs=1e-3)  # of its own dictionary alone it is all that matters
    worse = graph.validate(known.model, known.dictionaries, nodes=[known.path[0], _idle(graph)], random_texts=0)
    assert {claim.claim: claim.shown for claim in worse.claims}["Sufficient"] is False


def _idle(graph):
    return next(n.id for n in graph.nodes if n.dictionary.endswith("post.2") and n.label and n.index > 3)


def test_on_a_random_model_there_is_nothing():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    shown = []
    for seed in range(2):
        made = encoders(model, seed=100 * seed)
        graph = prune(causal_graph(model, TEXT, made, errors=False), per_level=2)
        v = rs.validate_graph(model, graph, made, random_texts=0, controls=20)
        few = replace(
            v, elsewhere=Elsewhere("none of it", torch.zeros(100), torch.zeros(100).long(), torch.zeros(0, 100))
        )
        assert few.means is not True
        shown += [claim.claim for claim in few.claims if claim.shown]
    assert "Necessary" not in shown
    assert "Sufficient" not in shown
    assert len(shown) <= 2  # of fifteen: one in twenty goes beyond twenty draws by chance


def test_what_does_not_lower_it_beyond_controls_has_no_further_claims(validated):
    nothing = replace(validated, without=replace(validated.whole, log_prob=validated.whole.log_prob + 1e-9))
    for claim in (claims.dose_dependent(nothing), claims.specific(nothing)):
        assert claim.shown is False
        assert "no effect" in claim.sentence
    everywhere = replace(validated.elsewhere, kl=torch.full((150,), validated.without.kl))
    assert claims.specific(replace(validated, elsewhere=everywhere)).shown is False
    few = replace(validated.elsewhere, kl=torch.zeros(9), active=torch.zeros(9).long(), by_number=torch.zeros(1, 9))
    assert claims.specific(replace(validated, elsewhere=few)).shown is None
    assert claims.dose_dependent(replace(validated, dose=validated.dose.flip(0))).shown is False
    flat = replace(validated, none=validated.whole)
    assert claims.sufficient(flat).shown is False
    weak = replace(validated.controls[0], matched=0.1)
    assert "no test" in claims.beyond_controls(replace(validated, controls=(weak,))).sentence
    assert claims.necessary(replace(validated, controls=())).shown is None


def test_controls_are_matched_as_they_say(known):
    setting = Setting.of(known.model, known.prompt, known.dictionaries)
    chosen = {f"planted@resid_post.{i}": [(int(id.split("/")[1]), None)] for i, id in enumerate(known.path)}
    drawn = controls.active(setting.levels, chosen, setting.keep, n=30, seed=1)
    assert 0.5 < drawn.matched < 2
    assert drawn.sets == controls.active(setting.levels, chosen, setting.keep, n=30, seed=1).sets
    for found in drawn.sets:
        for level in setting.levels:
            ((i, pos),) = found[level.id]
            assert pos is None
            assert i in level.active(setting.keep)
            assert (i, pos) not in chosen[level.id]
    by_number = controls.index(setting.levels, chosen, n=30, seed=1)
    assert all({id: len(of) for id, of in found.items()} == dict.fromkeys(chosen, 1) for found in by_number.sets)
    assert len({found["planted@resid_post.0"][0][0] for found in by_number.sets}) > 10  # inactive ones too
    cuts = cut(known.model, setting.levels, chosen, setting.keep[None])
    sizes = controls.sizes_of(setting, setting.levels, cuts)
    first = setting.levels[0].written(chosen["planted@resid_post.0"][0][0])
    torch.testing.assert_close(
        sizes["planted@resid_post.0"][setting.keep, 0], first[setting.keep].norm(dim=1), atol=1e-4, rtol=0
    )
    assert (
        float(sizes["planted@resid_post.1"].max()) < 1e-3
    )  # without the first of the path nothing is left to take out
    for edits in controls.directions(setting.levels, sizes, n=3, seed=1):
        for edit, level in zip(edits, setting.levels, strict=True):
            torch.testing.assert_close(edit.change.norm(dim=1), sizes[level.id][:, 0])
    every = {
        id: [(i, None) for i in level.active(setting.keep)] for id, level in zip(chosen, setting.levels, strict=True)
    }
    assert "other active features" in controls.active(setting.levels, every, setting.keep, n=2, seed=0).missing


def test_the_disjoint_paths_share_no_node():
    def graph(*edges):
        g = causal_graph_of([f"d@resid_post.{i}/{j}" for i in range(3) for j in range(3)])
        a, b, w = zip(*edges, strict=True)
        return replace(
            g, source=torch.tensor(a), target=torch.tensor(b), weight=torch.tensor(w), of=torch.zeros(len(a)).long()
        )

    paths = disjoint_paths(graph((0, 3, 5.0), (3, 6, 4.0), (1, 3, 3.0), (1, 4, -2.0), (4, 7, 1.0)), 5)
    assert [[int(id.split("/")[1]) + 3 * int(id[13]) for id in path] for path in paths] == [[0, 3, 6], [1, 4, 7]]
    assert disjoint_paths(graph((0, 3, 5.0), (3, 6, 4.0), (1, 4, 1.0)), 1)[0][-1].endswith("2/0")
    none = replace(
        graph((0, 3, 1.0)),
        source=torch.zeros(0).long(),
        target=torch.zeros(0).long(),
        weight=torch.zeros(0),
        of=torch.zeros(0).long(),
    )
    assert disjoint_paths(none, 2) == [("d@resid_post.0/0",), ("d@resid_post.0/1",)]


def causal_graph_of(ids):
    nodes = tuple(Node(id, id.split("/")[0], int(id.split("/")[1]), None, 1.0, id) for id in ids)
    placed = tuple(Placed(f"d@resid_post.{i}", "", "", "", 9, 9, 0.0) for i in range(3))
    empty, none = torch.zeros(0), torch.zeros(0).long()
    return Graph(("a",), nodes, none, none, empty, none, placed, (), empty, torch.zeros(len(nodes), 0))


def test_it_is_kept_in_a_file_and_shows_itself(validated, tmp_path):
    validated.save(tmp_path / "v.safetensors")
    again = rs.load_item(tmp_path / "v.safetensors")
    assert again == validated
    assert [claim.sentence for claim in again.claims] == [claim.sentence for claim in validated.claims]
    shown = validated.view()
    assert [row[1] for row in shown.views[0].rows] == ["shown"] * 6
    assert {row[0]: row[3] for row in shown.views[0].rows} == pytest.approx(
        {
            "Necessary": validated.lost, "Sufficient": validated.faithfulness, "Beyond controls": 1 / 41, "Dose-dependent": 1.0,
            "Specific": 0.0, "Stable": 1.0,
        }
    )  # fmt: skip
    assert all(row[4] <= row[5] for row in shown.views[0].rows if row[0] != "Dose-dependent")
    assert {type(view).__name__ for view in shown.views} == {"Table", "Card", "Curve", "Histogram"}
    table = validated.to_dataframe()
    assert table.share.tolist()[0] == 1
    assert table.share.tolist()[1] == pytest.approx(1 - validated.lost)
    assert "6 of 6 claims shown" in repr(validated)


def test_what_is_cancelled_keeps_what_it_has(known, graph):
    def stopped_at(words):
        stages = []
        with pytest.raises(errors.Cancelled) as stopped:
            graph.validate(
                known.model, known.dictionaries, nodes=known.path, contexts=[known.contexts[0]], texts=list(known.texts),
                random_texts=20, length=8, controls=20, progress=lambda what, *_: stages.append(what),
                cancel=lambda: words in stages[-1],
            )  # fmt: skip
        return stopped.value.partial

    assert stopped_at("controls out") is None
    late = stopped_at("unrelated")
    assert late.elsewhere is None
    assert len(late.contexts) == 1
    assert late.claims[0].shown is True
    assert "still to come" in late.claims[4].sentence


def test_memory_is_kept_to_and_changes_nothing(known, graph, validated):
    v = rs.validate_graph(
        known.model, prune(graph, least=0.01), known.dictionaries, texts=list(known.texts), random_texts=150, length=8,
        controls=40, memory=1 << 20,
    )  # fmt: skip
    assert v.without.log_prob == pytest.approx(validated.without.log_prob, abs=1e-4)
    torch.testing.assert_close(v.elsewhere.kl, validated.elsewhere.kl, atol=1e-5, rtol=1e-4)


def test_its_price_grows_with_what_is_asked(known, graph):
    def tokens(**asked):
        return price(known.model, graph, known.dictionaries, **asked)

    assert tokens(random_texts=0, controls=1, scales=()) == len(graph.prompt) * (3 + 4)
    assert tokens(random_texts=100, length=8, circuits=3) - tokens(random_texts=0, length=8, circuits=3) == 100 * 8 * 5
    assert tokens(controls=40) > tokens(controls=20)
    assert tokens(contexts=["one", "two"]) > tokens(contexts="one") > tokens()


def test_errors_are_told(known, graph):
    model, made = known.model, known.dictionaries
    other = rs.load((FAMILIES["llama"].build().float(), None))
    with pytest.raises(errors.WrongModel, match="another model"):
        rs.validate_graph(other, graph, encoders(other))
    with pytest.raises(errors.GraphError, match=r"not given.*planted@resid_post.2"):
        rs.validate_graph(model, graph, made[:2])
    with pytest.raises(errors.GraphError, match=r"no such nodes.*nope"):
        rs.validate_graph(model, graph, made, nodes=["nope"])
    with pytest.raises(errors.GraphError, match="errors and embeddings"):
        rs.validate_graph(model, graph, made, nodes=[next(n.id for n in graph.nodes if n.is_error)])
    with pytest.raises(errors.GraphError, match="no nodes"):
        rs.validate_graph(model, graph, made, nodes=[])
    with pytest.raises(errors.GraphError, match="another prompt"):
        rs.validate_graph(model, graph, made, prompt="the river is")
    with pytest.raises(errors.GraphError, match="only a causal graph"):
        check(model, made[0], made)
    with pytest.raises(errors.UnknownToken):
        rs.validate_graph(model, graph, made, target=" Berlin")
    with pytest.raises(errors.EmptyCorpus):
        rs.validate_graph(model, graph, made, nodes=known.path, texts=[], controls=2)
    with pytest.raises(errors.CorpusError, match="no such text"):
        rs.validate_graph(model, graph, made, texts="nowhere.txt")
    with pytest.raises(errors.GraphError, match="no such nodes"):
        rs.validate_graph(model, graph, made, circuits=[["nope"]])


def test_a_graph_that_does_not_say_its_ids_is_read_from_its_text(known, graph):
    about = {name: value for name, value in graph.provenance.items() if name != "ids"}
    v = replace(graph, provenance=about).validate(
        known.model, known.dictionaries, nodes=known.path, random_texts=0, controls=2
    )
    assert v.prompt == graph.prompt
    odd = replace(graph, provenance=about, prompt=("⟨e2⟩", *graph.prompt[1:]))
    with pytest.raises(errors.GraphError, match="does not say the ids"):
        odd.validate(known.model, known.dictionaries, nodes=known.path)


def test_transcoders_and_components_are_taken_out_where_they_write():
    """Beside runs with the public edit of features, one dictionary after the other."""
    model = rs.load((FAMILIES["llama"].build().float(), None))
    g = torch.Generator().manual_seed(0)
    read, write = (torch.randn(16, 32, generator=g) / 6 for _ in range(2))
    parts = {"mean": torch.zeros(32), "bias": torch.zeros(16), "base": torch.zeros(32)}
    code = EncoderDictionary("t", "mlp_in.0", read, write, written="mlp_out.0", **parts)
    heads = EncoderDictionary("heads", "z.1", read, read, **parts)
    axes = rs.Dictionary("pca", "resid_post.2", torch.eye(32)[:5], torch.eye(32)[:5], mean=torch.zeros(32))
    made = {"code": code, "heads": heads, "axes": axes}
    graph = causal_graph(model, TEXT, made, errors=False, edges=40)
    nodes = [node.id for node in graph.nodes if node.index < 2]
    v = graph.validate(model, made, nodes=nodes, random_texts=0, controls=2)
    chosen = {name: [int(id.split("/")[1]) for id in nodes if id.startswith(name)] for name in made}
    assert all(chosen.values())
    places = {"pos": list(range(1, len(TEXT)))}

    def log_prob(features):
        stack = [rs.edits.feature(made[name], index, 0.0, **places) for name, index in features.items()]
        return float(model.run(TEXT, edits=stack).logits[0, -1].double().log_softmax(-1)[v.provenance["target id"]])

    assert v.without.log_prob == pytest.approx(log_prob(chosen), abs=1e-5)
    assert v.none.log_prob == pytest.approx(log_prob({name: range(len(d)) for name, d in made.items()}), abs=1e-5)
    rest = {name: [i for i in range(len(d)) if i not in chosen[name]] for name, d in made.items()}
    assert v.only.log_prob == pytest.approx(log_prob(rest), abs=1e-5)


def test_an_estimated_graph_with_embeddings_is_validated_by_what_its_features_do_exactly():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    g = torch.Generator().manual_seed(0)
    made = []
    for layer in (0, 1):
        x = model.run(TEXT, [f"mlp_in.{layer}"])[f"mlp_in.{layer}"][0, 1:]
        read, write = (torch.randn(16, 32, generator=g) / 6 for _ in range(2))
        parts = {"mean": torch.zeros(32), "bias": torch.zeros(16), "base": torch.zeros(32)}
        made.append(EncoderDictionary("t", f"mlp_in.{layer}", read, write, written=f"mlp_out.{layer}", **parts))
        assert x.isfinite().all()
    graph = causal_graph(model, TEXT, made, method="attribution", ablate="each", tokens=2)
    assert any(node.dictionary == "embed" for node in graph.nodes)
    v = graph.validate(model, made, random_texts=0, controls=2, circuits=2)
    assert all(id.startswith("t@mlp_in") for id in v.nodes)
    assert all(id.startswith("t@mlp_in") for path in v.circuits for id in path)
    assert v.without.log_prob != v.whole.log_prob
    embedding = next(node.id for node in graph.nodes if node.dictionary == "embed")
    with pytest.raises(errors.GraphError, match="errors and embeddings"):
        graph.validate(model, made, nodes=[embedding])


def test_heads_and_neurons_are_validated_too_and_groups_by_their_names(llama):
    made = [parts.heads(llama, 1), parts.neurons(llama, 2)]
    graph = causal_graph(llama, TEXT, made, errors=False, edges=30)
    nodes = [f"heads@z.1/{head}" for head in (0, 2)] + ["neurons@mlp_post.2/5"]
    v = with_group(graph, nodes, "mine").validate(llama, made, nodes=["mine"], random_texts=0, controls=2)
    assert list(v.nodes) == nodes
    pos = list(range(1, len(TEXT)))
    cut = [rs.edits.ablate("z.1", head=[0, 2], pos=pos), rs.edits.ablate("mlp_post.2", neuron=5, pos=pos)]
    after = llama.run(TEXT, edits=cut).logits[0, -1].double().log_softmax(-1)
    assert v.without.log_prob == pytest.approx(float(after[v.provenance["target id"]]), abs=1e-9)


def test_on_the_default_model_it_is_a_run_with_the_features_taken_out(smollm2):
    text, made = "When John and Mary went to the store, John gave a bottle of milk to", []
    for layer in (8, 9):
        g = torch.Generator().manual_seed(layer)
        x = smollm2.run(text, [f"resid_post.{layer}"])[f"resid_post.{layer}"][0, 1:]
        write = torch.nn.functional.normalize(torch.randn(256, 576, generator=g), dim=1)
        parts = {"mean": x.mean(0), "bias": torch.zeros(256), "base": x.mean(0)}
        made.append(EncoderDictionary("sae", f"resid_post.{layer}", write, write, **parts, activation="topk", k=16))
    graph = prune(causal_graph(smollm2, text, made, edges=200, tokens=0, errors=False), top=4)
    v = graph.validate(
        smollm2, made, target=" Mary", controls=2, random_texts=6, length=8, scales=(0.0,), circuits=1,
        contexts=["After Mary and John went home, John gave the keys to"],
    )  # fmt: skip
    n = len(graph.prompt)
    chosen = [
        [
            i
            for at, i, _ in parsed(id.replace("post.8", "post.0").replace("post.9", "post.1") for id in v.nodes)
            if at == k
        ]
        for k in range(2)
    ]
    cut = [rs.edits.feature(d, index, 0.0, pos=list(range(1, n))) for d, index in zip(made, chosen, strict=True)]
    after = smollm2.run(text, edits=cut).logits[0, -1].double().log_softmax(-1)
    before = smollm2.run(text).logits[0, -1].double().log_softmax(-1)
    assert v.target == " Mary"
    assert v.without.log_prob == pytest.approx(float(after[smollm2.token_id(" Mary")]), abs=1e-4)
    assert v.without.kl == pytest.approx(kl(before, after), abs=1e-4)
    assert len(v.elsewhere.kl) == 6
    assert v.elsewhere.by_number.shape == (1, 6)
    assert v.claims[4].shown is not True  # random features, and few texts
