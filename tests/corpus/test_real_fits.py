"""Directions fitted on the default model: its gated neurons, and one head."""

import pytest
import torch

import residscope as rs
from residscope import errors


def test_neurons_of_a_gated_mlp_are_below_zero_half_of_the_time(smollm2):
    with pytest.raises(errors.NegativeActivations, match=r"(49|50|51)\.\d% of the entries"):
        rs.nmf(smollm2, "python-docs", "mlp_post.3", 4, tokens=2000)
    found = rs.nmf(smollm2, "python-docs", "mlp_post.3", 4, tokens=2000, clip=True)
    assert found.provenance["clipped"] == pytest.approx(0.50, abs=0.02)
    assert found.read.shape == (4, smollm2.d_mlp)
    assert (found.write >= 0).all()
    assert 0.1 < found.provenance["explained"] < 0.6
    torch.testing.assert_close(found.read @ found.write.T, torch.eye(4), atol=1e-4, rtol=0)


def test_a_head_of_the_default_model(smollm2):
    found = rs.pca(smollm2, "python-docs", "result.9", 4, head=3, tokens=2000)
    assert found.place == "result.9 head 3"
    assert 0.3 < float(found.variance[0]) < 0.6
    rec = smollm2.run("The Eiffel Tower is in the city of", ["result.9"])
    whole = found.encode(rec["result.9"][:, :, 3])
    torch.testing.assert_close(rec.project(found[0]), whole[..., 0], atol=1e-3, rtol=1e-3)
    z = rs.pca(smollm2, "python-docs", "z.9", 4, head=3, tokens=2000)
    assert z.read.shape == (4, 64)
    assert float(z.variance[:4].sum()) > float(found.variance[:1].sum())
