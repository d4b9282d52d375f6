"""Ridge probes: the fit is scikit-learn's own, a planted number is read and shuffled labels are not, mistakes are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import labelled
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.methods.probes.ridge_probe import ALPHAS
from tiny_models import tiny_llama

AT = {"site": "resid_pre.1", "position": "P", "label": "number"}


@pytest.fixture(scope="module")
def model():
    return Model(tiny_llama(layers=2), None)


@pytest.fixture(scope="module")
def data(model):
    """The label is a sum of the stream's entries at P with a little noise, so that it is there to be read."""
    data = labelled(120)
    run = model.run(rs.PromptSet(data.prompts), ["resid_pre.1"])
    x = run["resid_pre.1"][range(len(data)), list(data.at("P"))]
    noise = torch.randn(len(data), generator=torch.Generator().manual_seed(0)).double()
    number = (x[:, :8].sum(1) * 3 + 0.05 * noise + 1900).tolist()
    return replace(data, labels={**data.labels, "number": tuple(number)})


@pytest.fixture(scope="module")
def probe(model, data):
    return rs.ridge_probe(model, data, **AT)


def vectors(model, data):
    run = model.run(rs.PromptSet(data.prompts), ["resid_pre.1"])
    return run["resid_pre.1"][range(len(data)), list(data.at("P"))]


def test_it_is_scikit_learns_ridge(model, data, probe):
    """Weights, alpha and R² of RidgeCV (exact leave-one-out) on standardised inputs of the same training half."""
    train, test = data.split(0.5, seed=0)
    assert probe.provenance["left out of training"] == {
        "at position 0": 0,
        "attention sinks": len(train) - probe.training,
    }
    assert probe.training == len(train), "no sink among the planted prompts"
    X, X_test = vectors(model, train).numpy(), vectors(model, test).numpy()
    mean, spread = X.mean(0), X.std(0)
    sk = RidgeCV(alphas=ALPHAS).fit((X - mean) / spread, train.label("number"))
    assert probe.alpha == sk.alpha_
    np.testing.assert_allclose(probe.weights.numpy(), sk.coef_ / spread, rtol=1e-6, atol=1e-9)
    read = sk.predict((X_test - mean) / spread)
    np.testing.assert_allclose(probe.predictions.select(read="predicted").values.numpy(), read, rtol=1e-8)
    np.testing.assert_allclose(probe.predict(torch.tensor(X_test)).numpy(), read, rtol=1e-8)
    assert probe.r2 == pytest.approx(r2_score(test.label("number"), read), rel=1e-8)
    assert probe.correlation == pytest.approx(np.corrcoef(test.label("number"), read)[0, 1])


def test_a_planted_number_is_read_and_shuffled_ones_are_not(model, data, probe):
    assert probe.interval[0] <= probe.r2 <= probe.interval[1]
    assert probe.r2 > 0.95
    assert len(probe.controls) == 20
    assert max(probe.controls) < 0.2
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3)).tolist()
    mixed = replace(data, labels={"number": tuple(data.label("number")[i] for i in order)})
    assert rs.ridge_probe(model, mixed, **AT).r2 < 0.2


def test_the_direction_reads_the_label_and_its_write_raises_it_by_one(model, data, probe):
    x = vectors(model, data)
    d = probe.direction
    torch.testing.assert_close(x @ d.read - d.offset, probe.predict(x))
    torch.testing.assert_close(probe.predict(x + d.write) - probe.predict(x), torch.ones(len(data)).double())
    assert d.scale > 0


def test_scaling_the_label_scales_the_probe(model, data, probe):
    """Equivariance: labels a y + b give weights a w, and the same R² and alpha."""
    moved = replace(data, labels={"number": tuple(-4 * y + 7 for y in data.label("number"))})
    other = rs.ridge_probe(model, moved, **AT)
    torch.testing.assert_close(other.weights, -4 * probe.weights)
    assert (other.alpha, other.r2) == (probe.alpha, pytest.approx(probe.r2))


def test_numbers_in_words_are_read_and_other_labels_refused(model, data):
    words = replace(data, labels={"number": tuple(f"{y:.6f}" for y in data.label("number"))})
    assert rs.ridge_probe(model, words, **AT).r2 > 0.9
    with pytest.raises(errors.NotNumbers, match="fit_probe"):
        rs.ridge_probe(model, replace(data, labels={"number": ("ABBA",) * len(data)}), **AT)
    with pytest.raises(errors.NotNumbers):
        rs.ridge_probe(model, replace(data, labels={"number": (float("nan"),) * len(data)}), **AT)
    with pytest.raises(errors.OneClass):
        rs.ridge_probe(model, replace(data, labels={"number": (3,) * len(data)}), **AT)
    with pytest.raises(errors.TooFewPrompts):
        rs.ridge_probe(model, data.subset([0, 1, 2, 3]), **AT)
    with pytest.raises(errors.MissingLabel):
        rs.ridge_probe(model, data, **{**AT, "label": "none"})
    with pytest.raises(errors.WrongWidth):
        rs.ridge_probe(model, data, **AT).predict(torch.zeros(3))


def test_it_is_kept(probe, tmp_path):
    probe.save(tmp_path / "p.safetensors")
    again = rs.load_item(tmp_path / "p.safetensors")
    assert torch.equal(again.weights, probe.weights)
    assert (again.r2, again.controls) == (probe.r2, probe.controls)
    assert "R²" in repr(again)


def test_the_year_is_read_from_smollm2(smollm2):
    """The start year of greater-than at its last token, digits apart: read well over shuffled labels."""
    data = rs.tasks.greater_than(smollm2, 90, seed=1)
    probe = rs.ridge_probe(smollm2, data, site="resid_post.12", position="YEAR", label="start")
    assert probe.r2 > 0.8
    assert probe.r2 > max(probe.controls) + 0.4
