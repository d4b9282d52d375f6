"""What the statistics of a harvest are made of: best k of any slots, bins that double, sums about a shift, a draw by numbers."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residscope.corpus.harvest.statistics import bins, slots
from residscope.corpus.harvest.statistics.moments import add_block, centred, merged
from residscope.corpus.harvest.statistics.top import drawn
from residscope.corpus.moments import Moments


def test_the_draw_of_an_interval_is_uniform():
    keys = torch.cat([slots_key(seed) for seed in range(200)])
    assert abs(float(keys.mean()) - 0.5) < 0.01
    counts = torch.histc(keys.float(), 10, 0, 1)
    assert float(((counts - len(keys) / 10) ** 2 / (len(keys) / 10)).sum()) < 30, "chi square of 9 degrees"


def slots_key(seed):
    return drawn(torch.arange(100) * (1 << 24) + 3, seed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_slots_keep_the_best_of_everything_offered_ties_and_all(data):
    k = data.draw(st.integers(1, 4))
    offers = data.draw(
        st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), max_size=12), min_size=1, max_size=5)
    )
    kept, other, seen, number = slots.empty(4, k), slots.empty(4, k), [], 0
    for i, some in enumerate(offers):
        slot, score = (torch.tensor([one[j] for one in some], dtype=torch.int64) for j in (0, 1))
        numbers = torch.arange(number, number + len(some))
        slots.offer(kept if i % 2 else other, slot, score.float(), numbers)
        seen += zip(slot.tolist(), score.tolist(), numbers.tolist(), strict=True)
        number += len(some)
    both = slots.united(kept, other)
    for slot in range(4):
        wanted = sorted((-score, n) for s, score, n in seen if s == slot)[:k]
        there = both["number"][slot] < slots.NONE
        assert both["number"][slot][there].tolist() == [n for _, n in wanted]
        assert both["score"][slot][there].tolist() == [-score for score, _ in wanted]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=40), st.integers(0, 12))
def test_bins_doubled_are_the_bins_of_the_larger_range(values, shift):
    x = torch.tensor(values, dtype=torch.float32)[:, None]
    e = bins.exponents(x)
    assert bool((x.abs().double() < 2.0 ** e.double()).all())
    fine = bins.counted(bins.indices(x, e, 8), 8)
    assert int(fine.sum()) == len(values)
    wide = torch.full_like(e, shift)
    assert torch.equal(bins.coarsened(fine, wide), bins.counted(bins.indices(x, e + shift, 8), 8))
    ends = bins.edges(e, 8)[0]
    assert torch.equal(fine[0], torch.from_numpy(np.histogram(x.double().numpy(), ends.numpy())[0]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), far=st.floats(-1e4, 1e4), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_float32_moments_are_within_their_bound_of_float64s(seed, far, cuts):
    """Also where the mean lies far from zero, which without a shift would leave no digit of the covariance."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + far
    ends = [0, *sorted(cuts), 300]
    parts = []
    for a, b in pairwise(ends):
        parts.append({
            "count": torch.zeros((), dtype=torch.int64), "shift": torch.zeros(6, dtype=torch.float64),
            "total": torch.zeros(6, dtype=torch.float64), "squares": torch.zeros(6, 6, dtype=torch.float64),
        })  # fmt: skip
        add_block(parts[-1], x[a:b])
    done = parts[0]
    for part in parts[1:]:
        done = merged(done, part)
    count, mean, scatter = centred(done)
    exact = Moments.empty(6)
    exact.add(x)
    spread = torch.from_numpy(np.var(x.double().numpy(), axis=0)).sqrt()
    assert count == 300
    assert bool(((mean - exact.mean).abs() <= 1e-6 * spread + 1e-12).all())
    bound = 300 * 2.0**-24 * torch.outer(spread, spread) * 4
    assert bool(((scatter - exact.scatter).abs() / 300 <= bound).all())


def test_without_a_shift_there_would_be_no_digit_left():
    """The planted fault: the same sums about zero."""
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) + 1e4
    squares, mean = (x.T @ x).double(), x.double().mean(0)
    naive = squares / len(x) - torch.outer(mean, mean)
    assert float((naive - torch.eye(4)).abs().max()) > 1
