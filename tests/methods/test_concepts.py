"""The other edits: LEACE against its theorems, LRQP at the neutral score against LEACE, and what each does to the means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from clouds import cloud, fitted
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import residscope as rs
from residscope import errors
from residscope.probes.concepts import leace_eraser

SETTERS = (rs.concepts.mean_difference, rs.concepts.leace, rs.concepts.project_out, rs.concepts.constant_dose)


def sample(classes, d, seed, n=240):
    """A cloud, its own covariance and cross-covariance with the labels, and the labels as indices."""
    x, labels = cloud(classes, n, d, seed=seed)
    y = torch.tensor([int(label[1:]) for label in labels])
    centred = x - x.mean(0)
    onehot = torch.nn.functional.one_hot(y).double()
    return x, y, centred.T @ centred / n, (onehot - onehot.mean(0)).T @ centred / n


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(6, 12), st.integers(0, 10**6))
def test_leace_keeps_its_theorems(classes, d, seed):
    _, _, covariance, cross = sample(classes, d, seed)
    read, write = leace_eraser(covariance, cross)
    erase = torch.eye(d).double() - write.T @ read
    assert len(read) == classes - 1  # the rank of what is erased
    torch.testing.assert_close(erase @ erase, erase, atol=1e-7, rtol=1e-7)
    assert (erase @ cross.T).abs().max() < 1e-8 * cross.abs().max()
    # least change: any other projection with the concept in its kernel moves the cloud further
    drawn = torch.randn(classes - 1, d, generator=torch.Generator().manual_seed(seed % 1000)).double() * 0.1
    other = read + drawn - (drawn @ write.T) @ read  # still reads `write` as the identity
    other_erase = torch.eye(d).double() - write.T @ other
    assert (other_erase @ cross.T).abs().max() < 1e-6 * cross.abs().max()
    moved = lambda P: float(torch.trace((torch.eye(d) - P) @ covariance @ (torch.eye(d) - P).T))  # noqa: E731
    assert moved(erase) <= moved(other_erase) + 1e-9


def test_a_linear_probe_falls_to_chance_after_leace():
    x, y, covariance, cross = sample(3, 10, 4)
    read, write = leace_eraser(covariance, cross)
    erased = x - ((x - x.mean(0)) @ read.T) @ write

    def accuracy(x):
        return LogisticRegression(C=100, max_iter=5000).fit(x.numpy(), y.numpy()).score(x.numpy(), y.numpy())

    assert accuracy(x) > 0.8
    assert accuracy(erased) <= 0.4


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6), st.sampled_from(["total", "within"]))
def test_equality_at_the_neutral_score_with_an_lda_probe_is_leace(classes, seed, covariance):
    probe = fitted(classes, n=60 * classes, d=9, seed=seed)
    x, _ = cloud(classes, 40, 9, seed=seed + 1)
    centred = probe.class_means - probe.mean
    # the two shrunk covariances are shrunk apart: take the total that the within-class one makes with the means
    shares = torch.tensor(probe.counts).double() / sum(probe.counts)
    probe = replace(probe, covariance=probe.within + centred.T @ (shares[:, None] * centred))
    lda = replace(probe, weights=torch.linalg.solve(probe.within, probe.class_means.T).T)
    neutral = rs.lrqp(lda, to="neutral", covariance=covariance)
    ours = neutral.solve(x, torch.full((40,), -1)).x
    leace = rs.concepts.leace(probe).moved(x, torch.full((40,), -1), None)
    scale = float((leace - x).abs().max())
    torch.testing.assert_close(ours, leace, atol=1e-8 * max(1, scale), rtol=1e-8)
    assert scale > 0.1
    # a probe that is not LDA does not give LEACE
    skewed = replace(probe, weights=lda.weights * torch.linspace(0.5, 2, 9).double())
    other = rs.lrqp(skewed, to="neutral").solve(x, torch.full((40,), -1)).x
    assert (other - leace).abs().max() > 1e-3 * scale


def test_the_least_cost_direction_of_lda_is_the_mean_difference():
    probe = fitted(2, n=200, d=9)
    centred = probe.class_means - probe.mean
    total = probe.within + centred.T @ centred / 2
    lda = replace(probe, weights=torch.linalg.solve(probe.within, probe.class_means.T).T, covariance=total)
    step = lda.direction("c1", "c0").write
    difference = probe.class_means[1] - probe.class_means[0]
    assert float(torch.nn.functional.cosine_similarity(step, difference, dim=0)) == pytest.approx(1, abs=1e-9)


def test_each_setter_moves_the_means_as_it_says():
    probe = fitted(3, n=300, gap=3.0)
    x, labels = cloud(3, 300, gap=3.0)
    true = probe.indices(labels)
    target = (true + 1) % 3
    neutral = torch.full_like(true, -1)
    means = lambda x: torch.stack([x[true == k].mean(0) for k in range(3)])  # noqa: E731
    moved = rs.concepts.mean_difference(probe).moved(x, target, true)
    torch.testing.assert_close(means(moved) - means(x), probe.class_means[[1, 2, 0]] - probe.class_means)
    assert torch.equal(rs.concepts.mean_difference(probe, to="true").moved(x, true, true), x)
    erased = means(rs.concepts.leace(probe).moved(x, neutral, true))
    assert (erased - erased.mean(0)).abs().max() < 0.35 * (means(x) - means(x).mean(0)).abs().max()
    out = rs.concepts.project_out(probe).moved(x, neutral, true)
    assert probe.log_prob(out).std(0).max() < 1e-9
    assert probe.log_prob(x).std(0).max() > 1
    dosed = rs.concepts.constant_dose(probe, dose=2.0).moved(x, target, true)
    torch.testing.assert_close((dosed - x).norm(dim=1), torch.full((300,), 2.0).double())
    for setter in SETTERS:
        found = setter(probe, to="other").moved(x, target, true)
        assert float((probe.log_prob(found).argmax(1) == target).double().mean()) > 0.5, setter.__name__
        assert float((probe.log_prob(x).argmax(1) == target).double().mean()) < 0.2


def test_in_a_run(llama):
    drawn = torch.Generator().manual_seed(0)
    rows = tuple(tuple(torch.randint(2, 97, (6,), generator=drawn).tolist()) for _ in range(60))
    data = rs.PromptSet(rows, labels={"parity": tuple(r[3] % 2 for r in rows)}, positions={"P": (3,) * 60})
    probe = rs.fit_probe(llama, data, site="resid_pre.1", position="P", label="parity")
    few = data.subset(range(8))
    plain = llama.run(few, ["logits"]).logits
    for setter in SETTERS:
        run = llama.run(few, ["logits", "resid_pre.1"], edits=setter(probe, to="1"))
        assert torch.equal(run.logits[:, :3], plain[:, :3])
        assert (run.logits[:, 3:] - plain[:, 3:]).abs().max() > 1e-6
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(errors.BadEdit, match="over 0"):
            rs.concepts.constant_dose(probe, dose=wrong)
    blank = replace(probe, weights=torch.zeros_like(probe.weights))
    with pytest.raises(errors.OneClass, match="normals are zero"):
        rs.concepts.project_out(blank)
    with pytest.raises(errors.SingularCovariance):
        leace_eraser(torch.zeros(3, 3).double(), torch.zeros(2, 3).double())
    assert np.isfinite(probe.control)
