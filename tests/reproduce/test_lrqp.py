"""`residscope reproduce lrqp --quick` on SmolLM2: a whole page, and verdicts that follow the numbers rather than the hopes."""

import sys
from dataclasses import replace

import pytest
import torch

import residscope as rs
from residscope.cli.app import main
from residscope.methods.probes.intervention import Arm
from residscope.reproduce.lrqp import study as lrqp
from residscope.reproduce.lrqp.claims import _ranges, cards
from residscope.reproduce.lrqp.page import page
from residscope.results import Result


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the command printed and wrote, and the study behind it."""
    with pytest.MonkeyPatch.context() as patched:
        kept = []
        whole = lrqp.lrqp_study
        patched.setattr(lrqp, "lrqp_study", lambda *a, **k: kept.append(whole(*a, **k)) or kept[0])
        patched.setattr(torch, "set_num_threads", lambda n: None)
        out = tmp_path_factory.mktemp("reproduce") / "page.html"
        patched.setattr(sys, "argv", ["residscope", "reproduce", "lrqp", "--quick", "--out", str(out)])
        with pytest.raises(SystemExit) as left:
            main()
    assert not left.value.code
    return kept[0], out.read_text()


def verdicts(study):
    return {card.title: card.verdict for card in cards(study)}


def one(study, words):
    return next(card for card in cards(study) if words in card.title)


def test_the_page_holds_every_figure(told):
    study, html = told
    kinds = [view.kind for view in page(study)]
    assert kinds.count("grid") >= 6
    for words in ("ABBA and BABA", "singular vectors", "hugs y = x", "S-inhibition", "Methods side by side", "gendered pronouns",
                  "Provenance", "clean", "counterfactual", "What the probe's C does", "quantile 0.5"):  # fmt: skip
        assert words in html, words
    assert len(html) < 3_000_000
    assert study.provenance["held out"] == 20
    assert study.provenance["hash"] == rs.load("smollm2-135m").hash


def test_smollm2_knows_the_order_and_one_head_carries_it(told):
    study, _ = told
    assert one(study, "all but perfectly").verdict == "passed"
    assert study.roles.s_inhibition[0] == (20, 0)  # looks from END at S2; patching it moves the name movers' attention
    assert float(study.roles.attention.values[2, 20, 0]) > 0.5
    assert (24, 4) in study.roles.negative
    assert study.best == 18
    best = study.lrqp[18]
    assert best.flips().rate > 0.4
    assert best.flips("random direction").flipped == 0
    assert study.lrqp[27].flips().flipped == 0  # read as well, and too late


def test_c_is_said_beside_the_flip_rate_and_the_stream_before_a_block_beside_the_one_within(told):
    study, _ = told
    flips = one(study, "flips the answer").fields
    assert "the upper end of the grid" in flips["the probe's C"]
    free = study.beside["resid_mid", "LRQP, quantile 0.5"][18]
    assert f"{free.rate:.1%} of {free.right}" in flips["flips with quantile 0.5 instead, which no C decides"]
    like = one(study, "like with like")
    assert "20.0, which reads resid_pre.20" in like.fields["the reader"]
    before = study.beside["resid_pre", "LRQP"][18]
    assert f"18: {before.rate:.1%}" in like.fields["LRQP at resid_pre"]
    assert "resid_mid.20 is past the read" in like.note
    rates = study.over_c
    assert rates.coords["site"] == ("resid_pre.18", "resid_mid.18")
    assert rates.coords["C"] == (1e-3, 1.0)
    assert one(study, "is the probe's C").verdict is None
    assert study.provenance["C"]["resid_mid.18"] == 100
    assert study.provenance["C at an end of the grid"]["resid_mid.18"] == "upper"
    rows = {(row.name, row.site) for row in study.methods}
    assert ("LRQP, quantile 0.5", "resid_mid.18") in rows


def test_a_claim_that_does_not_hold_is_said_to_fail(told):
    study, _ = told
    best = study.lrqp[study.best]
    still = replace(best, arms={**best.arms, "counterfactual": best.arms["clean"]})
    assert one(replace(study, lrqp={**study.lrqp, study.best: still}), "flips the answer").verdict == "failed"
    clean = best.arms["clean"]
    sure = Arm(torch.full_like(clean.diff, -2.0), clean.kl, clean.mass, clean.cost, clean.off_cloud)
    long = {name: Arm(*(getattr(arm, f).repeat(9) for f in ("diff", "kl", "mass", "cost", "off_cloud")))
            for name, arm in ({**best.arms, "counterfactual": sure}).items()}  # fmt: skip
    flipped = replace(study, lrqp={**study.lrqp, study.best: replace(best, arms=long)})
    assert one(flipped, "flips the answer").verdict == "passed"
    broken = {**long, "random direction": long["counterfactual"]}
    random_too = replace(study, lrqp={**study.lrqp, study.best: replace(best, arms=broken)})
    assert one(random_too, "flips the answer").verdict == "failed"
    shaken = {**best.arms, "control": best.arms["counterfactual"]}
    assert one(replace(study, lrqp={**study.lrqp, study.best: replace(best, arms=shaken)}), "hugs").verdict == "failed"


def test_what_the_heads_report_decides(told):
    study, _ = told
    reports = study.downstream.reports
    values = torch.tensor([[1.0, 1.0, 0.0]] * reports.sizes["head"])
    coords = {name: reports.coords[name] for name in ("head", "arm")}
    for counterfactual, verdict in ((0.0, "passed"), (1.0, "failed")):
        values[:, 2] = counterfactual
        found = replace(study.downstream, reports=Result(values, ("head", "arm"), coords))
        assert one(replace(study, downstream=found), "injected belief").verdict == verdict


def test_no_mediation_without_heads(told):
    study, _ = told
    assert len(cards(replace(study, mediation=None))) == len(cards(study)) - 1


def test_ranges():
    assert _ranges([3, 5, 6, 7]) == "3, 5-7"
    assert _ranges([]) == "none"
