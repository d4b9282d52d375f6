"""One selection of the training half for all that a probe estimates: identities between the parts, by plain Python."""

import random
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from residscope import errors
from residscope.methods._lib.activations import recorded
from residscope.methods.probes import probe_fit
from residscope.methods.probes.das import Das
from residscope.methods.probes.look import look
from residscope.methods.probes.probe_fit import count_right, fit, fit_halves
from residscope.probes import concepts

WHERE = {"site": "resid_pre.1", "position": "P", "label": "kind"}


def cloud(seed, n, d, classes, out):
    """Vectors of which those in `out` are thrown a thousand times as far."""
    drawn = np.random.default_rng(seed)
    x = drawn.normal(size=(n, d)) @ drawn.normal(size=(d, d)) + 3
    y = [i % classes for i in range(n)]
    x += 2 * drawn.normal(size=(classes, d))[y]
    x[out] = 1000 * (1 + drawn.normal(size=(len(out), d)))
    return torch.from_numpy(x), [f"c{k}" for k in y]


def scatter(rows):
    """sum (x - mean)(x - mean)^T / n and the mean, entry by entry."""
    n, d = len(rows), len(rows[0])
    mean = [sum(row[j] for row in rows) / n for j in range(d)]
    return mean, [[sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in rows) / n for j in range(d)] for i in range(d)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.sets(st.integers(0, 29), max_size=12), st.booleans())
def test_the_parts_of_a_probe_are_of_the_same_rows(seed, classes, out, as_sinks):
    x, labels = cloud(seed, 60, 4, classes, sorted(out))
    mask = [i in out for i in range(30)]
    if min(sum(labels[i] == f"c{k}" and not mask[i] for i in range(30)) for k in range(classes)) < 2:
        return
    kept_rows = {k: [x[i].tolist() for i in range(30) if labels[i] == f"c{k}" and not mask[i]] for k in range(classes)}
    with pytest.MonkeyPatch.context() as patched:  # before shrinkage
        patched.setattr(probe_fit, "_ledoit_wolf", lambda rows: rows.T @ rows / len(rows))
        probe = fit(
            x[:30], x[30:], labels[:30], labels[30:], **{"sinks" if as_sinks else "first": mask}, Cs=(0.1,), **WHERE
        )
    n = sum(map(len, kept_rows.values()))
    of_class = {k: scatter(rows) for k, rows in kept_rows.items()}
    mean, total = scatter([row for rows in kept_rows.values() for row in rows])
    within = sum(len(kept_rows[k]) / n * np.array(of_class[k][1]) for k in of_class)
    between = sum(
        len(kept_rows[k]) / n * np.outer(np.array(of_class[k][0]) - mean, np.array(of_class[k][0]) - mean)
        for k in of_class
    )
    assert probe.counts == tuple(len(kept_rows[k]) for k in range(classes))
    np.testing.assert_allclose(probe.mean, mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(probe.class_means, [of_class[k][0] for k in range(classes)], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(probe.covariance, total, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(probe.within, within, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(probe.covariance, probe.within.numpy() + between, rtol=1e-8, atol=1e-8)
    shares = torch.tensor(probe.counts) / n
    torch.testing.assert_close(probe.mean, shares.double() @ probe.class_means)
    left = probe.provenance["left out"]
    assert (left["attention sinks"] if as_sinks else left["at position 0"]) == len(out & {*range(30)})


@pytest.mark.parametrize("which", ["first", "sinks"])
def test_what_is_left_out_might_as_well_not_be_there(which):
    """The same probe, down to weights, percentiles and control, as from the other rows alone; held-out rows all count."""
    out = [0, 1, 5, 8, 17]
    x, labels = cloud(3, 80, 5, 2, out)
    mask, rest = [i in out for i in range(40)], [i for i in range(40) if i not in out]
    probe = fit(x[:40], x[40:], labels[:40], labels[40:], **{which: mask}, Cs=(0.01, 0.1, 1.0), **WHERE)
    alone = fit(x[rest], x[40:], [labels[i] for i in rest], labels[40:], Cs=(0.01, 0.1, 1.0), **WHERE)
    for part in ("weights", "bias", "mean", "class_means", "covariance", "within", "log_odds"):
        torch.testing.assert_close(getattr(probe, part), getattr(alone, part), rtol=1e-9, atol=1e-9)
    assert (probe.C, probe.counts, probe.accuracy, probe.control) == (
        alone.C,
        alone.counts,
        alone.accuracy,
        alone.control,
    )
    assert probe.held_out == 40
    right = count_right(x[:40], x[40:], labels[:40], labels[40:], C=probe.C, **{which: mask})
    assert right == round(probe.accuracy * 40)
    half = fit_halves(x, rs.PromptSet(tuple("p" * 80), labels={"kind": tuple(labels)}), label="kind", Cs=(0.1,),
                      site="resid_pre.1", position="P", **{which: [i in out for i in range(80)]})  # fmt: skip
    assert sum(half.counts) + sum(half.provenance["left out"].values()) == 40
    assert float(half.mean.abs().max()) < 50
    for edit in (concepts.mean_difference(probe), concepts.leace(probe, "c1"), concepts.constant_dose(probe),
                 rs.lrqp(probe), Das(probe.weights[1] / probe.weights[1].norm(), (), probe).edit("c1")):  # fmt: skip
        moved = edit.moved(x[rest], torch.ones(len(rest)).long(), torch.zeros(len(rest)).long())
        assert float((moved - x[rest]).norm(dim=1).max()) < 100  # a thousand with the others in


def test_a_class_that_loses_all_its_prompts_is_named():
    x, labels = cloud(0, 40, 4, 2, [])
    mask = [label == "c1" for label in labels[:20]]
    with pytest.raises(errors.TooFewPrompts, match=r"c1.*0 of 10: 10 stand at position 0"):
        fit(x[:20], x[20:], labels[:20], labels[20:], first=mask, **WHERE)
    mask[1] = False
    with pytest.raises(errors.TooFewPrompts, match=r"1 of 10.*9 are attention sinks"):
        fit(x[:20], x[20:], labels[:20], labels[20:], sinks=mask, **WHERE)


def mixed(model, n=48):
    """Prompts whose position N stands at their first token for a third of them."""
    draw = random.Random(0)
    names = {"he": [" John", " Mark", " Paul", " Peter"], "she": [" Mary", " Anna", " Jane", " Emma"]}
    rows, at, label = [], [], []
    for i in range(n):
        kind = ("he", "she")[i % 2]
        ids = model.batch(draw.choice(names[kind]) + " went to the store").ids[0].tolist()
        before = (
            [] if i % 3 == 0 else model.batch(draw.choice(["So then", "After that", "Today the old"])).ids[0].tolist()
        )
        rows.append((*before, *ids))
        at.append(len(before))
        label.append(kind)
    return rs.PromptSet(tuple(rows), positions={"N": tuple(at)}, labels={"gender": tuple(label)})


def test_on_smollm2_names_at_position_0_do_not_make_the_cloud(smollm2):
    data = mixed(smollm2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe = rs.fit_probe(smollm2, data, site="resid_pre.10", position="N", label="gender")
        shown = look(smollm2, data, label="gender", position="N", sites=["resid_pre"], layers=[10]).projections[0]
        swept = rs.probe_sweep(smollm2, data, label="gender", positions=["N"], layers=[10], sites=["resid_pre"])
    assert (
        probe.provenance["left out"]["at position 0"]
        == sum(i == 0 for i in data.split(0.5, by="gender")[0].at("N"))
        > 0
    )
    assert sum(probe.counts) == 24 - probe.provenance["left out"]["at position 0"]
    assert float(probe.within.trace()) < float(probe.covariance.trace())
    x = recorded(smollm2, data, ["resid_pre.10"], ["N"])
    usable = x.kept["resid_pre.10", "N"]
    assert usable.tolist() == [i > 0 for i in data.at("N")]
    assert float(probe.class_means.norm(dim=1).max()) < 2 * float(
        x.vectors["resid_pre.10", "N"][usable].norm(dim=1).max()
    )
    assert shown.share[0] < 0.6  # of the variance: with the sinks in it, all but everything is along theirs
    (left,) = swept["accuracy"].provenance["left out"].values()
    assert left == probe.provenance["left out"]
