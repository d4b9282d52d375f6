"""Probes: they find what is there, not what is not; scikit-learn's own predictions; intervals that cover; refusals."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from clouds import cloud, fitted
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import residscope as rs
from residscope import errors
from residscope.methods._lib.activations import activations
from residscope.methods._lib.intervals import wilson
from residscope.methods.probes.probe_fit import fit
from residscope.probes.probe import Probe


def labelled(n=120, seed=0, length=6):
    drawn = torch.Generator().manual_seed(seed)
    rows = tuple(tuple(torch.randint(2, 97, (length + i % 3,), generator=drawn).tolist()) for i in range(n))
    noise = tuple(Random(seed).choices("ab", k=n))
    labels = {"parity": tuple(row[3] % 2 for row in rows), "noise": noise, "three": tuple(row[3] % 3 for row in rows)}
    return rs.PromptSet(rows, labels=labels, positions={"P": (3,) * n, "before": (2,) * n, "first": (0,) * n})


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learns_fit_in_raw_space(classes):
    x, labels = cloud(classes, 300, 6, gap=1.0)
    probe = fit(x[:150], x[150:], labels[:150], labels[150:], Cs=(0.1,), site="resid_pre.1", position="P", label="kind")
    scaler = StandardScaler().fit(x[:150].numpy())
    own = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(scaler.transform(x[:150].numpy()), labels[:150])
    theirs = own.predict_log_proba(scaler.transform(x[150:].numpy()))
    np.testing.assert_allclose(probe.log_prob(x[150:]).numpy(), theirs, atol=1e-4)
    assert probe.predict(x[150:]) == tuple(own.predict(scaler.transform(x[150:].numpy())))
    assert probe.accuracy == own.score(scaler.transform(x[150:].numpy()), labels[150:])
    assert probe.interval[0] < probe.accuracy < probe.interval[1]


def test_wider_than_there_are_prompts():
    """The fit in the span of the rows is the fit in all dimensions."""
    x, labels = cloud(2, 60, 50, gap=0.5)
    probe = fit(x[:40], x[40:], labels[:40], labels[40:], Cs=(0.01,), site="resid_pre.1", position="P", label="kind")
    scaler = StandardScaler().fit(x[:40].numpy())
    own = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000).fit(scaler.transform(x[:40].numpy()), labels[:40])
    np.testing.assert_allclose(
        probe.log_prob(x[40:]).numpy(), own.predict_log_proba(scaler.transform(x[40:].numpy())), atol=1e-4
    )


def test_what_is_there_is_found_and_what_is_not_is_not(llama):
    data = labelled()
    found = rs.fit_probe(llama, data, site="resid_pre.0", position="P", label="three")
    again = rs.fit_probe(llama, data, site="resid_pre.0", position="P", label="three")
    assert torch.equal(found.weights, again.weights)
    noise = rs.fit_probe(llama, data, site="resid_pre.0", position="P", label="noise")
    assert abs(noise.accuracy - 0.5) < 0.2
    assert abs(found.control - 1 / 3) < 0.2
    # the position before cannot know what comes after it
    before = rs.fit_probe(llama, data, site="resid_pre.2", position="before", label="parity")
    assert before.interval[0] < 0.5 < before.interval[1] + 0.1
    copies = replace(data, labels={"token": tuple("low" if row[3] < 50 else "high" for row in data.prompts)})
    easy = rs.fit_probe(llama, replace(copies, prompts=_repeated(data, copies.labels["token"])),
                        site="resid_pre.0", position="P", label="token")  # fmt: skip
    assert easy.accuracy == 1.0
    assert easy.selectivity > 0.3


def _repeated(data, labels):
    return tuple(
        (*row[:3], 11 if label == "low" else 77, *row[4:]) for row, label in zip(data.prompts, labels, strict=True)
    )


def test_the_direction_reads_the_log_odds():
    probe = fitted(3)
    x, _ = cloud(3, 20, seed=5)
    logp = probe.log_prob(x)
    d = probe.direction("c2", "c0")
    torch.testing.assert_close(d.project(x), logp[:, 2] - logp[:, 0], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(d.write, probe.covariance @ d.read)
    with pytest.raises(errors.UnseenLabel, match="c0, c1, c2"):
        probe.direction("c2", "c3")
    with pytest.raises(errors.WrongWidth):
        probe.log_prob(x[:, :3])


def test_log_odds_percentiles_are_those_of_the_training_prompts():
    x, labels = cloud(2, 200, 5)
    probe = fit(x[:100], x[100:], labels[:100], labels[100:], site="resid_pre.1", position="P", label="kind")
    own = x[:100][[i for i, label in enumerate(labels[:100]) if label == "c1"]]
    odds = probe.direction("c1", "c0").project(own)
    torch.testing.assert_close(probe.log_odds[1, 0, 50], odds.quantile(0.5), rtol=1e-9, atol=1e-9)
    assert probe.log_odds[1, 0, 90] > probe.log_odds[1, 0, 10]


def test_saved_and_read(tmp_path):
    probe = fitted(3, provenance={"model": "h"})
    path = tmp_path / "probe.safetensors"
    probe.save(path)
    back = Probe.load(path)
    assert repr(back) == repr(probe)
    assert torch.equal(back.weights, probe.weights)
    assert torch.equal(back.within, probe.within)
    assert (back.classes, back.counts, back.interval) == (probe.classes, probe.counts, probe.interval)
    rs.lrqp(back)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(errors.DamagedFile):
        Probe.load(path)


def test_activations_are_the_runs_own(llama):
    data = labelled(20)
    held = activations(llama, data, ["resid_mid.1", "resid_post.2", "mlp_out.0"], ["P", "before"], batch=7)
    for i in (0, 13, 19):
        run = llama.run(list(data.prompts[i]), ["resid_mid.1", "resid_post.2", "mlp_out.0"])
        for (site, position), vectors in held.items():
            torch.testing.assert_close(vectors[i], run[site][0, data.at(position)[i]], atol=1e-9, rtol=1e-9)
    told = []
    activations(llama, data, ["resid_mid.1"], ["P"], progress=lambda *step: told.append(step))
    assert told[-1] == ("Recording activations", 20, 20)
    with pytest.raises(errors.UnknownHead, match="head="):
        activations(llama, data, ["z.1"], ["P"])
    with pytest.raises(errors.UnknownHead):
        activations(llama, data, ["z.1"], ["P"], head=9)
    with pytest.raises(errors.UnknownHead):
        activations(llama, data, ["resid_mid.1"], ["P"], head=0)
    for site in ("pattern.1", "attn_scale.1"):
        with pytest.raises(errors.UnknownSite, match="no vector"):
            activations(llama, data, [site], ["P"])
    with pytest.raises(errors.UnknownPosition, match="has 6 tokens"):
        activations(llama, replace(data, positions={"P": (6,) * 20}), ["resid_mid.1"], ["P"])


def test_a_sweep_is_its_probes(llama):
    data = labelled(80)
    swept = rs.probe_sweep(
        llama, data, label="three", positions=["before", "P"], layers=[0, 2], sites=["resid_mid", "resid_pre"]
    )
    accuracy = swept["accuracy"]
    assert accuracy.sizes == {"site": 2, "layer": 2, "position": 2}
    one = rs.fit_probe(llama, data, site="resid_mid.2", position="P", label="three")
    at = accuracy.select(site="resid_mid", layer=2, position="P")
    assert float(at.values) == one.accuracy
    assert (float(at.low), float(at.high)) == pytest.approx(one.interval)
    assert float(swept["control"].select(site="resid_mid", layer=2, position="P").values) == one.control
    torch.testing.assert_close(swept["selectivity"].values, accuracy.values - swept["control"].values)


def test_wilson_covers():
    """Of shares drawn from a known one, about 95 in 100 intervals hold it."""
    drawn = np.random.default_rng(0)
    for p in (0.5, 0.9, 0.98):
        k = drawn.binomial(100, p, size=2000)
        held = np.mean([low <= p <= high for low, high in (wilson(int(x), 100) for x in k)])
        assert 0.92 < held < 0.98
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == 1
    assert wilson(20, 20)[0] > 0.8


def test_questions_without_an_answer(llama):
    data = labelled(20)
    ask = {"site": "resid_mid.1", "position": "P"}
    one = replace(data, labels={"x": ("a",) * 20})
    with pytest.raises(errors.OneClass, match="Received: a"):
        rs.fit_probe(llama, one, label="x", **ask)
    lonely = replace(data, labels={"x": ("a",) * 10 + ("b",) * 9 + ("c",)})
    with pytest.raises(errors.UnseenLabel, match="Received: c"):
        rs.fit_probe(llama, lonely, label="x", **ask)
    odd = data.subset([i for i in range(20) if data.label("three")[i] != 0])
    with pytest.raises(errors.UnseenLabel, match="Received: 0"):
        rs.fit_probe(llama, odd, held_out=data, label="three", **ask)
    few = replace(data.subset(range(3)), labels={"x": ("a", "b", "b")})
    with pytest.raises((errors.ProbeError, errors.TooFewPrompts)):
        rs.fit_probe(llama, few, label="x", **ask)
    pair = replace(data.subset(range(2)), labels={"x": ("a", "b")})
    with pytest.raises(errors.TooFewPrompts, match="2 or more of every class"):
        rs.fit_probe(llama, pair, held_out=pair, label="x", **ask)
    with pytest.raises(errors.MissingLabel, match="parity"):
        rs.fit_probe(llama, data, label="mood", **ask)
    with pytest.raises(errors.UnknownPosition, match="before"):
        rs.fit_probe(llama, data, label="parity", site="resid_mid.1", position="S9")
    with pytest.raises(errors.TooFewPrompts, match="position 0"):
        rs.fit_probe(llama, data, label="parity", site="resid_mid.1", position="first")


def test_constant_activations_read_at_chance_and_cannot_be_edited(llama):
    rows = tuple((5, 6, 7, 8) for _ in range(40))
    same = rs.PromptSet(rows, labels={"x": ("a", "b") * 20}, positions={"P": (2,) * 40})
    probe = rs.fit_probe(llama, same, site="resid_mid.1", position="P", label="x")
    assert probe.accuracy == 0.5
    with pytest.raises(errors.SingularCovariance):
        rs.lrqp(probe)
