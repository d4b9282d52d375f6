"""What a query cannot see: the scores that the mask keeps out are known in every family, in every precision."""

import copy

import pytest
import torch
from families import FAMILIES

from attack.cases import world
from residscope.engine.model import Model
from residscope.engine.passes import masked

ROW = [39, 71, 94, 33, 77, 12, 45, 60]  # longer than the windows of the tiny models


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_keys_that_are_masked_are_those_that_get_no_weight(family: str, dtype: torch.dtype) -> None:
    """By the softmax itself: a masked key has a pattern of nothing, and every other key has some."""
    of = world(family).model
    model = Model(copy.deepcopy(of.hf).to(dtype))
    run = model.run([ROW], ["scores", "pattern"])
    for layer in range(model.n_layers):
        kept_out, weight = masked(run[f"scores.{layer}"][0]), run[f"pattern.{layer}"][0]
        assert torch.equal(kept_out, weight == 0), layer
        assert kept_out[..., 0, 1:].all(), "the first token sees none after it"
