"""Ranks, AUC, percentiles, eta squared and kinds of words against scipy, scikit-learn and direct computation."""

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from residscope.reproduce.viewer.measures import auc, eta_squared, percentile, spearman
from residscope.reproduce.viewer.study import at_ends
from residscope.reproduce.viewer.word_kinds import kind, kinds


@pytest.fixture
def drawn():
    """400 tokens along 3 directions, with ties; the first goes with the label."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=g).bool()
    y = torch.randn(400, 3, generator=g, dtype=torch.float64)
    y[:, 0] += 2 * labels
    return (4 * y).round() / 4, labels


def shuffled(labels):
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


def test_auc_is_scikit_learns(drawn):
    y, labels = drawn
    found = auc(y[labels], y[~labels])
    torch.testing.assert_close(
        found, torch.tensor([roc_auc_score(labels, y[:, k]) for k in range(3)], dtype=torch.float64)
    )
    assert found[0] > 0.85
    control = shuffled(labels)
    assert (auc(y[control], y[~control]) - 0.5).abs().max() < 0.08  # labels that say nothing
    assert auc(y[:0], y).isnan().all()


def test_spearman_is_scipys(drawn):
    y, _ = drawn
    x = torch.arange(400.0).double() % 50
    y[:, 1] += x / 20
    found = spearman(y, x)
    torch.testing.assert_close(
        found, torch.tensor([spearmanr(y[:, k], x).statistic for k in range(3)], dtype=torch.float64)
    )
    assert found[1] > 0.4
    assert found[2].abs() < 0.15  # had no part of it
    both = spearman(y, y.flip(1))
    torch.testing.assert_close(both[0], torch.tensor(spearmanr(y[:, 0], y[:, 2]).statistic, dtype=torch.float64))
    assert spearman(torch.ones(5, 1), torch.arange(5.0)).item() == 0


def test_percentile_is_where_the_median_stands():
    y = torch.arange(100.0)[:, None]
    assert percentile(y, y[:, 0] >= 90).item() == 95
    assert percentile(-y, y[:, 0] >= 90).item() == 5
    assert percentile(y, torch.ones(100).bool()).item() == 50
    assert percentile(y, torch.zeros(100).bool()).isnan().all()


def test_eta_squared_is_the_share_between_tokens():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (600,), generator=g)
    y = torch.stack([torch.randn(20, generator=g)[ids], torch.randn(600, generator=g), torch.zeros(600)], 1)
    y[:, 0] += 0.1 * torch.randn(600, generator=g)
    found = eta_squared(y, ids)
    means = torch.stack([y[ids == i].mean(0) for i in range(20)])[ids]
    direct = means.var(0) / y.var(0)
    torch.testing.assert_close(found[:2], direct[:2].double(), rtol=1e-4, atol=1e-4)
    assert found[0] > 0.9
    assert found[1] < 0.1  # by chance 19 of 599
    assert found[2] == 0
    once = torch.cat([ids, torch.arange(100, 150)])
    far = torch.cat([y, torch.full((50, 3), 100.0)])
    torch.testing.assert_close(eta_squared(far, once), found)  # tokens that occur once say nothing


def test_ends_are_opposite_outer_quarters():
    verbs, names = torch.tensor([80.0, 10.0, 80.0, 80.0, 50.0]), torch.tensor([20.0, 90.0, 40.0, 90.0, 50.0])
    assert at_ends(verbs, names).tolist() == [True, True, False, False, False]


def test_kinds_need_whole_words_inside_a_sentence():
    tokens = [
        "The",
        " city",
        " of",
        " London",
        " is",
        " old",
        ".",
        " Paris",
        " and",
        " The",
        " Un",
        "icode",
        " can",
        "cel",
        " may",
    ]
    found = kinds(tokens)
    assert [t for t, k in zip(tokens, found, strict=True) if k == "name"] == [" London"]
    assert [t for t, k in zip(tokens, found, strict=True) if k == "auxiliary"] == [" is", " may"]
    assert kind("is", " it") == "other"  # no word of its own
