"""Every measure on cases worked by hand, and merged in any partition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residscope.errors import WrongWidth
from residscope.sae.metrics import Fidelity, Spliced


def of(y: list[list[float]], given: list[list[float]], activations: list[list[float]]) -> Fidelity:
    sums = Fidelity.empty(len(activations[0]), len(y[0]))
    sums.add(torch.tensor(y), torch.tensor(given), torch.tensor(activations))
    return sums


def test_a_case_by_hand() -> None:
    """y = (3, 0), (0, 4), (3, 4), (6, 8) has mean (3, 4); squares about it (0+16) + (9+0) + 0 + (9+16) = 50.

    y' = (3, 0), (0, 2), (3, 4), (3, 4): errors 0 + 4 + 0 + 25 = 29, so FVU = 29/50. Cosines are all 1. Lengths 1, 1/2, 1, 1/2.
    mean y' = (9/4, 10/4). sum y.y' = 9 + 8 + 25 + 50 = 92, less 4 (3 x 9/4 + 4 x 10/4) = 67: 25. sum |y'|^2 = 9 + 4 + 25 + 25
    = 63, less 4 (81/16 + 100/16) = 45.25: 17.75. slope = 25 / 17.75.
    """
    y = [[3.0, 0.0], [0.0, 4.0], [3.0, 4.0], [6.0, 8.0]]
    given = [[3.0, 0.0], [0.0, 2.0], [3.0, 4.0], [3.0, 4.0]]
    activations = [[1.0, 0.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 0.0]]
    sums = of(y, given, activations)
    assert sums.fvu == pytest.approx(29 / 50)
    assert sums.l0 == pytest.approx(5 / 4)
    assert sums.dead == pytest.approx(1 / 3)
    assert sums.cosine == pytest.approx(1.0)
    assert sums.shrinkage == pytest.approx(3 / 4)
    assert sums.slope == pytest.approx(25 / 17.75)
    assert sums.density.tolist() == [0.75, 0.5, 0.0]
    assert sums.strength.tolist() == [2.0, 1.5, 0.0]


def test_the_perfect_and_the_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(50, 4, generator=draw, dtype=torch.float64) + 3
    perfect, mean, shifted = (Fidelity.empty(1, 4) for _ in range(3))
    one = torch.ones(50, 1)
    perfect.add(y, y, one)
    mean.add(y, y.mean(0).expand_as(y), one)
    assert perfect.fvu == 0
    assert perfect.slope == pytest.approx(1)
    assert perfect.cosine == pytest.approx(1)
    assert mean.fvu == pytest.approx(1)
    shifted.add(y, torch.zeros_like(y), one)
    assert shifted.fvu > 1, "about the mean, not about zero: giving nothing is worse than the mean"


def test_half_the_length_is_a_slope_of_two() -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(50, 4, generator=draw)
    sums = Fidelity.empty(1, 4)
    sums.add(y, y / 2, torch.ones(50, 1))
    assert sums.slope == pytest.approx(2, rel=1e-5)
    assert sums.shrinkage == pytest.approx(0.5)
    assert sums.cosine == pytest.approx(1)


def test_the_histogram_counts_each_living_feature_once() -> None:
    activations = torch.zeros(1000, 4)
    activations[:, 0] = 1  # density 1
    activations[:40, 1] = 1  # 0.04: between 10^-1.5 and 10^-1
    activations[:1, 2] = 1  # 0.001, the edge 10^-3
    sums = Fidelity.empty(4, 1)
    sums.add(torch.ones(1000, 1), torch.ones(1000, 1), activations)
    edges, counts = sums.histogram()
    found = {edges[i]: n for i, n in enumerate(counts) if n}
    assert found == {-0.5: 1, -1.5: 1, -3.0: 1}
    assert sums.dead == 0.25
    assert len(edges) == len(counts) + 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 99))
def test_parts_in_any_partition_give_the_whole(parts: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    y, given = torch.randn(sum(parts), 3, generator=draw), torch.randn(sum(parts), 3, generator=draw)
    a = torch.randn(sum(parts), 5, generator=draw).relu()
    whole, joined = Fidelity.empty(5, 3), Fidelity.empty(5, 3)
    whole.add(y, given, a)
    for piece in zip(y.split(parts), given.split(parts), a.split(parts), strict=True):
        own = Fidelity.empty(5, 3)
        own.add(*piece)
        joined.merge(own)
    for measure in ("fvu", "l0", "dead", "cosine", "shrinkage", "slope"):
        assert getattr(joined, measure) == pytest.approx(getattr(whole, measure), rel=1e-9, nan_ok=True)
    assert torch.equal(joined.density, whole.density)


def test_recovered_says_its_baseline() -> None:
    losses = Spliced(clean=3.0, spliced=3.5, zero=8.0, mean=5.0, tokens=1)
    assert losses.change == pytest.approx(0.5)
    assert losses.recovered("zero") == pytest.approx(0.9)
    assert losses.recovered("mean") == pytest.approx(0.75)


def test_what_cannot_be_said_is_no_number() -> None:
    assert math.isnan(Fidelity.empty(2, 2).fvu)
    assert math.isnan(Spliced(3.0, 3.0, 3.0, 3.0, 1).recovered())


def test_sums_of_another_dictionary_are_refused() -> None:
    with pytest.raises(WrongWidth):
        Fidelity.empty(2, 3).merge(Fidelity.empty(3, 3))
    with pytest.raises(WrongWidth):
        Fidelity.empty(2, 3).add(torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 5))
