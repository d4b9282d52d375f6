"""The vectors that a training is fed: whole passes, each in an order of its own, and the same to the bit where it goes on."""

from itertools import islice

import torch

import residscope as rs
from corpus import readings
from residscope.corpus.reading import Reader
from residscope.sae.training.stream import Stream

TEXT = readings.texts(n=30)
SITE = "resid_pre.1"


def stream(text: object = TEXT) -> Stream:
    model = readings.model()
    return Stream(model, Reader(model, text), [SITE])


def passes(of: Stream, n: int) -> list[torch.Tensor]:
    """The vectors of the first n passes, one by one."""
    found: list[list[torch.Tensor]] = [[] for _ in range(n + 1)]
    for vectors in of.runs(lambda *_: None):
        found[of.place["epoch"]].append(vectors[SITE])
        if of.place["epoch"] == n:
            break
    return [torch.cat(one) for one in found[:n]]


def rows_of(x: torch.Tensor) -> list[list[float]]:
    return sorted([round(value, 4) for value in row[:6].tolist()] for row in x)


def test_every_pass_has_every_vector_once_and_in_another_order() -> None:
    for text in (TEXT, rs.text(TEXT, shuffle=4)):
        first, second, third = passes(stream(text), 3)
        assert first.shape == second.shape == third.shape
        assert rows_of(first) == rows_of(second) == rows_of(third)
        assert not torch.allclose(first, second)
        assert not torch.allclose(second, third)
        assert not torch.allclose(first, third)


def test_the_first_pass_is_in_the_text_s_own_order() -> None:
    model = readings.model()
    ids = [row.ids for row in Reader(model, TEXT).rows(length=128, tokens=1 << 40)]
    of = stream()
    next(of.runs(lambda *_: None))
    assert of.place["tokens"] <= sum(map(len, ids))
    assert of._reader() is of.reader


def test_the_same_seed_gives_the_same_passes_and_another_others() -> None:
    for a, b in zip(
        passes(stream(rs.text(TEXT, shuffle=4)), 2), passes(stream(rs.text(TEXT, shuffle=4)), 2), strict=True
    ):
        assert torch.equal(a, b)
    other = passes(stream(rs.text(TEXT, shuffle=5)), 2)
    assert not torch.allclose(passes(stream(rs.text(TEXT, shuffle=4)), 2)[1], other[1])


def test_one_that_goes_on_in_any_pass_gives_the_very_same_runs() -> None:
    whole = [vectors[SITE] for vectors in islice(stream().runs(lambda *_: None), 9)]
    for left_off in range(1, 9):
        of = stream()
        for _ in islice(of.runs(lambda *_: None), left_off):
            pass
        again = stream()
        again.restore(of.state())
        rest = [vectors[SITE] for vectors in islice(again.runs(lambda *_: None), 9 - left_off)]
        assert all(torch.equal(a, b) for a, b in zip(whole[left_off:], rest, strict=True)), left_off
    assert stream().state()["epoch"] == 0
