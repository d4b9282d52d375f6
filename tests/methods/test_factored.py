"""A head's factored circuits against dense products, over the stream and over a tiny vocabulary, in four families."""

import pytest
import torch
from dense_weights import NAMES, Dense, built

import residscope as rs
from residscope import errors
from residscope.methods._lib.weights.vocabulary import extremes


@pytest.fixture(scope="module", params=NAMES)
def of(request):
    model, hf = built(request.param)
    return request.param, model, Dense(request.param, hf, 1)


def circuits(dense, head):
    return {"OV": dense.v[head] @ dense.o[head], "QK": dense.q[head] @ dense.k[head].T}


@pytest.mark.parametrize("circuit", ["OV", "QK"])
def test_it_is_the_dense_matrix(of, circuit):
    _, model, dense = of
    found, whole = rs.factored(model, 1, 2, circuit, k=0, progress=False), circuits(dense, 2)[circuit]
    assert found.left.shape[1] == model.d_head
    torch.testing.assert_close(found.product.double(), whole, atol=1e-6, rtol=1e-5)
    assert found.norm == pytest.approx(float(whole.norm()), rel=1e-5)
    assert found.trace == pytest.approx(float(whole.trace()), abs=1e-5)
    S = torch.linalg.svdvals(whole)[: model.d_head]
    torch.testing.assert_close(found.singular.values.double(), S, atol=1e-6, rtol=1e-5)
    U, S, Vh = found.svd()
    torch.testing.assert_close(U * S @ Vh, whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(U.T @ U, torch.eye(model.d_head).double())
    values = torch.linalg.eigvals(whole)
    largest = values[values.abs().argsort(descending=True)][: model.d_head]
    torch.testing.assert_close(found.eigenvalues.abs(), largest.abs(), atol=1e-4, rtol=1e-4)
    assert found.positive == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=1e-4)


@pytest.mark.parametrize("circuit", ["OV", "QK"])
def test_pairs_are_the_largest_entries_over_the_vocabulary(of, circuit, monkeypatch):
    _, model, dense = of
    monkeypatch.setattr("residscope.methods._lib.weights.vocabulary.BLOCK", 10)
    monkeypatch.setattr("residscope.methods._lib.weights.vocabulary.ROWS", 40)
    found = rs.factored(model, 1, 3, circuit, k=9, progress=False)
    if circuit == "OV":
        whole = dense.E @ circuits(dense, 3)["OV"] @ dense.U
        whole = whole - whole.mean(1, keepdim=True)
    else:
        whole = dense.factor * dense.E @ circuits(dense, 3)["QK"] @ dense.E.T
    for places, values, side in ((found.highest, found.high, whole), (found.lowest, -found.low, -whole)):
        torch.testing.assert_close(values.double(), side.flatten().topk(9).values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(side[places[:, 0], places[:, 1]], values.double(), atol=1e-5, rtol=1e-5)
    assert len(found.pairs) == 18


def test_a_first_layer_s_scores_are_the_model_s_own():
    """Of a key that stands where the query does, without biases: the score of a prompt of one token."""
    model, _ = built("llama")
    found = rs.factored(model, 0, 1, "QK", k=97 * 97, progress=False)
    entry = {tuple(place): float(value) for place, value in zip(found.highest.tolist(), found.high, strict=True)}
    for token in (5, 40, 96):
        score = float(model.run([token], ["scores.0"])["scores.0"][0, 1, 0, 0])
        assert entry[token, token] == pytest.approx(score, abs=1e-5)


def test_the_largest_products_are_found_whatever_their_blocks(monkeypatch):
    monkeypatch.setattr("residscope.methods._lib.weights.vocabulary.BLOCK", 7)
    drawn = torch.Generator().manual_seed(0)
    rows, columns = torch.randn(50, 3, generator=drawn), torch.randn(31, 3, generator=drawn)
    rows *= torch.logspace(-3, 1, 50)[torch.randperm(50, generator=drawn), None]
    told = []
    found = extremes(rows, columns, 12, told.append)
    whole = rows @ columns.T
    torch.testing.assert_close(found.high, whole.flatten().topk(12).values)
    torch.testing.assert_close(found.low, -(-whole).flatten().topk(12).values)
    assert len(told) < 0.6 * 8 * 5, "blocks that cannot hold the largest are left out"


def test_a_head_that_copies_has_each_token_raise_itself():
    model, hf = built("gpt2")
    with torch.no_grad():
        block = hf.transformer.h[0]
        hf.transformer.ln_f.weight.fill_(1)
        block.ln_1.weight.fill_(1)
        block.attn.c_proj.weight.copy_(block.attn.c_attn.weight[:, 64:].T)
    found = rs.factored(model, 0, 1, progress=False, k=3)
    assert found.positive == pytest.approx(1, abs=1e-5)
    assert all(a == b for a, b in found.highest.tolist())


def test_it_is_refused_in_words():
    model, _ = built("llama")
    with pytest.raises(errors.UnknownLayer, match="0 to 2"):
        rs.factored(model, 3, 0)
    with pytest.raises(errors.UnknownHead, match="0 to 3"):
        rs.factored(model, 0, 4)
    with pytest.raises(errors.BadArguments, match="OV, QK"):
        rs.factored(model, 0, 0, "VO")
    normed, _ = built("qwen3")
    with pytest.raises(errors.AbsentSite, match="a norm stands behind it"):
        rs.factored(normed, 0, 0, "QK")
    assert rs.factored(normed, 0, 0, "OV", k=0).trace
