"""Splitting and absorption on cases that are known."""

import math

import pytest
import torch

from residscope.directions import Dictionary, EncoderDictionary
from residscope.errors import WrongWidth
from residscope.sae.splitting import absorbed, split_features


def of(rows: torch.Tensor) -> Dictionary:
    zero = torch.zeros(rows.shape[1])
    return EncoderDictionary("sae", "resid_post.0", rows, rows, mean=zero, bias=torch.zeros(len(rows)), base=zero)


def test_children_are_counted_by_cosine() -> None:
    e = torch.eye(4)
    larger = of(torch.stack([3 * e[0] + e[1], 3 * e[0] - e[1], e[2], -e[3]]))
    found = split_features(of(e), larger)
    assert found.children.tolist() == [2, 0, 1, 0]
    assert found.best[0] == pytest.approx(3 / math.sqrt(10))
    assert (found.split, found.gone) == (0.25, 0.5)
    assert "Splitting" in repr(found)
    assert found._repr_html_()


def test_of_itself_nothing_is_split() -> None:
    rows = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    found = split_features(of(rows), of(rows))
    assert (found.split, found.gone) == (0.0, 0.0)
    with pytest.raises(WrongWidth):
        split_features(of(rows), of(torch.eye(4)))


def test_absorption_is_counted_where_the_parent_is_silent_and_one_other_gives_most() -> None:
    label = torch.tensor([True] * 4 + [False])
    parent = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    others = torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    along = torch.ones(3)
    assert absorbed(parent, others, label, along) == 0.25, (
        "only the second: spread over three, nothing, or no label do not count"
    )
    assert absorbed(parent, others, label, -along) == 0, "against the direction"
    assert math.isnan(absorbed(parent, others, torch.zeros(5, dtype=torch.bool), along))
