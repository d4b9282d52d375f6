"""Divisors against what the stock norms do to the stream that they are handed."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.methods.reading.norm_effects import norms_of

TEXT = [5, 9, 3, 17, 8, 2, 11]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "phi"])
def test_a_norm_is_its_divisor_its_gain_and_what_it_takes_away(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    found = rs.norm_effects(model, TEXT, axes=3)
    seen = []
    norms = [norm for _, _, norm in norms_of(model)]
    handles = [
        norm.module.register_forward_hook(lambda module, args, output: seen.append((module, args[0][0], output[0])))
        for norm in {id(norm.module): norm for norm in norms}.values()
    ]
    with torch.no_grad():
        model.hf(torch.tensor([TEXT]))
    for handle in handles:
        handle.remove()
    for row, norm in enumerate(norms):
        x, y = next((x, y) for module, x, y in seen if module is norm.module)
        layer = isinstance(norm.module, torch.nn.LayerNorm)
        assert (found.kinds[row] == "layer") == layer
        core = x - x.mean(-1, keepdim=True) if layer else x
        made = core / found.divisors.values[row][:, None] * norm.gain + (norm.bias if layer else 0)
        torch.testing.assert_close(made, y, atol=1e-4, rtol=1e-4)
        taken = 1 - core.square().sum(-1) / x.square().sum(-1)
        assert float(found.mean_share[row]) == pytest.approx(float(taken[1:].mean()), abs=1e-4)
        assert found.gains[row].abs().tolist() == pytest.approx(norm.gain.abs().topk(3).values.tolist())


def test_several_prompts_are_refused():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    with pytest.raises(errors.PromptError, match="one prompt"):
        rs.norm_effects(model, [TEXT, TEXT])
