"""Ablations side by side: each number is a plain run's, and a head that only zero hurts is marked."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import shaken

METRIC = rs.logit_diff(5, 7)
ROWS = [[5, 9, 3, 17, 8, 2, 11], [4, 8, 15, 16, 23, 42, 6]]
OVER = [[8, 3, 12, 9, 40, 31, 6], [7, 5, 2, 9, 30, 33, 21, 14], [9, 4, 11, 22, 8, 17, 3]]
DRAWS = 3


def change(model, rows, **how):
    head, layer = how.pop("head"), how.pop("layer")
    edit = edits.ablate(f"z.{layer}", head=head, **how)
    return METRIC(model.run(rows, ["logits"], edits=edit)) - METRIC(model.run(rows, ["logits"]))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_every_way_is_a_plain_run(name):
    model = Model(shaken(FAMILIES[name].build()), name=name)
    found = rs.compare_ablations(model, ROWS, METRIC, OVER, draws=DRAWS, seed=2, progress=False)
    assert found.zero.dims == found.resample.dims == ("layer", "head")
    for layer, head in ((0, 1), (model.n_layers - 1, 2)):
        at = {"layer": layer, "head": head}
        zero, mean = change(model, ROWS, **at), change(model, ROWS, to="mean", over=OVER, **at)
        drawn = torch.stack([change(model, ROWS, to="resample", over=OVER, seed=2 + i, **at) for i in range(DRAWS)])
        for result, told in ((found.zero, zero), (found.mean, mean), (found.resample, drawn.mean(0))):
            assert float(result.values[layer, head]) == pytest.approx(float(told.mean()), abs=1e-8)
            assert float(told.min()) - 1e-8 <= float(result.low[layer, head])
            assert float(result.high[layer, head]) <= float(told.max()) + 1e-8
    three = torch.stack([found.zero.values, found.mean.values, found.resample.values])
    for layer in range(model.n_layers):
        for head in range(model.n_heads):
            values = three[:, layer, head].tolist()
            size = max(map(abs, values))
            told = max(values) - min(values) > size / 2 and size >= 0.05 * float(three.abs().max())
            assert bool(found.disagree.values[layer, head]) == told
    assert ("trained with dropout" in found.provenance) == (name == "gpt2")
    assert bool(found.view().to_dict())


def test_a_planted_constant_head_hurts_only_when_it_is_zero():
    """A head that writes the same on every prompt carries nothing: its mean and other prompts' values change nothing."""
    hf = shaken(FAMILIES["gpt2"].build())
    d = hf.config.n_embd // hf.config.n_head
    attention, width = hf.transformer.h[1].attn, hf.config.n_embd
    with torch.no_grad():
        attention.c_attn.weight[:, 2 * width : 2 * width + d] = 0  # head 0's values are its bias
        attention.c_attn.bias[2 * width : 2 * width + d] = 3.0
    model = Model(hf, name="constant")
    found = rs.compare_ablations(model, ROWS, METRIC, OVER, draws=DRAWS, layers=[1], progress=False)
    assert abs(float(found.zero.values[0, 0])) > 1e-3
    assert abs(float(found.mean.values[0, 0])) < 1e-8
    assert abs(float(found.resample.values[0, 0])) < 1e-8
    assert found.disagree.values[0, 0] == 1


def test_one_prompt_s_interval_is_over_draws_and_ranks_are_compared(llama):
    found = rs.compare_ablations(llama, [ROWS[0]], METRIC, OVER, draws=6, site="mlp_out", progress=False)
    assert found.zero.low is None
    assert (found.resample.low <= found.resample.values).all()
    assert (found.resample.high > found.resample.low).any()
    a, b = (x.values.argsort().argsort().double() for x in (found.zero, found.mean))
    n = len(a)
    told = 1 - 6 * float(((a - b) ** 2).sum()) / (n * (n**2 - 1))
    assert float(found.agreement.values[0]) == pytest.approx(told)
    assert found.provenance["averaged"]["mlp_out.0"]["tokens"] > 0
    same = rs.compare_ablations(llama, [ROWS[0]], METRIC, OVER, draws=6, site="mlp_out", progress=False)
    assert torch.equal(same.resample.values, found.resample.values)


def test_it_is_refused_in_words(llama):
    with pytest.raises(errors.BadSweep, match="a draw or more"):
        rs.compare_ablations(llama, ROWS, METRIC, OVER, draws=0)
    with pytest.raises(errors.CannotAlign):
        rs.compare_ablations(llama, ROWS, METRIC, [[1, 2, 3]], progress=False)
    data = rs.PromptSet(tuple(map(tuple, ROWS)), positions={"S": (1, 2)})
    with pytest.raises(errors.BadSweep, match="by number"):
        rs.compare_ablations(llama, data, METRIC, OVER, site="mlp_out", positions=["S"])
