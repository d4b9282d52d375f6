"""Interventions: each arm's numbers against whole runs, the control of equal cost, and where the edited points lie."""

import pytest
import torch
from labelled import labelled

import residscope as rs
from residscope import errors
from residscope.methods._lib.answers import answer_diffs
from residscope.methods._lib.controls import as_far, lengths
from residscope.methods.probes.intervention import METHODS, compare, intervene, price


@pytest.fixture(scope="module")
def world(llama):
    train, test = labelled(96).split(0.5, by="parity")
    probe = rs.fit_probe(llama, train, held_out=test, site="resid_mid.1", position="P", label="parity", Cs=(0.01,))
    return probe, test, intervene(llama, test, [probe], batch=7)


def test_every_arm_is_what_whole_runs_say(llama, world):
    probe, test, found = world
    lrqp = next(one for one in found if one.name == "LRQP")
    cells = {"clean": [], "control": [rs.lrqp(probe, to="true")], "counterfactual": [rs.lrqp(probe, to="other")]}
    diffs = dict(zip(cells, answer_diffs(llama, test, list(cells.values())), strict=True))
    for name, diff in diffs.items():
        torch.testing.assert_close(lrqp.arms[name].diff, diff, atol=1e-4, rtol=1e-4)
    for i in (0, 11, 30):
        alone, (right, wrong) = test.subset([i]), test.answers[i]
        plain = llama.run(alone, ["logits", "resid_mid.1"])
        other = llama.run(alone, ["logits", "resid_mid.1"], edits=cells["counterfactual"])
        p, q = (run.logits[0, -1].log_softmax(-1) for run in (plain, other))
        arm = lrqp.arms["counterfactual"]
        assert float(arm.kl[i]) == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)
        assert float(arm.mass[i]) == pytest.approx(float(torch.logaddexp(q[right], q[wrong])), abs=1e-4)
        move = (other["resid_mid.1"] - plain["resid_mid.1"])[0, test.at("P")[i]].double()
        assert float(arm.cost[i]) == pytest.approx(
            float(move @ torch.linalg.solve(probe.covariance, move)) ** 0.5, abs=1e-3
        )
        assert arm.cost[i] > 0.1
    assert lrqp.arms["clean"].kl.abs().max() < 1e-6
    assert float(lrqp.arms["counterfactual"].kl.mean()) > 1e-4


def test_the_random_direction_costs_the_same_and_reads_otherwise(llama, world):
    probe, _, found = world
    for one in found:
        torch.testing.assert_close(
            one.arms["random direction"].cost, one.arms["counterfactual"].cost, atol=1e-3, rtol=1e-3
        )
    edit = rs.lrqp(probe, to="other")
    drawn = torch.Generator().manual_seed(0)
    x = probe.mean + torch.randn(20, 32, generator=drawn).double() @ torch.linalg.cholesky(probe.covariance).T
    target, true = torch.zeros(20).long(), torch.ones(20).long()
    near, fars = edit.moved(x, target, true), [as_far(edit, probe, seed=i).moved(x, target, true) for i in range(8)]
    odds = probe.direction("0", "1").project
    assert (odds(near) > 0).all()
    changes = torch.stack([odds(far) - odds(x) for far in fars]).abs().mean()
    assert changes < 0.5 * (odds(near) - odds(x)).abs().mean()  # a direction at random reads 1/sqrt(d) of it
    far = fars[1]
    assert not torch.allclose(far, as_far(edit, probe, seed=2).moved(x, target, true))
    root = torch.linalg.cholesky(probe.covariance)
    torch.testing.assert_close(lengths(far - x, root), lengths(near - x, root))


def test_where_the_edited_points_lie(llama, world):
    probe, test, found = world
    lrqp = next(one for one in found if one.name == "LRQP")
    own = lrqp.arms["clean"].off_cloud
    assert float(own.mean()) == pytest.approx(0.5, abs=0.02)  # real points are spread evenly
    thrown = {"thrown": lambda probe, to: rs.concepts.constant_dose(probe, to=to, dose=1e4)}
    (far,) = intervene(llama, test, [probe], thrown)
    assert far.arms["counterfactual"].off_cloud.min() == 1
    still = {"none": lambda probe, to: rs.concepts.mean_difference(probe, to="true")}
    (same,) = intervene(llama, test, [probe], still)
    torch.testing.assert_close(same.arms["counterfactual"].off_cloud, own, atol=1.01 / len(test), rtol=0)
    assert same.arms["counterfactual"].cost.max() < 1e-5
    assert same.flips().flipped == 0


def test_tables_and_pictures(world):
    _, test, found = world
    tables = compare(found)
    assert tables["flip rate"].sizes == {"site": 1, "method": len(METHODS)}
    for one in found:
        picked = tables["flip rate"].select(site=one.site, method=one.name)
        assert float(picked.values) == one.flips().rate
        assert (float(picked.low), float(picked.high)) == pytest.approx(one.flips().interval)
        assert float(tables["KL"].select(site=one.site, method=one.name).values) == pytest.approx(one.numbers()["KL"])
    series = found[0].histogram().to_dict()["series"]
    assert [entry["n"] for entry in series] == [len(test)] * 3
    assert len(found[0].scatter().x) == 2 * len(test)
    assert found[0].scatter().diagonal


def test_an_edit_keeps_how_far_it_goes_and_every_arm_sets_its_own(llama, world):
    """An edit of one prompt, as the page has it, over labelled ones: in each arm the same strength, at the named position."""
    probe, test, _ = world
    strong = {"log_alpha": 3.0, "covariance": "within"}
    (found,) = intervene(llama, test, [probe], edits=[rs.lrqp(probe, "0", pos=0, **strong)])
    arms = {"control": [rs.lrqp(probe, "true", **strong)], "counterfactual": [rs.lrqp(probe, "other", **strong)]}
    for arm, diff in zip(arms, answer_diffs(llama, test, [*arms.values()]), strict=True):
        torch.testing.assert_close(found.arms[arm].diff, diff, atol=1e-4, rtol=1e-4)
    (usual,) = intervene(llama, test, [probe], {"LRQP": METHODS["LRQP"]})
    assert not torch.allclose(usual.arms["counterfactual"].cost, found.arms["counterfactual"].cost, rtol=0.1)
    (neutral,) = intervene(llama, test, [probe], edits=[rs.lrqp(probe, "neutral")])
    (held,) = answer_diffs(llama, test, [[rs.lrqp(probe, "neutral")]])
    torch.testing.assert_close(neutral.arms["counterfactual"].diff, held, atol=1e-4, rtol=1e-4)
    other = rs.fit_probe(llama, test, site="resid_mid.0", position="P", label="parity", Cs=(0.01,))
    for wrong in (rs.lrqp(other), rs.edits.ablate("z.0")):
        with pytest.raises(errors.BadEdit, match="none of the probes"):
            intervene(llama, test, [probe], edits=[wrong])


def test_its_price_grows_with_cases_and_falls_with_their_layer(llama, world):
    probe, test, _ = world
    tokens = sum(llama.batch(test).lengths)
    one, two = ({name: METHODS[name] for name in names} for names in (["LRQP"], ["LRQP", "LEACE"]))
    assert price(llama, test, [probe], one) == pytest.approx(tokens * (1 + 3 * 3 / 4))  # layer 1 of 4
    assert price(llama, test, [probe], two) == pytest.approx(tokens * (1 + 6 * 3 / 4))
    assert price(llama, test, [probe], two, edits=[rs.lrqp(probe)]) == price(llama, test, [probe], one)


def test_every_arm_s_outcome_is_told(world):
    _, _, found = world
    for one in found:
        rows = {row[0]: row[1:] for row in one.outcomes().rows}
        assert list(rows) == ["control", "counterfactual", "random direction"]
        for arm, (flipped, of, rate, low, high, shift, size) in rows.items():
            clean, diff = one.arms["clean"].diff, one.arms[arm].diff
            assert flipped == int(((clean > 0) & (diff < 0)).sum())
            assert of == int((clean > 0).sum())
            assert rate == pytest.approx(flipped / of)
            assert low <= rate <= high
            assert shift == pytest.approx(float((diff - clean).double().mean()))
            assert size == pytest.approx(float((diff - clean).double().abs().mean()))


def test_prompts_without_answers_or_labels(llama, world):
    probe, test, _ = world
    with pytest.raises(errors.MissingLabel):
        intervene(llama, rs.PromptSet(test.prompts, labels=test.labels, positions=test.positions), [probe])
    with pytest.raises(errors.MissingLabel):
        intervene(llama, rs.PromptSet(test.prompts, answers=test.answers, positions=test.positions), [probe])


def test_probes_of_two_heads_at_one_site_keep_their_own_points(llama):
    """Clean points lie where they lie, whichever other head is probed beside them."""
    train, test = labelled(64).split(0.5, by="parity")
    probes = [
        rs.fit_probe(llama, train, held_out=test, site="z.1", head=h, position="P", label="parity", Cs=(0.01,))
        for h in (0, 3)
    ]
    only = {"LRQP": METHODS["LRQP"]}
    together = intervene(llama, test, probes, only, batch=7)
    for probe, found in zip(probes, together, strict=True):
        (alone,) = intervene(llama, test, [probe], only, batch=7)
        for arm in ("clean", "counterfactual"):
            torch.testing.assert_close(found.arms[arm].off_cloud, alone.arms[arm].off_cloud)
            torch.testing.assert_close(found.arms[arm].cost, alone.arms[arm].cost, atol=1e-3, rtol=1e-3)
