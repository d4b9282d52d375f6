"""Composition scores against dense products of the weights written out, in four families; and what random matrices score."""

import pytest
import torch
from dense_weights import NAMES, Dense, built

import residscope as rs
from residscope import errors
from residscope.methods._lib.weights.grams import random_core


def score(W, R):
    return float((W @ R).norm() / (W.norm() * R.norm()))


@pytest.fixture(scope="module", params=NAMES)
def of(request):
    model, hf = built(request.param)
    dense = [Dense(request.param, hf, layer) for layer in range(3)]
    return request.param, model, dense, rs.composition(model, random=20, progress=False)


def at(found, writer, reader):
    return float(found.score.select(writer=writer, reader=reader).values)


def test_every_writer_with_every_reader_is_the_dense_product(of):
    name, _, (first, second, _), found = of
    written = {
        "embed": first.raw,
        "result.0 head 3": first.v[3] @ first.o[3],
        "mlp_out.0": first.W_out,
    }
    read = {
        "q.1 head 2": second.q[2] @ second.k[2].T,
        "k.1 head 2": second.k[2] @ second.q[2].T,
        "v.1 head 0": second.v[0] @ second.o[0],
        "mlp_in.1": second.W_in,
        "logits": second.U,
    }
    for writer, W in written.items():
        for reader, R in read.items():
            assert at(found, writer, reader) == pytest.approx(score(W, R), abs=1e-6), (writer, reader)
    assert found.score.values.shape[0] == 1 + (name == "gpt2") + 3 * 5
    assert found.score.values.shape[1] == 3 * 13 + 1


def test_a_writer_reaches_what_comes_later_alone(of):
    name, _, _, found = of
    nan = torch.isnan(torch.tensor([at(found, "result.1 head 0", f"{site}.1 head 1") for site in "qkv"]))
    assert nan.all()
    assert torch.isnan(torch.tensor(at(found, "mlp_out.1", "q.1 head 0")))
    same_block = at(found, "result.1 head 0", "mlp_in.1")
    assert (same_block != same_block) == (name == "gpt_neox"), "its MLP stands beside attention"
    assert not found.score.select(reader="logits").values.isnan().any()
    assert not found.score.select(writer="embed").values.isnan().any()
    assert found.blanks == 3 * int(found.score.values.isnan().sum())


def test_some_heads_and_groups_of_neurons(of):
    _, model, (first, second, _), whole = of
    some = rs.composition(
        model, [("result.0", [1]), ("mlp_out.0", [2, 5, 9])], ["k.1", ("mlp_in.1", [7, 8])], random=20, progress=False
    )
    assert at(some, "result.0 head 1", "k.1 head 2") == at(whole, "result.0 head 1", "k.1 head 2")
    W, R = first.W_out[[2, 5, 9]], second.W_in.reshape(32, -1, model.d_mlp)[:, :, [7, 8]].flatten(1)
    assert at(some, "mlp_out.0 neurons 2, 5, 9", "mlp_in.1 neurons 7, 8") == pytest.approx(score(W, R), abs=1e-6)


def test_parts_of_the_writers_are_one_table(of, monkeypatch):
    _, model, _, whole = of
    monkeypatch.setattr("residscope.methods.weights.composition.AT_ONCE", 3 * 4 * 32 * 32)
    parts = rs.composition(model, random=20, progress=False)
    torch.testing.assert_close(parts.score.values, whole.score.values, equal_nan=True, atol=1e-7, rtol=1e-6)


def test_planted_one_is_found_and_one_at_right_angles_is_zero():
    """Head 1.0 reads by its keys what head 0.2 writes, and nothing of what 0.3 writes."""
    model, hf = built("llama")
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).double())[0]
        first, second = hf.model.layers[0].self_attn, hf.model.layers[1].self_attn
        hf.model.layers[1].input_layernorm.weight.fill_(1)
        first.o_proj.weight[:, 16:24] = basis[:, :8]
        first.o_proj.weight[:, 24:32] = basis[:, 8:16]
        second.k_proj.weight[:8] = basis[:, :8].T
    found = rs.composition(model, ["result.0"], ["k.1"], random=40, progress=False)
    writer, reader, value, mean, high = found.top(1)[0]
    assert (writer, reader[:-1]) == ("result.0 head 2", "k.1 head ")
    assert value > high > mean
    assert at(found, "result.0 head 3", "k.1 head 0") < 1e-6
    assert at(found, "result.0 head 2", "k.1 head 0") > 1.5 * at(found, "result.0 head 1", "k.1 head 0")


@pytest.mark.parametrize(
    ("first", "second"), [((32, 8, 32), (32, 8, 32)), ((97, 32), (32, 8, 32)), ((3, 32), (97, 32))]
)
def test_random_matrices_are_as_drawn_in_full(first, second):
    """What QR parts score is distributed as what whole matrices do."""
    draw = torch.Generator().manual_seed(1)

    def whole(shape):
        made = torch.randn(shape[:2], generator=draw, dtype=torch.float64)
        return made @ torch.randn(shape[1:], generator=draw, dtype=torch.float64) if len(shape) == 3 else made

    def scores(one):
        pairs = [(one(first), one(second)) for _ in range(400)]
        return torch.tensor([score(W, R.T) for W, R in pairs])

    short, full = scores(lambda shape: random_core(shape, draw)), scores(whole)
    error = (short.std() + full.std()) / 20
    assert abs(float(short.mean() - full.mean())) < 3 * float(error)
    assert float(short.std() / full.std()) == pytest.approx(1, abs=0.25)


def test_random_weights_score_as_random_matrices_do():
    (model, hf), drawn = built("llama"), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in hf.model.layers:
            layer.input_layernorm.weight.fill_(1)
            for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, part).weight.normal_(generator=drawn)
    found = rs.composition(model, ["result"], ["q", "k"], random=200, progress=False)
    seen = ~found.score.values.isnan()
    share = (found.score.values > found.random_high.values)[seen].double().mean()
    assert share < 0.2


def test_it_is_refused_in_words():
    model, _ = built("llama")
    for writers, readers, error, words in (
        (["z"], None, errors.BadArguments, "result"),
        (["nowhere"], None, errors.UnknownSite, "no such site"),
        (["result.7"], None, errors.UnknownLayer, "3 layers"),
        ([("result.0", [9])], None, errors.UnknownHead, "0 to 3"),
        ([("mlp_out.0", [99])], None, errors.UnknownNeuron, "0 to 47"),
        (["result.0", "result"], None, errors.BadArguments, "twice"),
        ([], None, errors.BadArguments, "nothing"),
        (["pos_embed"], None, errors.AbsentSite, "pos_embed"),
        (None, ["result"], errors.BadArguments, "mlp_in"),
    ):
        with pytest.raises(error, match=words):
            rs.composition(model, writers, readers, random=20, progress=False)
    normed, _ = built("qwen3")
    with pytest.raises(errors.AbsentSite, match="a norm stands behind it"):
        rs.composition(normed, ["result.0"], ["q.1"], progress=False)
    assert not {"q", "k"} & {
        str(x)[0] for x in rs.composition(normed, random=20, progress=False).score.coords["reader"]
    }
    mixed, _ = built("mixtral")
    assert rs.composition(mixed, random=20, progress=False).score.values.shape == (1 + 12, 36 + 1)
