"""Heads: direct effects against the stream's own arithmetic, patching against one run per head, attention held or read."""

import pytest
import torch
from families import FAMILIES
from labelled import labelled

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.methods._lib.answers import answer_diffs
from residscope.methods.heads.head_roles import head_roles
from residscope.methods.patching.mediation import hold, mediated
from residscope.methods.probes.downstream import downstream, later_heads


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_direct_effect_is_what_the_head_adds_to_the_answers(family):
    """A head's direct effect is what leaves the stream's end without it, read as the final norm reads it."""
    model = Model(FAMILIES[family].build(), name=family)
    data = labelled(6)
    found = head_roles(model, data, prompts=1).direct
    last = f"resid_post.{model.n_layers - 1}"
    for layer, head in ((0, 1), (model.n_layers - 1, 0)):
        told = []
        for i, (right, wrong) in enumerate(data.answers):
            alone = data.subset([i])
            read = rs.directions.logit_diff(model, right, wrong, before_cap=True).read.double()
            plain = model.run(alone, ["attn_out", last, "final_scale"])
            norms = [edits.freeze("norms"), edits.ablate(f"z.{layer}", head=head, pos=-1)]
            without = model.run(alone, ["attn_out"], edits=norms)
            write = (plain[f"attn_out.{layer}"] - without[f"attn_out.{layer}"])[0, -1].double()
            told.append(float(write @ read / plain["final_scale"][0, -1, 0]))
        assert float(found.values[layer, head]) == pytest.approx(sum(told) / 6, abs=1e-4)
    assert found.values.abs().max() > 1e-2


def test_patching_is_one_run_per_head(llama):
    data = labelled(5, ragged=False)
    roles = head_roles(llama, data, prompts=5)
    corrupted = llama.run(rs.PromptSet(data.corrupted), ["z"])
    m = rs.logit_diff()
    clean = m(llama.run(data, ["logits"]))
    for layer, head in ((0, 1), (2, 3)):
        site = f"z.{layer}"
        run = llama.run(data, ["logits"], edits=edits.patch(site, {site: corrupted[site]}, head=head, pos=-1))
        assert float(roles.patched.values[layer, head]) == pytest.approx(float((m(run) - clean).mean()), abs=1e-4)
    assert roles.patched.values.abs().max() > 1e-3
    attention = llama.run(data)["pattern.2"][:, :, -1, 2].mean(0)
    torch.testing.assert_close(roles.attention.values[1, 2].double(), attention, atol=1e-5, rtol=1e-5)
    assert len(roles.view().views) == 2


def test_roles_need_partners(llama):
    data = labelled(4)
    with pytest.raises(errors.MissingLabel, match="partners"):
        head_roles(llama, rs.PromptSet(data.prompts, answers=data.answers, positions=data.positions))


@pytest.fixture(scope="module")
def probed(llama):
    train, test = labelled(80).split(0.5, by="parity")
    probe = rs.fit_probe(llama, train, held_out=test, site="resid_pre.1", position="P", label="parity", Cs=(0.01,))
    return probe, train, test


def test_holding_attention(llama, probed):
    probe, _, test = probed
    edit = rs.lrqp(probe, to="other")
    groups = {"some": [(2, 1), (3, 0)], "all": [(layer, head) for layer in range(1, 4) for head in range(4)]}
    found = mediated(llama, test, [edit], groups, draws=0)
    plain = answer_diffs(llama, test, [[], [edit]])
    assert torch.equal(found.clean, plain[0])
    assert torch.equal(found.edited, plain[1])
    for i in (0, 17):  # what is held is what the unedited run has there
        alone, (right, wrong) = test.subset([i]), test.answers[i]
        for name, heads in groups.items():
            logits = llama.run(alone, ["logits"], edits=[edit, *hold(heads)]).logits[0, -1]
            assert float(logits[right] - logits[wrong]) == pytest.approx(float(found.held[name][i]), abs=1e-4)
    # without an edit there is nothing to hold back
    torch.testing.assert_close(answer_diffs(llama, test, [hold(groups["all"])])[0], plain[0], atol=1e-5, rtol=1e-5)
    for i, held in enumerate(found.held.values()):
        share = 1 - (held - found.clean).double().mean() / (found.edited - found.clean).double().mean()
        assert float(found.through.values[i]) == pytest.approx(float(share), rel=1e-6)
        assert found.through.low[i] < share < found.through.high[i]
    assert abs(float(found.through.values[1])) > 1e-3


def test_random_heads_are_others_above_the_edit(llama, probed):
    probe, _, test = probed
    found = mediated(llama, test.subset(range(6)), [rs.lrqp(probe, to="other")], {"some": [(2, 1)]}, draws=9)
    drawn = found.provenance["random draws"]
    assert len({heads[0] for heads in drawn}) > 3
    assert all(len(heads) == 1 and heads != ["2.1"] and heads[0][0] in "23" for heads in drawn)
    with pytest.raises(errors.BadEdit, match="without heads"):
        mediated(llama, test, [rs.lrqp(probe, to="other")], {"none": []})


def test_an_edit_over_later_heads_is_downstream_in_three_arms(llama, probed):
    """An edit of one prompt, as the page has it: each arm sets its own, as strong, at the probe's named position."""
    probe, train, test = probed
    strong = {"log_alpha": 4.0}
    arms = {"clean": [], "control": [rs.lrqp(probe, "true", **strong)], "counterfactual": [rs.lrqp(probe, **strong)]}
    heads = {"readers": [(2, 1)], "movers": {"movers": [(3, 0)]}}
    expected = downstream(llama, train, test, arms, label="parity", **heads)
    edit = rs.lrqp(probe, "0", pos=0, **strong)
    found = later_heads(llama, train, test, [edit], label="parity", readers={"any": [(2, 1)]}, movers=heads["movers"])
    assert found.reports == expected.reports
    assert found.attention["movers"] == expected.attention["movers"]
    reports = found.reports.values[0]
    assert reports[0] != reports[2], "the edit is seen there, or nothing is compared"
    with pytest.raises(errors.BadEdit, match="made from one"):
        later_heads(
            llama, train, test, [edits.ablate("z.0")], label="parity", readers={"a": [(2, 1)]}, movers=heads["movers"]
        )


def test_downstream_reads_the_runs_own_values(llama, probed):
    probe, train, test = probed
    arms = {"clean": [], "counterfactual": [rs.lrqp(probe, to="other")]}
    readers, movers = [(2, 1)], {"movers": [(3, 0), (2, 2)]}
    found = downstream(llama, train, test, arms, label="parity", readers=readers, movers=movers)
    own = found.probes[2, 1]
    assert float(found.reports.values[0, 0]) == pytest.approx(own.accuracy)
    z, looked = [], []
    for i in range(len(test)):
        run = llama.run(test.subset([i]), ["z.2", "pattern.3"], edits=arms["counterfactual"])
        z.append(run["z.2"][0, -1, 1])
        looked.append(run["pattern.3"][0, 0, -1, test.at("S2")[i]])
    right = own.log_prob(torch.stack(z)).argmax(1) == own.indices(test.label("parity"))
    assert float(found.reports.values[0, 1]) == pytest.approx(float(right.float().mean()), abs=0.03)
    attention = found.attention["movers"].select(head="3.0", arm="counterfactual", to="S2").values
    torch.testing.assert_close(attention.double(), torch.stack(looked), atol=1e-5, rtol=1e-5)
    clean = found.attention["movers"].select(head="3.0", arm="clean", to="S2").values
    assert (attention - clean).abs().max() > 1e-4
    assert len(found.looks("movers", arms=("clean", "counterfactual")).views) == 2
    assert [line.name for line in found.beliefs().lines] == ["clean", "counterfactual"]
