"""DAS: its gradient against finite differences, and a direction that does more than where it started and than chance."""

import pytest
import torch
from labelled import labelled

import residscope as rs
from residscope import edits, errors
from residscope.methods.probes.das import das


@pytest.fixture(scope="module")
def found(llama):
    data = labelled(48, ragged=False)
    probe = rs.fit_probe(llama, data, site="resid_pre.1", position="P", label="parity", Cs=(0.01,))
    return data, probe, das(llama, data, probe, steps=60, batch=48, rate=0.5)


def exchanged(model, data, unit):
    """The mean logit difference with the coordinate along `unit` taken from the partner."""
    own, other = (model.run(rs.PromptSet(p), ["resid_pre.1"])["resid_pre.1"] for p in (data.prompts, data.corrupted))
    mixed = own + ((other - own) @ unit)[..., None] * unit
    run = model.run(data, ["logits"], edits=edits.patch("resid_pre.1", {"resid_pre.1": mixed}, pos=4))
    return float(rs.logit_diff()(run).mean())


def test_it_goes_down_and_beats_where_it_began_and_chance(llama, found):
    data, probe, trained = found
    start = probe.class_means[0] - probe.class_means[1]
    start = start / start.norm()
    drawn = torch.randn(20, 32, generator=torch.Generator().manual_seed(0)).double()
    chance = [exchanged(llama, data, u / u.norm()) for u in drawn]
    assert trained.effect[0] == pytest.approx(exchanged(llama, data, start), abs=1e-5)
    assert exchanged(llama, data, trained.unit) < min(trained.effect[0], *chance) - 1e-3
    assert float(trained.unit.norm()) == pytest.approx(1)


def test_a_small_step_goes_downhill(llama, found):
    """One step's change of the effect has the sign and about the size its gradient says."""
    data, probe, _ = found
    moved = das(llama, data, probe, steps=1, batch=48, rate=0.01)
    assert exchanged(llama, data, moved.unit) < moved.effect[0]


def test_the_edit_sets_one_coordinate_to_the_class_mean(llama, found):
    data, probe, trained = found
    x = llama.run(data, ["resid_pre.1"])["resid_pre.1"][:, 4]
    target = torch.zeros(48).long()
    moved = trained.edit("0").moved(x, target, None)
    torch.testing.assert_close(moved @ trained.unit, (probe.class_means[0] @ trained.unit).expand(48))
    off = moved - x
    torch.testing.assert_close(off, (off @ trained.unit)[:, None] * trained.unit)
    assert llama.run(data.subset(range(4)), ["logits"], edits=trained.edit("other")).logits.shape[0] == 4


def test_what_it_needs(llama, found):
    data, probe, _ = found
    with pytest.raises(errors.MissingLabel, match="partners"):
        das(llama, rs.PromptSet(data.prompts, answers=data.answers, positions=data.positions), probe)
