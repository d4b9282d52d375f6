"""LRQP: the dual against a quadratic programme of the whole width, its closed form, and what must be refused."""

import sys
from dataclasses import replace

import pytest
import torch
from clouds import cloud, fitted

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.probes.lrqp import random_control
from residscope.probes.lrqp_dual import greatest, multipliers
from residscope.probes.lrqp_qp import by_quadratic_programme
from tiny_models import tiny_llama


def random_problem(seed, d=10):
    drawn = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=drawn, dtype=torch.float64)  # noqa: E731
    A, m = draw(d, d), 1 + seed % 5
    sigma = A @ A.T / d + 0.1 * torch.eye(d, dtype=torch.float64)
    return draw(d), draw(m, d), 2 * draw(m), sigma


def dual(x0, G, h, sigma):
    found, solved = multipliers((G @ sigma @ G.T)[None], (h - G @ x0)[None])
    assert solved.all()
    return x0 + sigma @ G.T @ found[0], found[0]


def objective(x, x0, sigma):
    return float((x - x0) @ torch.linalg.solve(sigma, x - x0))


def test_the_dual_is_the_quadratic_programme_of_a_thousand_problems():
    free, several = 0, 0
    for seed in range(1000):
        x0, G, h, sigma = random_problem(seed)
        x, found = dual(x0, G, h, sigma)
        assert (G @ x >= h - 1e-9).all()
        reference = by_quadratic_programme(x0, G, h, sigma)
        a, b = objective(x, x0, sigma), objective(reference, x0, sigma)
        assert a == pytest.approx(b, rel=1e-5, abs=1e-9), seed
        free, several = free + (a == 0), several + (int((found > 0).sum()) > 1)
        if len(h) == 1:
            closed = x0 + sigma @ G[0] * max(0.0, float(h[0] - G[0] @ x0)) / (G[0] @ sigma @ G[0])
            torch.testing.assert_close(x, closed, rtol=1e-12, atol=1e-12)
    assert 100 < free < 900
    assert several > 200


def test_any_other_point_that_satisfies_the_constraints_costs_more():
    for seed in range(200):
        x0, G, h, sigma = random_problem(seed)
        x, _ = dual(x0, G, h, sigma)
        for nearby in x + 0.1 * torch.randn(50, len(x), generator=torch.Generator().manual_seed(seed)).double():
            if (G @ nearby >= h).all():
                assert objective(nearby, x0, sigma) >= objective(x, x0, sigma) - 1e-9


def test_pivoting_agrees_with_trying_every_set(monkeypatch):
    problems = [random_problem(seed) for seed in range(4, 400, 5)]
    M = torch.stack([G @ sigma @ G.T for _, G, _, sigma in problems])
    r = torch.stack([h - G @ x0 for x0, G, h, _ in problems])
    tried, _ = multipliers(M, r)
    monkeypatch.setattr("residscope.probes.lrqp_dual.ENUMERATED", 0)
    pivoted, solved = multipliers(M, r)
    assert solved.all()
    torch.testing.assert_close(pivoted, tried, rtol=1e-9, atol=1e-9)


def test_many_classes():
    """Twenty classes: beyond what is enumerated; checked by the conditions of the optimum."""
    probe = fitted(20, n=400, d=30)
    x, _ = cloud(20, 200, 30, seed=9)
    target = torch.arange(200) % 20
    moved = rs.lrqp(probe, to="true", alpha=20.0).solve(x, target)
    logp = probe.log_prob(moved.x)
    assert (logp.gather(1, target[:, None]) - logp.scatter(1, target[:, None], -torch.inf) >= 2.9957 - 1e-7).all()
    assert (moved.multipliers >= 0).all()
    assert (moved.cost > 0).any()


def test_the_probe_reads_what_it_was_told_to_and_no_more():
    probe = fitted(gap=1.0)
    x, labels = cloud(n=80, gap=1.0, seed=3)
    true = probe.indices(labels)
    edit = rs.lrqp(probe, alpha=100.0)
    moved = edit.solve(x, 1 - true, true)
    odds = probe.direction("c1", "c0").project(moved.x) * (1 - 2 * true)
    before = probe.direction("c1", "c0").project(x) * (1 - 2 * true)
    bound = torch.tensor(100.0).double().log()
    torch.testing.assert_close(odds, before.clamp_min(bound), rtol=1e-9, atol=1e-9)
    assert (before < bound).sum() > 40
    stayed = before >= bound
    assert torch.equal(moved.x[stayed], x[stayed])
    # negative control: as far along another direction does not do it
    control = random_control(edit, probe, seed=1).moved(x, 1 - true, true)
    length = torch.linalg.solve(probe.covariance, (control - x).T).T.mul(control - x).sum(1).sqrt()
    torch.testing.assert_close(length, moved.cost, rtol=1e-8, atol=1e-8)
    reached = probe.direction("c1", "c0").project(control) * (1 - 2 * true) >= bound - 1e-9
    assert float(reached.double().mean()) < 0.5


def test_alpha_of_the_seed_mirrors_the_odds():
    probe = fitted(gap=4.0, Cs=(1.0,))
    probe = replace(probe, weights=probe.weights * 20, bias=probe.bias * 20)
    x, labels = cloud(n=60, gap=4.0)
    true = probe.indices(labels)
    odds = probe.direction("c1", "c0").project
    sign = 1 - 2 * true
    moved = rs.lrqp(probe).solve(x, 1 - true, true)
    expected = (-odds(x) * sign).clamp_min(10.0)  # as sure of the other class as it was of its own
    torch.testing.assert_close((odds(moved.x) * sign), expected, rtol=1e-8, atol=1e-8)
    assert (expected > 10).any()
    kept = rs.lrqp(probe).solve(x, true, true)
    assert (kept.cost == 0).any()
    assert (odds(kept.x) * -sign >= 10 - 1e-8).all()


def test_alpha_as_a_quantile_of_the_target_class():
    probe = fitted(3, gap=1.0)
    x, _ = cloud(3, 30, gap=1.0, seed=8)
    target = torch.full((30,), 2)
    weak, strong = (rs.lrqp(probe, to="c2", quantile=q).solve(x, target) for q in (0.1, 0.9))
    assert (strong.cost >= weak.cost - 1e-12).all()
    logp = probe.log_prob(weak.x)
    for other in (0, 1):
        assert (logp[:, 2] - logp[:, other] >= probe.log_odds[2, other, 10] - 1e-8).all()


def ordinal():
    """Three classes along one line: the middle one is never likelier than both others by much."""
    probe = fitted(3, gap=1.0)
    a = probe.weights[2]
    return replace(probe, weights=torch.stack([-a, 0 * a, a]), bias=torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_an_unreachable_target_says_what_is_reachable():
    probe = ordinal()
    x, _ = cloud(3, 10, seed=2)
    middle, end = torch.ones(10, dtype=torch.long), torch.full((10,), 2)
    with pytest.raises(errors.Unreachable, match=r"read c1 .*e\^2\..*alpha up to e\^1\."):
        rs.lrqp(probe, to="c1", alpha=7.5).solve(x, middle)
    reachable = rs.lrqp(probe, to="c1", alpha=2.7).solve(x, middle)
    assert (probe.log_prob(reachable.x).argmax(1) == 1).all()
    assert (probe.log_prob(rs.lrqp(probe, to="c2", alpha=1e6).solve(x, end).x).argmax(1) == 2).all()
    M = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert greatest(M, torch.tensor([3.0, -1.0], dtype=torch.float64)) == pytest.approx(1.0)
    assert greatest(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)) == float("inf")


def test_a_singular_covariance_is_refused():
    probe = fitted()
    flat = torch.zeros_like(probe.covariance)
    with pytest.raises(errors.SingularCovariance, match=r"resid_pre\.2, END do not vary"):
        rs.lrqp(probe, covariance=flat)
    normal = probe.weights[1] / probe.weights[1].norm()
    blind = torch.eye(8, dtype=torch.float64) - torch.outer(normal, normal)
    with pytest.raises(errors.SingularCovariance):
        rs.lrqp(probe, covariance=blind)
    rs.lrqp(probe, covariance=blind + 1e-3 * torch.outer(normal, normal))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"to": "c7"}, "true, neutral, other, c0, c1"), ({"to": ["c0", "north"]}, "north"), ({"alpha": -1.0}, "over 0"),
     ({"alpha": "sure"}, "seed"), ({"quantile": 1.5}, "0 to 1"), ({"covariance": "none"}, "within")],
)  # fmt: skip
def test_what_does_not_parse(options, words):
    with pytest.raises(errors.BadEdit, match=words):
        rs.lrqp(fitted(), **options)


# ── as an edit of a run ─────────────────────────────────────────────────────────────────────────────────────────


def prompts(model, n=24, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    rows = tuple(tuple(torch.randint(2, 97, (5 + i % 4,), generator=drawn).tolist()) for i in range(n))
    at = tuple(2 + i % 3 for i in range(n))
    labels = {"parity": tuple(row[p] % 2 for row, p in zip(rows, at, strict=True))}
    return rs.PromptSet(rows, labels=labels, positions={"P": at, "END": tuple(len(row) - 1 for row in rows)})


@pytest.fixture(params=["llama", "gpt2"], scope="module")
def probed(request):
    model = request.getfixturevalue(request.param)
    data = prompts(model, 120)
    return model, data, rs.fit_probe(model, data, site="resid_mid.2", position="P", label="parity")


def test_the_edit_moves_the_named_position_of_each_prompt_and_nothing_else(probed):
    model, data, probe = probed
    few = data.subset(range(12))
    plain = model.run(few, ["resid_mid.2"])["resid_mid.2"]
    run = model.run(few, ["resid_mid.2", "logits"], edits=rs.lrqp(probe, to="other"))
    after, true = run["resid_mid.2"], probe.indices(few.label("parity"))
    rows, at = torch.arange(12), torch.tensor(few.at("P"))
    reads = probe.log_prob(after[rows, at])
    assert (reads.argmax(1) == 1 - true).all()
    assert (reads[rows, 1 - true] - reads[rows, true] >= 10 - 1e-6).all()
    elsewhere = torch.ones_like(after[..., 0], dtype=torch.bool)
    elsewhere[rows, at] = False
    assert torch.equal(after[elsewhere], plain[elsewhere])
    # one row alone, and the same through a window, give the same numbers
    alone = model.run(few.subset([7]), ["logits"], edits=rs.lrqp(probe, to="other"))
    n = len(few.prompts[7])
    torch.testing.assert_close(alone.logits[0, :n], run.logits[7, :n], atol=1e-9, rtol=1e-9)
    window = rs.Window(model.run(few), start=2, pos=2)
    late = model.run(few, ["logits"], edits=rs.lrqp(probe, to="other"), window=window)
    torch.testing.assert_close(late.logits, run.logits[:, 2:], atol=1e-6, rtol=1e-6)


def test_one_target_for_each_prompt_and_a_live_prompt(probed):
    model, data, probe = probed
    few = data.subset(range(4))
    mixed = rs.lrqp(probe, to=["0", "1", "true", "neutral"])
    run = model.run(few, ["resid_mid.2"], edits=mixed)["resid_mid.2"]
    reads = probe.log_prob(run[torch.arange(4), list(few.at("P"))])
    assert reads.argmax(1)[:3].tolist() == [0, 1, probe.indices(few.label("parity"))[2]]
    torch.testing.assert_close(reads[3], probe.log_prob(probe.mean), atol=1e-9, rtol=1e-9)
    live = model.run(list(data.prompts[0]), ["resid_mid.2"], edits=rs.lrqp(probe, to="1", pos=-1))["resid_mid.2"]
    assert int(probe.log_prob(live[0, -1]).argmax()) == 1
    with pytest.raises(errors.BadEdit, match=r"other prompts|number of entries"):
        model.run(data.subset(range(5)), edits=mixed)
    bound = rs.lrqp(probe).on(few)
    with pytest.raises(errors.BadEdit, match="other prompts"):
        model.run(data.subset(range(5)), edits=bound)
    half = bound.take([1, 3])
    a = model.run(few.subset([1, 3]), ["logits"], edits=half).logits
    torch.testing.assert_close(a, model.run(few.subset([1, 3]), ["logits"], edits=rs.lrqp(probe)).logits)


def test_json_there_and_back(probed):
    model, data, probe = probed
    few = data.subset(range(5))
    for edit in (
        rs.lrqp(probe),
        rs.lrqp(probe, to=["0", "1", "other", "true", "0"], alpha=3.0).on(few),
        rs.concepts.leace(probe),
    ):
        text = edits.to_json([edit])
        (back,) = edits.from_json(text)
        assert edits.to_json([back]) == text
        assert back.label == edit.label
        assert torch.equal(model.run(few, edits=back).logits, model.run(few, edits=edit).logits)


def test_prompts_it_cannot_act_on(probed):
    model, data, probe = probed
    ids = list(data.prompts[0])
    with pytest.raises(errors.BadEdit, match="where P stands"):
        model.run(ids, edits=rs.lrqp(probe, to="1"))
    with pytest.raises(errors.MissingLabel, match="say a class"):
        model.run(ids, edits=rs.lrqp(probe, to="other", pos=1))
    with pytest.raises(errors.UnknownPosition, match="pos=99"):
        model.run(ids, edits=rs.lrqp(probe, to="1", pos=99))
    nameless = rs.PromptSet(data.prompts[:2], positions={"P": (1, None)})
    with pytest.raises(errors.UnknownPosition, match="1 of 2 prompts lack the position P"):
        model.run(nameless, edits=rs.lrqp(probe, to="1"))
    with pytest.raises(errors.MissingLabel, match="no parity"):
        model.run(rs.PromptSet(data.prompts[:1], positions={"P": (1,)}), edits=rs.lrqp(probe))
    with pytest.raises(errors.WrongModel):
        rs.lrqp(replace(probe, provenance={"model": "a"}), to="1", pos=1).prepare(Model(tiny_llama(), hash="b"))


def test_a_head_of_z(llama):
    data = prompts(llama, 120)
    probe = rs.fit_probe(llama, data, site="z.1", head=2, position="P", label="parity")
    few = data.subset(range(6))
    plain, run = (llama.run(few, ["z.1"], edits=e)["z.1"] for e in ((), rs.lrqp(probe)))
    rows, at = torch.arange(6), torch.tensor(few.at("P"))
    assert (probe.log_prob(run[rows, at, 2]).argmax(1) != probe.indices(few.label("parity"))).all()
    assert torch.equal(run[:, :, [0, 1, 3]], plain[:, :, [0, 1, 3]])


def test_the_seeds_route_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "qpsolvers", None)
    x0, G, h, sigma = random_problem(0)
    with pytest.raises(errors.MissingExtra, match=r"residscope\[qp\]"):
        by_quadratic_programme(x0, G, h, sigma)


@pytest.mark.filterwarnings("ignore:OSQP exited")
def test_the_seeds_route_refuses_what_cannot_be():
    x0, G, _, sigma = random_problem(0)
    both = torch.cat([G[:1], -G[:1]])
    with pytest.raises(errors.Unreachable):
        by_quadratic_programme(x0, both, torch.ones(2).double(), sigma)


def test_while_generating_the_prompts_own_position_is_edited(probed):
    model, data, probe = probed
    few = data.subset([3])
    row, at = list(few.prompts[0]), few.at("P")[0]
    strong = rs.lrqp(probe, to="other", alpha=1e30)
    same = rs.lrqp(probe, to=str(1 - int(few.label("parity")[0])), alpha=1e30, pos=at)
    tokens = [token.id for token in model.generate(few, edits=strong, max_new_tokens=4)]
    assert tokens == [token.id for token in model.generate(row, edits=same, max_new_tokens=4)]
    for step, token in enumerate(tokens):
        logits = model.run([*row, *tokens[:step]], ["logits"], edits=same).logits
        assert int(logits[0, -1].argmax()) == token
