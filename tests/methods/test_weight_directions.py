"""Singular directions as tokens: against dense decompositions of the weights written out, in four families."""

import pytest
import torch
from dense_weights import NAMES, Dense, built

import residscope as rs
from residscope import errors


@pytest.fixture(scope="module", params=NAMES)
def of(request):
    model, hf = built(request.param)
    return model, Dense(request.param, hf, 1)


def centred(x):
    return x - x.mean(0)


@pytest.mark.parametrize("matrix", ["OV", "QK", "W_in", "W_out"])
def test_each_side_is_the_dense_decomposition_s(of, matrix):
    model, dense = of
    head = 2 if matrix in ("OV", "QK") else None
    found = rs.weight_directions(model, 1, matrix, head=head, n=4, k=3, progress=False)
    whole = {
        "OV": dense.v[2] @ dense.o[2], "QK": dense.q[2] @ dense.k[2].T, "W_in": dense.W_in, "W_out": dense.W_out,
    }[matrix]  # fmt: skip
    U, S, Vh = torch.linalg.svd(whole, full_matrices=False)
    torch.testing.assert_close(found.singular.values[:4].double(), S[:4], atol=1e-5, rtol=1e-5)
    read = {"OV": (U.T, Vh), "QK": (U.T, Vh), "W_in": (U.T,), "W_out": (Vh,)}[matrix]

    for side, rows in enumerate(read):
        written = found.sides[side] == "written"
        for i in range(4):
            vector = found.vectors[side, i].double()
            assert abs(float(vector @ rows[i])) == pytest.approx(1, abs=1e-5)
            along = centred(dense.U.T @ vector) if written else dense.E @ vector
            torch.testing.assert_close(found.values[side, i, 0].double(), along.topk(3).values, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(
                found.values[side, i, 1].double(), -(-along).topk(3).values, atol=1e-5, rtol=1e-4
            )
            assert found.ids[side, i, 0].tolist() == along.topk(3).indices.tolist()
            if side == len(read) - 1:
                assert float(along[along.abs().argmax()]) > 0
    if len(read) == 2:  # the two sides' signs belong together
        left, right = (found.vectors[side].double() for side in (0, 1))
        torch.testing.assert_close((left @ whole * right).sum(1), S[:4], atol=1e-5, rtol=1e-5)


def test_a_planted_direction_is_read_and_written():
    """W_out's largest direction raises token 7 over all others; its opposite end lowers it."""
    model, hf = built("llama")
    with torch.no_grad():
        row = hf.model.norm.weight * hf.lm_head.weight[7]
        hf.model.layers[2].mlp.down_proj.weight.add_(50 * torch.outer(row / row.norm(), torch.ones(48).double()))
    found = rs.weight_directions(model, 2, "W_out", n=1, k=1, progress=False)
    raised = float(found.vectors[0, 0].double() @ row)
    assert abs(raised) == pytest.approx(float(row.norm()), rel=1e-3)
    assert 7 in found.ids[0, 0, :, 0].tolist()
    assert found.tokens(0)[0 if raised > 0 else 1] == model.token_texts([7])


def test_what_is_zero_has_no_direction():
    model, hf = built("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.weight[3:] = 0
    found = rs.weight_directions(model, 1, "W_out", n=10, k=2, progress=False)
    assert found.singular.values.shape == (3,)
    assert found.ids.shape == (1, 3, 2, 2)


def test_it_is_refused_in_words():
    model, _ = built("llama")
    for args, more, error, words in (
        ((3, "OV"), {"head": 0}, errors.UnknownLayer, "0 to 2"),
        ((0, "OV"), {}, errors.UnknownHead, "say which"),
        ((0, "QK"), {"head": 4}, errors.UnknownHead, "0 to 3"),
        ((0, "W_out"), {"head": 1}, errors.BadArguments, "no heads"),
        ((0, "W_U"), {}, errors.BadArguments, "W_in"),
    ):
        with pytest.raises(error, match=words):
            rs.weight_directions(model, *args, progress=False, **more)
    mixed, _ = built("mixtral")
    with pytest.raises(errors.AbsentSite, match="experts"):
        rs.weight_directions(mixed, 0, "W_out", progress=False)
    found = rs.weight_directions(model, 0, "W_in", n=2, k=2, progress=False)
    with pytest.raises(errors.BadArguments, match="read"):
        found.tokens(0, "written")
