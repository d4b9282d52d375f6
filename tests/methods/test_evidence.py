"""Evidence: what is planted gets its badge, what is drawn at random does not; sweeps are plain forwards; refits are fits."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import residscope as rs
from methods.readers import TEXTS, drawn, planted_embedding, planted_readout, reader
from residscope import edits
from residscope.corpus.chunks import chunks
from residscope.errors import Cancelled, NotFitted, PromptError
from residscope.methods._lib.badges import Badge, after, preliminary, used
from residscope.methods._lib.own_tokens import own_tokens, to_stream
from residscope.methods._lib.random_like import equal_variance, step_of
from residscope.methods.evidence.dose_response import OWN
from residscope.methods.evidence.evidence import _seen, gather
from residscope.methods.evidence.stability import Blocks

PROMPTS = [text[:12] for text in TEXTS if len(text) >= 12][:8]
SMALL = {"tokens": 1200, "prompts": 8, "length": 12}


# ── stability ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_refit_is_the_fit(family: str) -> None:
    model = reader(family)
    blocks = Blocks("resid_post.1", None, 32, seed=0)
    for chunk in chunks(model, TEXTS, ["resid_post.1"], tokens=1500, length=128):
        blocks.add(chunk)
    fitted = rs.pca(model, TEXTS, "resid_post.1", 4, tokens=1500)
    again = blocks.refit(range(8), fitted[0].provenance)[:4].float()
    cosine = torch.nn.functional.cosine_similarity(again, fitted.read, dim=1)
    assert cosine.abs().min() > 0.9999
    one, other = Blocks("resid_post.1", None, 32, seed=0), Blocks("resid_post.1", None, 32, seed=0)
    for i, chunk in enumerate(chunks(model, TEXTS, ["resid_post.1"], tokens=1500)):
        (one if i % 3 else other).add(chunk)
    one.merge(other)
    for mine, theirs in zip(one.blocks, blocks.blocks, strict=True):
        torch.testing.assert_close(mine.covariance, theirs.covariance)


def test_a_strong_component_is_stable_and_a_drawn_vector_is_not() -> None:
    model, planted = planted_embedding()
    pca = rs.pca(model, TEXTS, "resid_post.1", 8, tokens=1500)
    assert abs(pca[0].cosine(planted)) > 0.9
    found = rs.stability(model, -2 * pca[0], TEXTS, tokens=1500)
    assert found.typical > 0.95
    assert set(found.matched) == {0}
    posing = replace(drawn(5), provenance=pca[0].provenance)
    assert rs.stability(model, posing, TEXTS, tokens=1500).typical < 0.8


@pytest.mark.parametrize("kind", ["standardised", "svd", "nmf"])
def test_other_fits_are_done_again_in_their_own_way(kind: str) -> None:
    model, _ = planted_embedding()
    options = {"tokens": 1500}
    if kind == "nmf":
        fitted = rs.nmf(model, TEXTS, "mlp_post.1", 10, clip=True, **options)
    elif kind == "svd":
        fitted = rs.svd(model, TEXTS, "resid_post.1", 4, **options)
    else:
        fitted = rs.pca(model, TEXTS, "resid_post.1", 4, standardise=True, **options)
    found = rs.stability(model, fitted[0], TEXTS, **options)
    assert found.typical > 0.9
    assert found.provenance["fit"] == fitted.name


def test_what_no_fit_made_is_not_refitted() -> None:
    model = reader()
    pca = rs.pca(model, TEXTS, "resid_post.3", 3, tokens=800)
    for direction in (drawn(1), rs.directions.unembedding(model, "a"), pca[0] + pca[1]):
        with pytest.raises(NotFitted, match="no fit made"):
            rs.stability(model, direction, TEXTS)


# ── steering and removal ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("site", "head", "d"), [("resid_post.1", None, 32), ("z.2", 1, 8), ("mlp_post.1", None, 48)])
def test_each_dose_is_a_plain_forward(site: str, head: int | None, d: int) -> None:
    model, direction = reader(), drawn(11, site=site, d=d, head=head)
    found = rs.dose_response(model, direction, PROMPTS, doses=(-2, 0.5, 2), random=5)
    assert found.kl.coords["dose"] == (-2.0, 0.0, 0.5, 2.0)
    base = model.run(PROMPTS, ["logits"])
    moments = _moments(model, site, head)
    step = step_of(direction, moments)
    others, _ = equal_variance(step, moments, 5, seed=0)
    tokens = own_tokens(model, direction, k=OWN)
    where = {"pos": -1} if head is None else {"pos": -1, "head": head}
    for dose, kl, own in zip((-2, 0.5, 2), found.kl.values[[0, 2, 3]], found.own.values[[0, 2, 3]], strict=True):
        edited = model.run(PROMPTS, ["logits"], edits=edits.steer(site, step, dose * float(step.norm()), **where))
        assert float(kl) == pytest.approx(float(rs.kl(base)(edited).mean()), rel=1e-4, abs=1e-6)
        change = edited.logits[:, -1] - base.logits[:, -1]
        top, bottom = tokens.ids
        assert float(own) == pytest.approx(float((change[:, top].mean(1) - change[:, bottom].mean(1)).mean()), rel=1e-4)
    edited = model.run(PROMPTS, ["logits"], edits=edits.steer(site, others[3], 2 * float(step.norm()), **where))
    assert float(found.random_kl.values[3, 3]) == pytest.approx(float(rs.kl(base)(edited).mean()), rel=1e-4, abs=1e-6)
    assert float(found.kl.values[1]) == pytest.approx(0, abs=1e-7)
    assert (found.kl.low <= found.kl.values).all()


def test_a_metric_of_one_s_own_may_be_read_instead() -> None:
    model, metric = reader(), rs.logit_diff("a", "b")
    direction = rs.directions.logit_diff(model, "a", "b")
    found = rs.dose_response(model, direction, PROMPTS, metric=metric, random=19)
    assert found.slope > 0
    assert found.rises == pytest.approx(1)
    assert found.p == 0.05, "no random direction moves a - b as much"
    against = rs.dose_response(model, -1 * direction, PROMPTS, metric=metric, random=19)
    assert against.slope < 0
    assert against.p > 0.9
    with pytest.raises(PromptError, match="read at each prompt's end"):  # it would be read at -1 without a word
        rs.dose_response(model, direction, PROMPTS, metric=rs.logit_diff("a", "b", pos=1))


def test_removal_is_a_plain_forward() -> None:
    model = reader()
    direction = rs.Direction(drawn(1).read * 2, drawn(2).read + drawn(1).read, "resid_post.1", name="slanted")
    found = rs.removal_cost(model, direction, PROMPTS, random=3)
    base = model.run(PROMPTS, ["logits", "resid_post.1"])
    moments = _moments(model, "resid_post.1", None)
    x = base["resid_post.1"]
    c = x @ direction.read - moments.mean @ direction.read
    moved = x - (c / (direction.read @ direction.write))[..., None] * direction.write
    moved[:, 0] = x[:, 0]
    edited = model.run(
        PROMPTS,
        ["logits"],
        edits=edits.clamp(
            "resid_post.1", direction, float(moments.mean @ direction.read), space="raw", pos=range(1, 12)
        ),
    )
    torch.testing.assert_close(edited["resid_post.1"], moved, rtol=1e-6, atol=1e-8)
    p, q = base.logits[:, :-1].log_softmax(-1), edited.logits[:, :-1].log_softmax(-1)
    kl, loss = (p.exp() * (p - q)).sum(-1).mean(), float((rs.loss()(edited) - rs.loss()(base)).mean())
    assert found.cost.values.tolist() == pytest.approx([float(kl), loss], rel=1e-4, abs=1e-6)
    with pytest.raises(PromptError, match="one length"):
        rs.removal_cost(model, direction, ["abcd", "abcde"])


@pytest.mark.parametrize(("site", "head", "d"), [("z.2", 1, 8), ("mlp_post.1", None, 48), ("result.1", 2, 32)])
def test_own_tokens_are_read_where_the_move_arrives(site: str, head: int | None, d: int) -> None:
    model, direction = reader(), drawn(3, site=site, d=d, head=head)
    onto = "attn_out" if site[0] in "zr" else "mlp_out"
    where = {} if head is None else {"head": head}
    at = f"{onto}.{site[-1]}"
    before = model.run(PROMPTS, [at])[at]
    after = model.run(PROMPTS, [at], edits=edits.steer(site, direction, 1.0, **where))[at]
    move = direction.write @ to_stream(model, direction).double()
    torch.testing.assert_close(after - before, move.expand_as(before), rtol=1e-5, atol=1e-6)
    assert own_tokens(model, replace(drawn(1), site="attn_in.1")) is None


def test_removal_of_what_nothing_else_varies_as_much_as_is_no_test() -> None:
    model, _ = planted_embedding()
    pca = rs.pca(model, TEXTS, "resid_post.1", 4, tokens=1500)
    cost = rs.removal_cost(model, pca[0], PROMPTS)
    assert cost.p["KL"] == 0.025
    assert cost.matched < 0.5
    badge = used(None, cost, why={"dose": "not tried"})
    assert badge.shown is False
    assert "no test" in badge.sentence
    plain = reader()
    fair = rs.removal_cost(plain, rs.pca(plain, TEXTS, "resid_post.1", 8, tokens=1500)[6], PROMPTS)
    assert 0.5 < fair.matched < 2


# ── badges ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_direction_the_readout_hangs_on_is_used_and_another_is_not() -> None:
    model, planted = planted_readout()
    found = rs.evidence(model, planted, TEXTS, **SMALL)
    assert found.used.shown
    assert found.removal.p["KL"] == 0.025
    assert found.removal.matched > 0.5
    assert found.dose.p == 0.025
    assert found.dose.rises > 0.9
    assert "none of 39" in found.used.sentence
    other = drawn(4, site="resid_post.3")
    other = other - float(other.read @ planted.read) * planted
    control = rs.evidence(model, replace(other, name="control", space="raw"), TEXTS, **SMALL)
    assert control.used.shown is False
    assert control.used.numbers["p, removal"] > 0.1
    assert control.correlates.shown is False
    assert control.stability is None
    assert "no fit made" in control.missing["stability"]


def test_a_direction_of_the_token_correlates_and_another_does_not() -> None:
    model, _ = planted_embedding()
    pca = rs.pca(model, TEXTS, "resid_post.1", 8, tokens=1200)
    found = rs.evidence(model, pca[0], TEXTS, **SMALL)
    assert found.correlates.shown
    assert "Which token it is explains" in found.correlates.sentence
    assert "find it again" in found.correlates.sentence
    posing = replace(drawn(5), provenance=pca[0].provenance, name="control")
    control = rs.evidence(model, posing, TEXTS, **SMALL)
    assert control.correlates.shown is False
    assert "do not find it again" in control.correlates.sentence


def test_it_comes_stage_by_stage_and_can_be_cancelled() -> None:
    model, pca = reader(), None
    pca = rs.pca(model, TEXTS, "resid_post.2", 3, tokens=800)
    stages = list(gather(model, pca[0], TEXTS, **SMALL, random=19))
    has = [
        [p for p in ("tokens", "examples", "null", "stability", "dose", "removal") if getattr(s, p) is not None]
        for s in stages
    ]
    assert has[0] == ["tokens"]
    assert all(set(a) <= set(b) for a, b in pairwise(has))
    assert len(has[-1]) == 6
    assert stages[0].correlates.shown is None
    assert stages[0].used.shown is None
    assert "examples" in has[1]
    assert "null" not in has[1], "examples come before the whole text is read"
    kinds = [view.kind for view in stages[-1].view().views]
    assert kinds[:2] == ["card", "card"]
    assert kinds.count("curve") == 2

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "Steering" and done:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        rs.evidence(model, pca[0], TEXTS, **SMALL, progress=stop)


LONG = [*TEXTS] * 4


def test_both_badges_come_first_and_say_that_they_are_preliminary() -> None:
    model, _ = planted_embedding()
    direction = rs.pca(model, LONG, "resid_post.1", 8, tokens=1200)[0]
    heard: list[str] = []
    stages = list(
        gather(
            model, direction, LONG, tokens=6000, prompts=8, length=12, random=39,
            progress=lambda stage, done, total: heard.append(stage),
        )
    )  # fmt: skip
    first = next(
        i for i, known in enumerate(stages) if {*known.preliminary} == {"correlates", "used"} and known.removal
    )
    assert stages[first].examples.provenance["tokens"] < 6000 / 2, "before the rest of the text"
    assert None not in (stages[first].correlates.shown, stages[first].used.shown)
    assert heard.index("First look: taking it away") < heard.index("Steering") < heard.index("Taking it away")
    for before, known in pairwise(stages):
        for name in ("correlates", "used"):
            was, badge = getattr(before, name), getattr(known, name)
            assert (
                (name in known.preliminary)
                == badge.sentence.startswith("Preliminary, from ")
                == bool(badge.preliminary)
            )
            if badge.preliminary and badge.shown is not None:
                assert badge.said.endswith("so far")
            assert was.shown in (None, badge.shown) or was.preliminary, "a verdict never changes silently"
    assert stages[-1].preliminary == {}
    assert {*stages[-1].first} == {"correlates", "used"}


def test_a_first_look_changes_nothing_of_what_comes_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = planted_embedding()
    direction = rs.pca(model, LONG, "resid_post.1", 8, tokens=1200)[0]
    options = {"tokens": 6000, "prompts": 8, "length": 12, "random": 19}
    with_it = rs.evidence(model, direction, LONG, **options)
    assert with_it.first, "there was one"
    monkeypatch.setattr("residscope.methods.evidence.evidence._first_look", lambda *_: iter(()))
    without = rs.evidence(model, direction, LONG, **options)
    assert without.first == {}
    assert replace(with_it, first={}) == without


def test_a_whole_that_says_otherwise_than_the_first_look_says_so() -> None:
    badge = Badge("Correlates with the text", False, "It does not.")
    assert preliminary(badge, "less").said == "not shown so far"
    assert (
        preliminary(badge, "the first 2 of 8 tokens").sentence
        == "Preliminary, from the first 2 of 8 tokens. It does not."
    )
    assert after(badge, True).sentence.endswith("The first look, at less of it, said shown.")
    assert after(badge, False) == after(badge, None) == badge
    assert after(replace(badge, shown=None), True).sentence == "It does not."


def test_held_out_is_beyond_what_was_fitted() -> None:
    model = reader()
    pca = rs.pca(model, TEXTS, "resid_post.2", 3, tokens=1000)
    fitted = pca.provenance["tokens"]
    assert _seen(pca[0] + pca[1], "texts", 100) >= 1.25 * fitted
    assert _seen(pca[0], "another text", 100) >= 3 * fitted
    assert _seen(drawn(1), "texts", 100) == 100
    found = rs.evidence(model, pca[0], TEXTS, **SMALL)
    assert "held out" in found.provenance
    assert len(found.provenance["held-out prompts"]) == 8


def _moments(model: rs.Model, site: str, head: int | None):  # type: ignore[no-untyped-def]
    from residscope.methods.evidence.dose_response import prompt_moments

    return prompt_moments(model, model.batch(PROMPTS), site, head)
