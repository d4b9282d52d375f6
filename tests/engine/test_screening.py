"""Screening: no cell is left as an estimate without evidence of its own, and what may be wrong with the rest is bounded."""

from itertools import product
from math import comb

import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.engine.planner import Sweep, evidence, screening
from residscope.engine.planner.audit import how_many, most_over
from residscope.engine.planner.evidence import Ask, CellEvidence
from residscope.engine.planner.first_order import first_order
from residscope.methods._lib.cells import _chains, grid
from tiny_models import IOI, VOCAB

WAYS = ("bfloat16", "gradient", "neighbours")
METRIC = rs.logit_diff(5, 7)


def random_pair(seed, length=10):
    ids = torch.randint(2, VOCAB, (2, length), generator=torch.Generator().manual_seed(seed))
    return ids[:1], ids[1:]


# ── the audit's arithmetic ──────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.data())
def test_the_bound_is_the_largest_number_that_drawing_none_does_not_rule_out(sizes, data):
    drawn = [data.draw(st.integers(0, n)) for n in sizes]
    possible = [
        sum(split)
        for split in product(*(range(n + 1) for n in sizes))
        if all(k <= N - n for k, N, n in zip(split, sizes, drawn, strict=True))
        and _p_none(sizes, drawn, split) > 0.05 + 1e-12
    ]
    assert most_over(sizes, drawn) == max(possible)


def _p_none(sizes, drawn, split):
    p = 1.0
    for N, n, K in zip(sizes, drawn, split, strict=True):
        p *= comb(N - K, n) / comb(N, n)
    return p


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=4), st.data(), st.sampled_from([0.0, 0.02, 0.05, 0.2]))
def test_enough_are_drawn_that_a_share_of_the_others_is_the_most(sizes, data, miss):
    near = [data.draw(st.booleans()) for _ in sizes]
    drawn = how_many(near, sizes, least=0.05, miss=miss)
    assert all(0 <= n <= N for n, N in zip(drawn, sizes, strict=True))
    assert most_over(sizes, drawn) <= miss * (sum(sizes) - sum(drawn))
    assert sum(drawn) >= 0.05 * sum(sizes)


# ── whatever the evidence says ──────────────────────────────────────────────────────────────────────────────────


class Told(Sweep):
    """A sweep that is told its numbers: what the screen makes of them costs nothing to repeat."""

    def __init__(self, model, values, which=None):
        self.model, self.readout, self.batch = model, METRIC, model.batch([[2, 3, 4]])
        self.whole, self.cells = values, [*range(len(values))] if which is None else which

    def of(self, cells, *, model=None):
        return Told(self.model, self.whole, cells)

    passes = 1

    def unchanged(self):
        return torch.zeros(1).double(), torch.zeros(len(self.cells), 1, dtype=torch.bool)

    def run(self, progress=None, cancel=None, *, what=""):
        return rs.Result(self.whole[self.cells][:, None], ("cell", "prompt"))

    @property
    def labels(self):
        return tuple(map(str, self.cells))


CELLS, LARGE = 400, 60


@pytest.fixture(scope="module")
def true():
    """Effects, of which the first 60 are over one."""
    drawn = torch.rand(CELLS, generator=torch.Generator().manual_seed(0)).double()
    return torch.cat([1 + 3 * drawn[:LARGE], 0.9 * drawn[LARGE:] ** 2])


def screened(llama, monkeypatch, true, told, **how):
    """The sweep screened by evidence that tells these effects: what is known exactly, and what the audit says."""
    effect = told[:, None]
    none = torch.zeros(CELLS, dtype=torch.bool)
    monkeypatch.setitem(
        screening.WAYS, "gradient", lambda ask: CellEvidence(effect, effect.abs(), none, (), "a tale", 1)
    )
    found = rs.screened(Told(llama, true), 20.0, by="gradient", **how)
    known = torch.tensor([k == "exact" for k in found.coords["known"]])
    assert torch.equal(found.values[known, 0], true[known])
    assert torch.equal(found.values[~known, 0], told[~known])
    return found, known, found.provenance["audit"]


@pytest.mark.parametrize("lies", [1, 14, 40])
def test_evidence_that_lies_makes_the_audit_fail_or_is_covered_by_its_bound(llama, true, monkeypatch, lies):
    """95 % confidence, over 100 draws: more is wrong than the bound says at most as often as chance allows."""
    told = true.clone()
    told[:lies] = 0.0
    failed = uncovered = 0
    for seed in range(100):
        found, known, audit = screened(llama, monkeypatch, true, told, seed=seed)
        wrong = int((~known & (true >= 1)).sum())
        failed += audit["failed"]
        uncovered += wrong > audit["at most over"]
        if audit["failed"]:
            assert known.all()
            assert "audit failed" in found.exact
            assert audit["missed"] > 0
        else:
            assert wrong == lies
            assert audit["missed"] == 0
            assert f"at most {audit['at most over']} of" in found.exact
            assert audit["at most over"] <= 0.05 * int((~known).sum())
    assert uncovered <= 12  # of 100 at 5 %, more than 12 come once in 700
    assert failed >= {1: 5, 14: 85, 40: 98}[lies]  # many lies are nearly always found out


def test_lies_near_the_threshold_are_found_before_the_audit(llama, true, monkeypatch):
    """Evidence of a quarter of the truth: cells next below the threshold prove to be over it, so further ones are run."""
    _, known, audit = screened(llama, monkeypatch, true, true / 4)
    assert known[true >= 1].all()
    assert not known.all()
    assert not audit["failed"]


def test_what_is_no_number_is_no_evidence(llama, true, monkeypatch):
    told = torch.where(torch.arange(CELLS) % 2 == 0, float("nan"), true)
    _, known, _ = screened(llama, monkeypatch, true, told)
    assert known[::2].all()


def test_true_evidence_leaves_most_as_estimates_and_all_that_matters_exact(llama, true, monkeypatch):
    _, known, audit = screened(llama, monkeypatch, true, true)
    assert known[true >= 1].all()
    assert int((~known).sum()) > 150
    assert not audit["failed"]
    _, known, audit = screened(llama, monkeypatch, true, true, miss=0.0)
    assert known.double().mean() > 0.95
    assert audit["at most over"] == 0


# ── on models ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma2", "phi"])
@pytest.mark.parametrize("by", WAYS)
def test_cells_over_the_threshold_are_exact_or_within_the_bound(family, by):
    """Random pairs, sites of every sort: nothing over 5 % of the gap is left, but for what the label allows."""
    model = Model(FAMILIES[family].build(), name=family)
    for seed, site in enumerate(["resid_pre", "z", "attn_out", "mlp_out", "pattern"]):
        clean, corrupted = random_pair(seed)
        mode = "noise" if seed % 2 else "denoise"
        exact = rs.activation_patching(model, clean, corrupted, METRIC, site=site, mode=mode)
        found = rs.activation_patching(model, clean, corrupted, METRIC, site=site, mode=mode, screen=by)
        low, high = (exact.provenance[end][0] for end in ("corrupted", "clean"))
        effect = (exact.values.flatten() - (high if mode == "noise" else low)).abs()
        known = torch.tensor([k == "exact" for k in found.provenance["known"]])
        wrong = int(((effect >= 0.05 * abs(high - low)) & ~known).sum())
        assert wrong <= found.provenance["audit"]["at most over"]
        torch.testing.assert_close(found.values.flatten()[known], exact.values.flatten()[known], atol=4e-6, rtol=4e-6)
        assert f"estimated by {by}" in found.exact


@pytest.mark.parametrize("site", ["z", "attn_out", "mlp_out", "pattern", "mlp_post", "q"])
def test_nothing_stands_between_the_layers_of_a_site_that_is_not_the_stream(llama, site):
    clean, _ = random_pair(0)
    assert _chains(grid(llama, site, layers=None, positions=None, tokens=llama.batch(clean))) == []


def test_the_stream_is_interpolated_between_neighbouring_layers_alone(llama):
    clean, _ = random_pair(0)
    for site in ("resid_pre", "resid_mid", "resid_post"):
        cells = grid(llama, site, layers=[0, 1, 3], positions=[0, 4], tokens=llama.batch(clean))
        assert sorted(_chains(cells)) == [[0, 2], [1, 3], [4], [5]]


@pytest.mark.parametrize("by", ["bfloat16", "neighbours"])
def test_a_cell_between_two_has_evidence_of_its_own(llama, by):
    """One chain through cells that have nothing to do with each other: a line between two says nothing of those between."""
    clean, corrupted = random_pair(3)
    z, stream = llama.run(clean, ["z"]), llama.run(clean)
    cells = [edits.patch(f"z.{la}", z, head=h) for la in range(4) for h in range(4)]
    cells += [edits.patch(f"resid_pre.{la}", stream, pos=p) for la in range(2) for p in range(10)]
    plan = rs.sweep(llama, corrupted, cells, METRIC)
    active = torch.ones(36, dtype=torch.bool)
    found = evidence.WAYS[by](Ask(plan, plan.baseline(), active, [range(36)], None, False, None))
    first, _ = first_order(plan, None, active)
    assert found.between.sum() > 20
    assert (found.largest[found.between] >= first[0].abs()[found.between] * (1 - 1e-9)).all()
    run = rs.screened(plan, 1e-9, by=by, chains=[range(36)])
    assert {*run.coords["known"]} == {"exact"}


def test_the_first_order_estimate_is_the_slope_of_the_exact_effect(llama):
    """Of an edit a tenth as large, the estimate's error is a hundredth."""
    ids, _ = random_pair(5)
    drawn = torch.Generator().manual_seed(0)
    for sites in (["resid_pre.1"], ["z.2"], ["mlp_out.0", "resid_mid.3"]):
        worst = []
        for size in (0.1, 0.01):
            cell = []
            for site in sites:
                width = llama.run(ids, [site])[site].shape[-1]
                move = torch.randn(width, generator=drawn.manual_seed(1)).double()
                cell.append(edits.steer(site, move, size, pos=4))
            plan = rs.sweep(llama, ids, [cell], METRIC)
            found, _ = first_order(plan, None, torch.ones(1, dtype=torch.bool))
            true = plan.run(False).values[0] - plan.baseline().cpu()
            assert float(true.abs()) > 1e-6
            worst.append(float((found[0, 0] - true).abs()))
        assert worst[1] < worst[0] / 30


def test_cells_without_a_first_order_estimate_are_run(llama):
    ids, other = random_pair(6)
    proj = llama.layout.blocks[1].attn_proj
    name = next(n for n, m in llama.hf.named_modules() if m is proj)
    d_out, d_in = proj.weight.shape
    low_rank = (torch.ones(d_in).double(), torch.full((d_out,), 0.3).double())
    cells = [[edits.overlay(name, low_rank)], [edits.path("z.0", "q.2", other)], [edits.ablate("z.1", head=2)]]
    plan = rs.sweep(llama, ids, cells, METRIC)
    found, _ = first_order(plan, None, torch.ones(3, dtype=torch.bool))
    assert found.isnan().flatten().tolist() == [True, True, False]
    screened = rs.screened(plan, 1e9, by="gradient", miss=1.0, audit=0.0)
    assert screened.coords["known"][:2] == ("exact", "exact")
    torch.testing.assert_close(screened.values[:2], plan.run(False).values[:2], atol=1e-6, rtol=1e-6)


def test_many_prompts_in_parts_have_the_estimates_of_one_batch(llama):
    rows = [torch.randint(2, VOCAB, (9,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(6)]
    data = rs.PromptSet(tuple(map(tuple, rows[:3])), answers=((5, 7), (9, 4), (3, 8)))
    source = llama.run(rows[3:], ["z"])
    cells = [edits.patch(f"z.{la}", source, head=h) for la in range(4) for h in range(4)]
    every = torch.ones(16, dtype=torch.bool)
    whole = rs.sweep(llama, data, cells, rs.logit_diff())
    donor = llama.batch(rs.PromptSet(tuple(map(tuple, rows[3:])), answers=data.answers))
    want, _ = first_order(whole, donor, every)
    parts = rs.sweep(llama, data, cells, rs.logit_diff(), memory=2 * whole.prices.bytes * 4 * 9)
    found, passes = first_order(parts, donor, every)
    assert passes == 15
    torch.testing.assert_close(found, want, atol=1e-9, rtol=1e-6)


def test_a_metric_of_a_recording_is_screened_in_bfloat16(llama):
    clean, corrupted = random_pair(8)
    metric = rs.kl(llama.run(clean, ["logits"]))
    exact = rs.activation_patching(llama, clean, corrupted, metric)
    found = rs.activation_patching(llama, clean, corrupted, metric, screen="bfloat16")
    known = torch.tensor([k == "exact" for k in found.provenance["known"]])
    torch.testing.assert_close(found.values.flatten()[known], exact.values.flatten()[known], atol=1e-6, rtol=1e-6)


def test_cells_that_change_nothing_are_exact_without_a_run(llama):
    clean, corrupted = random_pair(9)
    clean = corrupted.clone()
    clean[0, 6] = (clean[0, 6] + 1) % VOCAB
    found = rs.activation_patching(llama, clean, corrupted, METRIC, screen="gradient")
    known = torch.tensor([k == "exact" for k in found.provenance["known"]]).view(4, 10)
    assert known[:, :6].all()
    assert (found.values[:, :6] == found.values[0, 0]).all()
    assert {"screen", "exact cells"} <= found.provenance["cost"].keys()


def test_screening_refuses_what_it_cannot_do(llama, ids):
    plan = rs.sweep(llama, ids, [edits.ablate("z.1")], METRIC)
    with pytest.raises(errors.BadSweep, match="gradient"):
        rs.screened(plan, 1.0, by="guessing")
    with pytest.raises(errors.BadSweep, match="every cell once"):
        rs.screened(plan, 1.0, by="neighbours", chains=[[0, 0]])
    for gap in (0.0, float("nan"), float("inf")):
        with pytest.raises(errors.BadSweep, match="zero"):
            rs.screened(plan, gap)
    with pytest.raises(errors.BadSweep, match="audit=2"):
        rs.screened(plan, 1.0, audit=2)
    with pytest.raises(errors.BadSweep, match="token by token"):
        rs.screened(plan, 1.0, donor=[[2, 3]])

    class Two:
        sites = ("resid_pre.1",)

        def __call__(self, rec):
            return rec["resid_pre.1"][:, 0, :2]

    with pytest.raises(errors.BadSweep, match="one number a prompt"):
        rs.screened(rs.sweep(llama, ids, [edits.ablate("z.0")], Two()), 1.0)


@pytest.mark.parametrize("site", ["z", "attn_out", "mlp_out"])
def test_the_real_models_heads_and_outputs_over_the_threshold_are_exact(smollm2, site):
    """Head 23.3 is 0.58 of the gap and was interpolated to nothing from the layers beside it."""
    other = IOI.replace("store, John", "store, Mary")
    metric = rs.logit_diff(" Mary", " John")
    exact = rs.activation_patching(smollm2, IOI, other, metric, site=site, normalize=True)
    large = (exact.values.abs() >= 0.05).flatten()
    for by in WAYS:
        found = rs.activation_patching(smollm2, IOI, other, metric, site=site, normalize=True, screen=by)
        known = torch.tensor([k == "exact" for k in found.provenance["known"]])
        assert known[large].all()
        assert not known.all()
        assert "95% confidence" in found.exact
        if site == "z":
            assert float(found.values[23, 3]) == pytest.approx(0.58, abs=0.01)
