"""Flip rates over C: each cell is what fitting and editing at that C by hand says; the seed's alpha follows C."""

import pytest
import torch
from clouds import cloud
from labelled import labelled

import residscope as rs
from residscope.methods._lib.intervals import wilson
from residscope.methods.probes import intervention
from residscope.methods.probes.probe_fit import fit


def test_every_cell_is_that_probes_own_flips(llama):
    data, Cs = labelled(64), (1e-3, 1.0)
    found = rs.flips_over_C(llama, data, sites=["resid_pre.1", "resid_mid.2"], position="P", label="parity", Cs=Cs)
    assert found.dims == ("method", "site", "C")
    assert found.coords["C"] == Cs
    train, test = data.split(0.5, by="parity")
    clean = torch.tensor([float(_diff(llama, test, i, ())) for i in range(len(test))])
    for site in ("resid_pre.1", "resid_mid.2"):
        for C in Cs:
            probe = rs.fit_probe(llama, train, held_out=test, site=site, position="P", label="parity", Cs=(C,))
            edits = {
                "LRQP": rs.lrqp(probe, to="other"),
                intervention.QUANTILE: rs.lrqp(probe, to="other", quantile=0.5),
            }
            for name, edit in edits.items():
                edited = torch.tensor([float(_diff(llama, test, i, edit)) for i in range(len(test))])
                right = int((clean > 0).sum())
                flipped = int(((clean > 0) & (edited < 0)).sum())
                cell = found.select(method=name, site=site, C=C)
                assert float(cell.values) == pytest.approx(flipped / right)
                assert (float(cell.low), float(cell.high)) == pytest.approx(wilson(flipped, right))
    assert found.provenance["held out"] == len(test)


def _diff(model, data, i, edits):
    alone = data.subset([i])
    right, wrong = alone.answers[0]
    logits = model.run(alone, ["logits"], edits=edits).logits[0, -1]
    return logits[right] - logits[wrong]


def test_the_quantile_stands_beside_the_seeds_alpha():
    assert list(intervention.METHODS)[:2] == ["LRQP", "LRQP, quantile 0.5"]


def test_on_separated_classes_a_fixed_alpha_asks_for_less_the_larger_C_is():
    """In Mahalanobis length, along the same cloud: the quantile asks for the same, the seed's alpha for ever less."""
    x, labels = cloud(2, 160, 40, gap=30.0)
    moves = {"seed": [], "quantile": []}
    for C in (1e-3, 1e-1, 10.0, 1e3):
        probe = fit(x[:80], x[80:], labels[:80], labels[80:], Cs=(C,), site="resid_pre.1", position="P", label="kind")
        other = x[80:][[label == "c0" for label in labels[80:]]]
        target, true = torch.ones(len(other)).long(), torch.zeros(len(other)).long()
        for name, edit in (("seed", rs.lrqp(probe, "c1")), ("quantile", rs.lrqp(probe, "c1", quantile=0.5))):
            moves[name].append(float(edit.solve(other, target, true).cost.mean()))
    assert moves["seed"][0] > 3 * moves["seed"][-1]
    assert max(moves["quantile"]) < 1.5 * min(moves["quantile"])
