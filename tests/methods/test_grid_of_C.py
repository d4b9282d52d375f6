"""C: the grid goes on where its end is best, says where it ended, and the control tunes its own."""

import warnings

import numpy as np
import pytest
import torch
from clouds import cloud, fitted
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

import residscope as rs
from residscope import errors
from residscope.methods.probes.probe_fit import fit
from residscope.probes import logistic
from residscope.probes.probe import EDGE
from residscope.progress import heard_warnings

WHERE = {"site": "resid_pre.1", "position": "P", "label": "kind"}


def overlapping(seed=0, gap=0.8):
    x, labels = cloud(2, 160, 30, gap, seed)
    return x[:80], x[80:], labels[:80], labels[80:]


def losses(x, labels, Cs, seed=0):
    """scikit-learn's own cross-validated log-loss, each C from nothing."""
    z, y = ((x - x.mean(0)) / x.std(0, correction=0)).numpy(), np.array([int(v[1:]) for v in labels])
    found = {}
    for C in Cs:
        total = 0.0
        for rows, out in StratifiedKFold(5, shuffle=True, random_state=seed).split(z, y):
            own = LogisticRegression(C=C, tol=1e-10, max_iter=20000).fit(z[rows], y[rows])
            total -= float(own.predict_log_proba(z[out])[np.arange(len(out)), y[out]].sum())
        found[C] = total / len(y)
    return found


@pytest.mark.parametrize("grid", [(1e-5, 1e-4), (1e1, 1e2), (1e-2, 1e-1, 1.0)])
def test_from_wherever_it_starts_it_ends_at_the_least_loss(grid):
    train, test, labels, test_labels = overlapping()
    every = losses(train, labels, [10.0**k for k in range(-8, 3)])
    best = min(every, key=lambda C: every[C])
    assert 1e-8 < best < 1e2
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.GridEdge)
        probe = fit(train, test, labels, test_labels, Cs=grid, **WHERE)
    assert pytest.approx(best) == probe.C
    assert EDGE not in probe.provenance
    assert min(probe.provenance["C tried"]) < probe.C < max(probe.provenance["C tried"])


def test_classes_that_separate_end_at_the_bound_and_say_so():
    x, labels = cloud(2, 160, 6, gap=30.0)
    with (
        heard_warnings() as heard,
        pytest.warns(errors.GridEdge, match=r"kind at resid_pre.1, P.*larger than 100.*quantile"),
    ):
        probe = fit(x[:80], x[80:], labels[:80], labels[80:], **WHERE)
    assert (probe.C, probe.provenance[EDGE]) == (1e2, "upper")
    assert len(heard) == 1  # by who runs it, such as a job
    assert "where the grid ends" in heard[0]
    assert probe.provenance["C tried"] == [10.0**k for k in range(-5, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fixed = fit(x[:80], x[80:], labels[:80], labels[80:], Cs=(0.1,), **WHERE)  # one C is a choice, not a search
    assert fixed.C == 0.1
    assert EDGE not in fixed.provenance
    assert issubclass(errors.GridEdge, errors.ResidscopeWarning)


def test_a_label_that_is_not_there_ends_below():
    x, _ = cloud(2, 160, 60)
    labels = [f"c{k}" for k in np.random.default_rng(1).permutation(160) % 2]
    with pytest.warns(errors.GridEdge, match="smaller than 1e-08"):
        probe = fit(x[:80], x[80:], labels[:80], labels[80:], **WHERE)
    assert (probe.C, probe.provenance[EDGE]) == (1e-8, "lower")


def test_a_sweep_warns_once_of_all_its_cells(llama):
    rows = tuple((5, 6, 11 if i % 2 else 77, 8) for i in range(48))
    data = rs.PromptSet(rows, labels={"x": tuple(i % 2 for i in range(48))}, positions={"P": (2,) * 48, "Q": (3,) * 48})
    with pytest.warns(errors.GridEdge) as told:
        swept = rs.probe_sweep(llama, data, label="x", positions=["P", "Q"], layers=[0, 1], sites=["resid_mid"])
    assert len(told) == 1
    edges = swept["C"].provenance[EDGE]
    assert edges == {f"resid_mid.{layer}, {p}": "upper" for layer in (0, 1) for p in ("P", "Q")}


def test_the_control_tunes_its_own_C(monkeypatch):
    """Each shuffle is fitted at the C that its own labels ask for, not at the probe's."""
    x, labels = cloud(2, 160, 40, gap=30.0)
    chosen = []
    whole = logistic.choose
    monkeypatch.setattr(logistic, "choose", lambda *a, **k: chosen.append(whole(*a, **k)) or chosen[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe = fit(x[:80], x[80:], labels[:80], labels[80:], **WHERE)
    assert probe.C == 1e2
    assert len(chosen) == logistic.SHUFFLES
    assert max(found.C for found in chosen) < 1
    assert 0.2 < probe.control < 0.8


def test_scikit_learns_optimum_also_where_the_penalty_is_weak():
    """At C = 1e4 gradients of the mean loss are small long before the optimum: the weights are those of a tight fit."""
    x, labels = cloud(2, 160, 6, gap=30.0)
    probe = fitted(2, n=80, d=6, gap=30.0, Cs=(1e4,))
    z = ((x[:80] - x[:80].mean(0)) / x[:80].std(0, correction=0)).numpy()
    own = LogisticRegression(C=1e4, tol=1e-12, max_iter=10**6).fit(z, labels[:80])
    raw = torch.from_numpy(own.coef_[0]) / x[:80].std(0, correction=0)
    torch.testing.assert_close(probe.weights[1] - probe.weights[0], raw, rtol=1e-3, atol=1e-4)
