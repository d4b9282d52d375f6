"""Non-negative parts, against scikit-learn's on the same vectors."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import NMF

import residscope as rs
from corpus.readings import model, relu_model, texts, vectors
from residscope import errors
from residscope.corpus import nmf as room
from residscope.corpus.nmf import factorised


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parts_of_neurons_are_no_worse_than_scikit_learns():
    x = vectors(relu_model(), texts(), "mlp_post.1")
    assert x.min() >= 0
    found = rs.nmf(relu_model(), texts(), "mlp_post.1", 5)
    assert (found.write >= 0).all()
    torch.testing.assert_close(found.write.norm(dim=1), torch.ones(5))
    theirs = NMF(5, max_iter=200, tol=1e-4, random_state=0).fit(x.astype(np.float32))
    left = (1 - found.provenance["explained"]) * (x**2).sum()
    assert left <= theirs.reconstruction_err_**2 * 1.001
    given = torch.from_numpy(x)
    rebuilt = found.decode(found.encode(given))
    assert (
        float(((given - rebuilt) ** 2).sum()) <= left * 1.001
    )  # least squares fits no worse than weights held above zero


def test_encode_is_the_least_squares_fit():
    found = rs.nmf(relu_model(), texts(), "mlp_post.1", 5)
    x = vectors(relu_model(), texts(9), "mlp_post.1")[:50]
    weights = np.linalg.lstsq(found.write.double().numpy().T, x.T, rcond=None)[0].T
    np.testing.assert_allclose(found.encode(torch.from_numpy(x)), weights, atol=1e-4)
    np.testing.assert_allclose(
        found.decode(found.encode(torch.from_numpy(x))), weights @ found.write.numpy(), atol=1e-4
    )
    assert found.space == "raw"
    assert found[2].name == "NMF 2"


def test_parts_that_were_put_in_are_found():
    generator = torch.Generator().manual_seed(0)
    parts = torch.zeros(3, 12)
    parts[0, :4], parts[1, 4:8], parts[2, 8:] = 1, 1, 1
    weights = torch.rand(400, 3, generator=generator) * torch.tensor([4.0, 2.0, 1.0])
    weights *= torch.rand(400, 3, generator=generator) > 0.4
    made, about = factorised(weights @ parts, 3)
    torch.testing.assert_close(made["write"], parts / 2, atol=1e-3, rtol=0)
    assert about["explained"] > 0.9999
    assert about["converged"]
    shares = (weights**2).sum(0) * 4 / ((weights @ parts) ** 2).sum()
    torch.testing.assert_close(made["variance"], shares, atol=1e-3, rtol=0)
    torch.testing.assert_close(made["sd"], weights.std(0) * 2, atol=1e-2, rtol=1e-2)


def test_what_is_below_zero_is_refused_unless_it_is_clipped():
    x = vectors(model(), texts(), "mlp_post.1")
    with pytest.raises(errors.NegativeActivations, match=r"mlp_post.1 has entries below zero.*\d\d\.\d%.*clip=True"):
        rs.nmf(model(), texts(), "mlp_post.1", 3)
    found = rs.nmf(model(), texts(), "mlp_post.1", 3, clip=True)
    assert found.provenance["clipped"] == pytest.approx((x < 0).mean())
    made, _ = factorised(torch.from_numpy(x).float().clamp_min(0), 3)
    torch.testing.assert_close(found.write, made["write"])
    assert "clipped" not in rs.nmf(relu_model(), texts(), "mlp_post.1", 3).provenance
    head = rs.nmf(model(), texts(), "result.2", 3, head=1, clip=True)
    assert head.place == "result.2 head 1"


def test_only_a_sample_of_many_vectors_is_held(monkeypatch):
    monkeypatch.setattr(room, "SAMPLE", 100)
    found = rs.nmf(relu_model(), texts(), "mlp_post.1", 3)
    again = rs.nmf(relu_model(), texts(), "mlp_post.1", 3)
    assert found.provenance["sample"] == 100
    assert found.provenance["tokens"] == len(vectors(relu_model(), texts(), "mlp_post.1"))
    assert torch.equal(found.read, again.read)
    assert not torch.equal(found.read, rs.nmf(relu_model(), texts(), "mlp_post.1", 3, seed=1).read)


def test_vectors_with_fewer_parts_are_refused():
    with pytest.raises(errors.DirectionError, match="zero"):
        factorised(torch.zeros(10, 4), 2)
    with pytest.raises(errors.DirectionError, match="fewer non-negative parts"):
        factorised(torch.eye(4)[[0, 0, 1, 1]], 3)
