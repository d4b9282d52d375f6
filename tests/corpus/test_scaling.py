"""The simulation behind docs/scaling.md: the cases that can be worked out, and that the page holds its table."""

from dataclasses import replace

import pytest
from recipes.harvest_at_scale import MARKS, PAGE, Setting, simulate, table

ONE = Setting("one", 1e6, 1, 1000.0, 10_000, 1e6, between=1e12, cutting=1e9)


def test_one_worker_reads_at_its_own_speed():
    out = simulate(ONE)
    assert out.hours * 3600 == pytest.approx(1e6 / 1000, rel=1e-3)
    assert out.busy == pytest.approx(1, rel=1e-3)
    assert (out.failures, out.lost) == (0, 0)


def test_many_workers_are_as_fast_as_the_slowest_part():
    assert simulate(replace(ONE, workers=50)).hours * 3600 == pytest.approx(1e6 / 50_000, rel=0.02)
    cut = simulate(replace(ONE, workers=50, cutting=5_000))
    assert cut.hours * 3600 == pytest.approx(1e6 / 5_000 + 10, rel=0.02)
    merged = simulate(replace(ONE, workers=50, partial=1e9))
    assert merged.hours * 3600 == pytest.approx(100 * 1e9 / 0.67e9, rel=0.1)
    assert merged.waiting > 40


def test_failures_cost_the_shard_under_way_and_the_restart():
    """Of a worker that fails at a rate r, a shard of length s takes (e^(rs) - 1) (1/r + restart) on the average."""
    from math import expm1

    failing = replace(ONE, tokens=1e7, between=20.0, restart=3.0)
    wanted = 1000 * expm1(10 / 20) * (20 + 3.0)
    assert simulate(failing, seed=1).hours * 3600 == pytest.approx(wanted, rel=0.1)


def test_the_page_holds_the_table():
    assert PAGE.read_text().split(MARKS[0])[1].split(MARKS[1])[0] == table()
