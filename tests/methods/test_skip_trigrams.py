"""Skip trigrams against dense circuits over a tiny vocabulary, in four families, and against the model's own runs."""

import pytest
import torch
from dense_weights import NAMES, Dense, built

import residscope as rs
from residscope import edits, errors


@pytest.fixture(scope="module", params=NAMES)
def of(request):
    model, hf = built(request.param)
    return model, Dense(request.param, hf, 0), rs.skip_trigrams(model, 0, 1, [5, 40], k=4, progress=False)


def test_they_are_the_dense_circuits_largest(of):
    _, dense, found = of
    keys, queries = dense.E @ dense.k[1], dense.factor * dense.E @ dense.q[1]
    logits = dense.E @ dense.v[1] @ dense.o[1] @ dense.U
    for s, a in enumerate((5, 40)):
        scores = queries @ (keys[a] - keys.mean(0))
        torch.testing.assert_close(found.score.values[s].double(), scores.topk(4).values, atol=1e-5, rtol=1e-5)
        assert found.destinations[s].tolist() == scores.topk(4).indices.tolist()
        over = logits[a] - logits[a].mean()
        torch.testing.assert_close(found.logit.values[s].double(), over.topk(4).values, atol=1e-5, rtol=1e-5)
        assert found.outs[s].tolist() == over.topk(4).indices.tolist()


def test_what_is_measured_is_the_run_s(of):
    """The head's whole write less what it would write without the source, read through the run's own final norm."""
    model, _, found = of
    a, b = 40, int(found.destinations[1, 2])
    run = model.run([a, b], ["pattern.0", "v.0", "final_scale"])
    assert float(found.attention.values[1, 2]) == pytest.approx(float(run["pattern.0"][0, 1, 1, 0]), abs=1e-6)
    cut = edits.ablate("z.0", head=1)
    first = model.run([a], ["z.0"])["z.0"][0, 0, 1]  # one token attends to itself alone: its z is its value
    W_O = rs.factored(model, 0, 1, "OV", k=0, progress=False).right.double()
    write = float(run["pattern.0"][0, 1, 1, 0]) * first @ W_O
    if "attn_post_scale" in model.sites.names:
        write = write / model.run([a, b], ["attn_post_scale.0"])["attn_post_scale.0"][0, 1]
    norm = model.layout.final_norm
    logits = (norm.center(write) / run["final_scale"][0, 1] * norm.gain) @ model.W_U
    over = logits - logits.mean()
    expected = [float(over[c]) for c in found.outs[1].tolist()]
    assert found.effect.values[1, 2].tolist() == pytest.approx(expected, abs=1e-5)
    assert not torch.equal(model.run([a, b], edits=[cut]).logits, model.run([a, b]).logits)


def test_every_other_pair_of_two_is_forced(of):
    model, _, _ = of
    found = rs.skip_trigrams(model, 1, 2, [3], destinations=[8, 9], outs=[20, 21], progress=False)
    name = {id: model.token_texts([id])[0] for id in (3, 8, 9, 20, 21)}
    assert found.trigrams == [(name[3], name[8], name[20]), (name[3], name[9], name[21])]
    assert found.forced == [(name[3], name[8], name[21]), (name[3], name[9], name[20])]
    ratio = found.effect.values[0] / found.attention.values[0][:, None]
    rows = found.view().rows
    assert [row[-1] for row in rows] == ["", "forced", "forced", ""]
    assert [row[4] for row in rows] == [float(found.logit.values[0, j]) for j in (0, 1, 0, 1)]
    assert [row[3] for row in rows] == [float(found.score.values[0, i]) for i in (0, 0, 1, 1)]
    assert [row[6] for row in rows] == found.effect.values[0].flatten().tolist()
    if (
        "attn_post_scale" not in model.sites.names
    ):  # whoever looks at the source gets the same of it, but for the divisor
        torch.testing.assert_close(ratio[0, 0] / ratio[0, 1], ratio[1, 0] / ratio[1, 1], atol=1e-4, rtol=1e-3)


def test_a_first_layer_without_biases_adds_just_what_its_circuits_say():
    model, _ = built("llama")
    found = rs.skip_trigrams(model, 0, 3, [7], k=3, progress=False)
    for i, b in enumerate(found.destinations[0].tolist()):
        divisor = float(model.run([7, b], ["final_scale"])["final_scale"][0, 1])
        expected = found.logit.values[0] * found.attention.values[0, i] / divisor
        torch.testing.assert_close(found.effect.values[0, i], expected, atol=1e-6, rtol=1e-4)


def test_it_is_refused_in_words():
    model, _ = built("llama")
    for sources, more, error, words in (
        ([], {}, errors.BadArguments, "several tokens"),
        ("ab", {}, errors.BadArguments, "list of tokens"),
        ([5, 5], {}, errors.BadArguments, "twice"),
        ([5], {"outs": [2, 2]}, errors.BadArguments, "outs"),
        ([97], {}, errors.UnknownToken, "97"),
    ):
        with pytest.raises(error, match=words):
            rs.skip_trigrams(model, 0, 0, sources, progress=False, **more)
    with pytest.raises(errors.UnknownHead, match="0 to 3"):
        rs.skip_trigrams(model, 0, 4, [5], progress=False)
    normed, _ = built("qwen3")
    with pytest.raises(errors.AbsentSite, match="a norm stands behind it"):
        rs.skip_trigrams(normed, 0, 0, [5], progress=False)
