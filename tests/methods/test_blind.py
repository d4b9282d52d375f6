"""The score of a blind test is scipy's Spearman, chance is near nothing, and the contexts are held out and spread."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, spearmanr

from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import NoOrder, NotOneVector, TooFewContexts, UnknownHead, WrongWidth
from residscope.methods._lib.blind import auc, over_people, score, spearman
from residscope.methods.evidence.blind_contexts import _held_out, contexts
from session import worlds

NUMBERS = st.lists(st.tuples(st.integers(-20, 20), st.floats(-100, 100)), min_size=3, max_size=20)
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "looked",
    "at",
    "a",
    "dog",
    "who",
    "ran",
    "over",
    "long",
    "road",
    "house",
    "stone",
]


@given(NUMBERS)
def test_rho_is_scipy_s(pairs: list[tuple[int, float]]) -> None:
    guesses, values = (np.array(side, float) for side in zip(*pairs, strict=True))
    if np.ptp(guesses) == 0 or np.ptp(values) == 0:
        with pytest.raises(NoOrder):
            score(guesses.tolist(), values.tolist())
        return
    assert spearman(guesses, values) == pytest.approx(spearmanr(guesses, values).statistic, abs=1e-9)


def test_the_auc_is_mann_and_whitney_s() -> None:
    random = np.random.default_rng(0)
    guesses, values = random.integers(-3, 4, 16) / 3, random.normal(size=16)
    upper, lower = guesses[values > np.median(values)], guesses[values <= np.median(values)]
    assert auc(guesses, values) == pytest.approx(mannwhitneyu(upper, lower).statistic / (len(upper) * len(lower)))
    assert auc(values, values) == 1
    assert auc(np.zeros(3), np.array([0.0, 1.0, 1.0])) == 0.5


def test_the_right_order_scores_one_however_the_slider_is_used_and_shuffled_guesses_near_nothing() -> None:
    random = np.random.default_rng(1)
    values = np.exp(random.normal(size=16) * 2)
    right = score(np.tanh(values).tolist(), values.tolist())
    assert right.rho == 1
    assert right.auc == 1
    assert right.interval == pytest.approx((1, 1))
    assert score((-values).tolist(), values.tolist()).rho == -1
    shuffled = [score(random.permutation(values).tolist(), values.tolist()) for _ in range(60)]
    assert abs(np.mean([each.rho for each in shuffled])) < 0.1
    assert np.mean([each.auc for each in shuffled]) == pytest.approx(0.5, abs=0.06)
    inside = [each.chance[0] <= each.rho <= each.chance[1] for each in shuffled]
    assert 0.85 <= np.mean(inside) <= 1
    assert np.mean([each.interval[0] <= 0 <= each.interval[1] for each in shuffled]) > 0.8
    assert right.chance[1] < 0.6 < right.rho  # and the right order stands outside of chance


@pytest.mark.parametrize(
    ("guesses", "values"), [([0.5] * 4, [1, 2, 3, 4]), ([1, 2, 3], [7, 7, 7]), ([], []), ([1], [2])]
)
def test_without_an_order_there_is_no_score(guesses: list[float], values: list[float]) -> None:
    with pytest.raises(NoOrder, match="alike"):
        score(guesses, values)
    with pytest.raises(NoOrder, match="finite"):
        score([*guesses, float("nan")], [*values, 1.0])


def test_over_people() -> None:
    from scipy.stats import t

    rho = [0.2, 0.5, 0.8, 0.3]
    mean, (low, high) = over_people([(value, (-1.0, 1.0)) for value in rho])
    assert mean == pytest.approx(np.mean(rho))
    assert (low, high) == pytest.approx(t.interval(0.95, 3, np.mean(rho), np.std(rho, ddof=1) / 2))
    assert over_people([(0.9, (0, 1)), (-0.9, (0, 1))])[1] == (-1, 1)


# ── the contexts ─────────────────────────────────────────────────────────────────────────────────────────────


def direction(model: Model, site: str = "resid_post.1", **facts: object) -> Direction:
    width = model.sites.width(model.sites.parse(site))
    read = torch.randn(width, generator=torch.Generator().manual_seed(5))
    return Direction(read, read, site, name="d", **facts)


def corpus(seed: int = 0, n: int = 150) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 60)) for _ in range(n)]


def test_a_value_is_what_the_model_has_at_the_token_after_the_tokens_that_are_shown() -> None:
    model = worlds.model()
    d = direction(model, offset=0.5, space="centred")
    texts = corpus()
    found = contexts(model, d, source=texts, seed=3)
    assert len(found) == 16
    assert len({context.tokens for context in found}) == 16
    for context in found:
        assert len(context.tokens) == 16
        assert context.pos >= 4
        said = "".join(context.tokens)
        assert any(said in text for text in texts)
        ids = model.tokens(said)[0].tolist()
        x = model.run([ids], ["resid_post.1"])["resid_post.1"][0, context.pos + int(model.bos)]
        assert float(d.project(x)) == pytest.approx(context.value, abs=1e-4)
    assert contexts(model, d, source=texts, seed=3) == found
    assert contexts(model, d, source=texts, seed=4) != found


def test_the_values_are_spread_and_their_order_says_nothing() -> None:
    model = worlds.model()
    d, texts = direction(model), corpus()
    found = contexts(model, d, source=texts, n=16, seed=1)
    values = sorted(context.value for context in found)
    many = sorted(c.value for seed in range(8) for c in contexts(model, d, source=texts, n=12, seed=seed))
    assert values[0] < np.quantile(many, 0.15)
    assert values[-1] > np.quantile(many, 0.85)
    assert [context.value for context in found] not in (values, values[::-1])


def test_what_the_evidence_showed_and_what_it_was_fitted_on_is_left_out(tmp_path: Path) -> None:
    model = worlds.model()
    d, texts = direction(model), corpus()
    shown = ["".join(context.tokens) for context in contexts(model, d, source=texts, seed=2)]
    again = {"".join(context.tokens) for context in contexts(model, d, source=texts, seed=2, avoid=shown)}
    assert not again & set(shown)
    first, file = corpus(1, 2_000), tmp_path / "text.txt"
    file.write_text("\n\n".join(first))
    fitted = replace(d, provenance={"sum": [{}, {"times": 2.0, "of": {"corpus": str(file), "tokens": 30_000}}]})
    held = _held_out(str(file), fitted, 64 * 16)
    assert sum(map(len, first)) - sum(map(len, held)) >= 30_000 * 5
    assert held == first[-len(held) :]
    elsewhere = _held_out(str(file), replace(d, provenance={"corpus": "elsewhere", "tokens": 30_000}), 64)
    assert len(held) < len(elsewhere) < len(first)  # the beginning is left to evidence whatever it was fitted on
    assert (
        _held_out(str(file), replace(d, provenance={"corpus": str(file), "tokens": 10**6}), 64) == first
    )  # nothing is left


@pytest.mark.parametrize("place", [("mlp_post.1", None), ("z.1", 1), ("result.0", 2), ("embed", None), ("k.1", 0)])
def test_other_sites_with_one_vector_a_token_do_as_well(place: tuple[str, int | None]) -> None:
    model = worlds.model()
    found = contexts(model, direction(model, place[0], head=place[1]), source=corpus(), seed=0)
    assert len({context.value for context in found}) > 8


def test_what_cannot_be_tested_is_refused_in_words() -> None:
    model = worlds.model()
    for site, head in (("pattern.0", None), ("z.0", None), ("resid_post.0", 1)):
        d = replace(direction(model), site=site, head=head)
        with pytest.raises(NotOneVector, match=site):
            contexts(model, d, source=corpus())
    with pytest.raises(WrongWidth):
        contexts(model, replace(direction(model), site="mlp_post.0"), source=corpus())
    with pytest.raises(UnknownHead):
        contexts(model, replace(direction(model, "z.0", head=0), head=99), source=corpus())
    with pytest.raises(TooFewContexts):
        contexts(model, direction(model), source=["the cat sat on the mat and looked at the dog again " * 3])
    nothing = replace(direction(model), read=torch.zeros(model.d_model))
    with pytest.raises(NoOrder, match="says the same"):
        contexts(model, nothing, source=corpus())
