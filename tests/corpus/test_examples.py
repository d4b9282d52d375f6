"""Examples of a direction: as computed directly, the same when read apart, and drawn from where they say."""

import numpy as np
import pytest
import torch

import residscope as rs
from methods.readers import TEXTS, drawn, reader
from residscope.corpus.chunks import chunks
from residscope.corpus.examples import Readings
from residscope.corpus.held_out import held_out
from residscope.corpus.reading import Reader
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import NoVectors, TextTooShort, UnknownHead, WrongModel

SITES = [
    ("resid_post.1", None, 32),
    ("z.2", 1, 8),
    ("result.1", 3, 32),
    ("mlp_post.0", None, 48),
    ("final_norm", None, 32),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return reader()


def direct(model: Model, direction: Direction, tokens: int) -> list[tuple[float, int, int]]:
    """(coordinate, row, pos) of every token but the first of its row, one plain run a row."""
    found = []
    for number, ids in enumerate(row.ids for row in Reader(model, TEXTS).rows(length=64, tokens=tokens)):
        x = model.run([ids], [direction.site])[direction.site][0]
        x = x if direction.head is None else x[:, direction.head]
        found += [(float(v), number, pos) for pos, v in enumerate((x @ direction.read).tolist()) if pos > 0]
    return found


@pytest.mark.parametrize(("site", "head", "d"), SITES)
def test_it_is_what_a_plain_run_of_each_row_gives(model: Model, site: str, head: int | None, d: int) -> None:
    direction = drawn(1, site=site, d=d, head=head)
    found = rs.top_examples(model, direction, TEXTS, tokens=600, k=6)
    want = [(float(np.float32(v)), row, pos) for v, row, pos in direct(model, direction, 600)]
    assert len(found.values) == len(want)
    every = {(row, pos): v for v, row, pos in want}
    ordered = sorted(v for v, _, _ in want)
    for examples, expected in ((found.bottom, ordered[:6]), (found.top, ordered[::-1][:6])):
        assert [every[e.row, e.pos] for e in examples] == pytest.approx(expected, rel=1e-5)
        assert [e.value for e in examples] == pytest.approx(expected, rel=1e-5)
    ends = np.quantile([v for v, _, _ in want], [0, 0.2, 0.4, 0.6, 0.8, 1])
    assert [i.low for i in found.intervals] == pytest.approx(list(ends[:-1]), rel=1e-4)
    assert sum(i.n for i in found.intervals) == len(want)


def test_the_examples_stand_where_they_say(model: Model) -> None:
    direction = drawn(2)
    found = rs.top_examples(model, direction, TEXTS, tokens=600, context=5)
    every = {(row, pos): value for value, row, pos in direct(model, direction, 600)}
    shown = [e for i in found.intervals for e in i.examples]
    assert len({(e.row, e.pos) for e in shown}) == len(shown) == 25, "without replacement"
    for interval in found.intervals:
        assert all(interval.low - 1e-6 <= e.value <= interval.high + 1e-6 for e in interval.examples)
    tokenized = [model.encode(text) for text in TEXTS]
    for e in shown:
        assert e.value == pytest.approx(every[e.row, e.pos], rel=1e-4)
        assert e.values[e.at] == pytest.approx(e.value)
        assert "".join(e.tokens) in TEXTS[e.row] or len(tokenized[e.row]) > 64
        assert e.token == TEXTS[e.row][e.pos]
    other = rs.top_examples(model, direction, TEXTS, tokens=600, seed=1)
    assert [(e.row, e.pos) for i in other.intervals for e in i.examples] != [(e.row, e.pos) for e in shown]


def test_what_was_read_apart_joins_to_the_same(model: Model) -> None:
    several = [drawn(3), drawn(4)]
    parts = list(chunks(model, TEXTS, ["resid_post.1"], tokens=600))
    whole, first, second = (Readings(several, model) for _ in range(3))
    for i, chunk in enumerate(parts):
        whole.add(chunk)
        (first if i % 2 else second).add(chunk)
    options = {"k": 5, "intervals": 4, "per_interval": 3, "context": 8, "seed": 0, "about": {}}
    expected = [whole.result(i, **options) for i in range(2)]
    alone = first.result(0, **options)
    assert alone.top != expected[0].top, "half the text has other extremes"
    first.merge(second)
    for i in range(2):
        found = first.result(i, **options)
        for part in ("top", "bottom", "intervals"):
            assert repr(getattr(found, part)) == repr(getattr(expected[i], part))
        assert torch.equal(found.values, expected[i].values)
    with pytest.raises(WrongModel):
        first.merge(Readings([drawn(5), drawn(4)], model))
    both = rs.top_examples(model, several, TEXTS, tokens=600, k=5, intervals=4, per_interval=3, context=8)
    assert [repr(b.top) for b in both] == [repr(e.top) for e in expected]


def test_sites_without_a_vector_a_token_are_refused(model: Model) -> None:
    with pytest.raises(NoVectors, match="no vector"):
        rs.top_examples(model, drawn(1, site="pattern.1"), TEXTS)
    with pytest.raises(UnknownHead, match="say which"):
        rs.top_examples(model, drawn(1, site="z.1", d=8), TEXTS)


def test_held_out_prompts_lie_beyond_what_was_read(model: Model) -> None:
    flat = [i for text in TEXTS for i in model.encode(text)]
    held = held_out(model, TEXTS, skip=700, n=6, length=10)
    starts = [next(s for s in range(len(flat)) if tuple(flat[s : s + 10]) == ids) for ids in held.prompts]
    assert min(starts) >= 700
    assert len({*held.prompts}) == 6
    assert "beyond its first 700" in held.origin
    short = held_out(model, TEXTS, skip=3000, n=6, length=10)
    assert "since texts has too few left" in short.origin
    with pytest.raises(TextTooShort, match="too little"):
        held_out(model, "python-docs", skip=10**9, n=6, length=10)
