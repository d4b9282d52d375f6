"""Looking first: the projection is PCA's and never sees the label; what is read is not always what shows."""

import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import residscope as rs
from residscope import errors
from residscope.methods.probes.look import look, project

N = 120
LABELS = tuple("ab"[i % 2] for i in range(N))


def seen(x, labels=LABELS):
    data = rs.PromptSet(tuple((i + 2,) for i in range(N)), labels={"kind": labels})
    return project({("resid_pre.2", "P"): x}, data, label="kind").projections[0]


def noise(seed=0):
    return torch.randn(N, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apart(size):
    """Two classes this far apart along one axis, in noise whose other axes are wider."""
    x = noise() * torch.tensor([1.0, 6, 5] + [1.0] * 7)
    x[:, 0] += size * torch.tensor([float(label == "a") for label in LABELS])
    return x


def test_what_is_large_shows_and_what_is_small_is_only_read():
    large, small, none = seen(apart(40)), seen(apart(8)), seen(apart(0))
    assert large.silhouette > 0.5
    assert large.probe.accuracy == 1
    assert small.silhouette < 0.1  # no part of the two largest directions, and yet
    assert small.probe.accuracy > 0.95
    assert abs(none.silhouette) < 0.1
    assert none.probe.accuracy < 0.7


def test_the_projection_is_that_of_pca_and_never_sees_the_label():
    x = apart(8)
    found = seen(x)
    pca = PCA(2, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(abs(found.shown.numpy()), abs(pca.transform(x.numpy())), atol=1e-9)
    np.testing.assert_allclose(found.share, pca.explained_variance_ratio_, rtol=1e-9)
    dealt = tuple(LABELS[i] for i in torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist())
    assert torch.equal(seen(x, dealt).shown, found.shown)
    assert seen(x, dealt).probe.accuracy < 0.7


def test_points_that_are_one_point():
    found = seen(torch.ones(N, 10, dtype=torch.float64))
    assert found.silhouette == 0


def test_layers_of_a_model_and_their_view(llama):
    from labelled import labelled

    found = look(llama, labelled(), label="parity", position="P", sites=("resid_mid", "resid_pre"), layers=[0, 2])
    assert [p.site for p in found.projections] == ["resid_mid.0", "resid_pre.0", "resid_mid.2", "resid_pre.2"]
    rows = zip(labelled().prompts, labelled().at("P"), strict=True)
    x = torch.stack([llama.run(row)["resid_pre.2"][0, p] for row, p in rows])
    shown = PCA(2, svd_solver="full").fit_transform(x.numpy())
    np.testing.assert_allclose(abs(found.projections[3].shown.numpy()), abs(shown), atol=1e-8)
    grid = found.view(2)
    assert len(grid.views) == 4
    assert "silhouette" in grid.views[0].note
    assert f"probe {found.projections[0].probe.accuracy:.0%}" in grid.views[0].note
    assert found.accuracy.low is not None
    assert found.silhouette.select(site="resid_pre.2").values == pytest.approx(found.projections[3].silhouette)


def test_what_is_refused(llama, monkeypatch):
    from labelled import labelled

    data = labelled()
    where = {"position": "P", "layers": [1]}
    one = rs.PromptSet(data.prompts, labels={"parity": (1,) * 48}, positions=data.positions)
    with pytest.raises(errors.OneClass):
        look(llama, one, label="parity", **where)
    with pytest.raises(errors.BadEdit, match="svd"):
        look(llama, data, label="parity", method="tsne", **where)
    with pytest.raises(errors.UnknownPosition):
        look(llama, data, label="parity", position="Q", layers=[1])
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(errors.MissingExtra, match=r"residscope\[umap\]"):
        look(llama, data, label="parity", method="umap", **where)
