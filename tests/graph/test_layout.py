"""Layouts: everything in its row and column, nothing on another, fewer crossings, the same every time, fast."""

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residscope.graph.shown.layout import apart, layered


def crossings(levels, edges, x):
    """Pairs of edges between the same two levels that cross, counted one by one."""
    return sum(
        (levels[a], levels[b]) == (levels[c], levels[d]) and (x[a] - x[c]) * (x[b] - x[d]) < 0
        for (a, b, _), (c, d, _) in combinations(edges, 2)
    )


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 40))
    levels = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    columns = draw(st.none() | st.lists(st.integers(0, 4), min_size=n, max_size=n))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    edges = [(a, b, draw(st.floats(-2, 2))) for a, b in pairs if levels[a] < levels[b]]
    return levels, edges, columns, draw(st.sampled_from([2, 5, 24]))


@given(graphs())
def test_no_two_nodes_share_a_place(graph):
    levels, edges, columns, wide = graph
    made = layered(levels, edges, columns, wide=wide)
    places = sorted(zip(made.y, made.x, strict=True))
    for (row, x), (other, after) in pairwise(places):
        assert row != other or after - x >= 1 - 1e-5


@given(graphs())
def test_every_node_is_in_its_level_and_its_column(graph):
    levels, edges, columns, wide = graph
    made = layered(levels, edges, columns, wide=wide)
    assert [made.rows[y] for y in made.y] == levels
    assert [*made.rows] == sorted(made.rows)
    assert min(made.x) >= 0
    if columns is None:
        assert made.places == ()
    else:
        assert [made.places[math.floor(x)] for x in made.x] == columns
        assert [made.places[math.ceil(x)] for x in made.x] == columns


@given(graphs())
def test_it_is_the_same_every_time_and_whatever_order_the_edges_are_in(graph):
    levels, edges, columns, wide = graph
    made = layered(levels, edges, columns, wide=wide)
    assert layered(levels, edges, columns, wide=wide) == made
    assert layered(levels, edges[::-1], columns, wide=wide).y == made.y


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=12), st.sampled_from([0.25, 1.0]))
def test_places_apart_are_the_nearest_by_squares(wanted, gap):
    """Against scipy's minimiser, with the constraints written out."""
    from scipy.optimize import minimize

    wanted = sorted(wanted)
    made = apart(wanted, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(made))
    limits = [{"type": "ineq", "fun": lambda x, i=i: x[i + 1] - x[i] - gap} for i in range(len(wanted) - 1)]
    start = [wanted[0] + i * (gap + 1) for i in range(len(wanted))]
    best = minimize(lambda x: sum((a - b) ** 2 for a, b in zip(x, wanted, strict=True)), start, constraints=limits)
    cost = sum((a - b) ** 2 for a, b in zip(made, wanted, strict=True))
    assert cost <= best.fun + 1e-3 * max(1.0, best.fun)


def test_crossed_ladders_are_untangled():
    """Five chains, each level's nodes numbered in another order: no crossing is needed."""
    orders = [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 3, 0, 4, 2], [2, 4, 1, 0, 3]]
    node = {
        (level, chain): 5 * level + place for level, order in enumerate(orders) for place, chain in enumerate(order)
    }
    edges = [(node[lv, c], node[lv + 1, c], 1.0) for lv in range(3) for c in range(5)]
    levels = [lv for lv in range(4) for _ in range(5)]
    made = layered(levels, edges)
    assert crossings(levels, edges, [float(i % 5) for i in range(20)]) > 10
    assert crossings(levels, edges, made.x) == 0
    for chain in range(5):
        xs = [made.x[node[lv, chain]] for lv in range(4)]
        assert max(xs) - min(xs) < 1


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_cross_less_than_they_came(seed):
    import random

    drawn = random.Random(seed)
    levels = [lv for lv in range(6) for _ in range(8)]
    edges = [(a, b, 1.0) for a in range(48) for b in range(48) if levels[b] == levels[a] + 1 and drawn.random() < 0.2]
    as_given = [float(i % 8) for i in range(48)]
    assert crossings(levels, edges, layered(levels, edges).x) < 0.75 * crossings(levels, edges, as_given)


def test_a_level_with_very_many_nodes_takes_several_rows():
    made = layered([0] * 60 + [1], [(i, 60, 1.0) for i in range(60)], wide=24)
    assert made.rows == (0, 0, 0, 1)
    assert max(made.x) < 24
