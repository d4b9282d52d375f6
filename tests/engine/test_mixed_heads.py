"""Heads of which no one pattern is seen: two attentions taken from each other, a gated state; what W_O reads is still by head."""

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.engine.flow import flow
from residscope.engine.tried import found
from residscope.errors import AbsentSite
from residscope.model import tiny

IDS = [5, 9, 3, 17, 8, 2]
# of each type: a layer, its heads and their length, the module that gives them
HEADS = {
    "diffllama": (1, 2, 16, "self_attn.groupnorm"),
    "qwen3_next": (0, 4, 8, "linear_attn.norm"),
}


@pytest.fixture(params=HEADS, scope="module")
def model(request):
    hf = tiny.build(tiny.variants(request.param)["default"], dtype=torch.float64)
    made, certificate = found(hf, request.param)
    assert certificate.passed
    return made


def test_z_is_what_the_module_gives_by_head(model):
    layer, heads, d, path = HEADS[model.name]
    own = model.layout.blocks[layer].block.get_submodule(path)
    seen = []
    handle = own.register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    try:
        rec = model.run(IDS, [f"z.{layer}", f"result.{layer}", f"attn_out.{layer}"])
    finally:
        handle.remove()
    z = rec["z", layer]
    assert z.shape == (1, len(IDS), heads, d)
    given = seen[-1].reshape(z.shape)
    factor = float((given * z).sum() / (given * given).sum())
    torch.testing.assert_close(z, given * factor, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(rec["result", layer].sum(2), rec["attn_out", layer], atol=1e-6, rtol=1e-5)


def test_taking_a_head_out_is_a_plain_hook_on_the_output_projection(model):
    layer, heads, d, *_ = HEADS[model.name]

    def before(_module, args):
        z = args[0].clone()
        z[..., (heads - 1) * d : heads * d] = 0
        return (z, *args[1:])

    handle = model.layout.blocks[layer].attn_proj.register_forward_pre_hook(before)
    try:
        with torch.no_grad():
            expected = model.hf(torch.tensor([IDS]), use_cache=False).logits
    finally:
        handle.remove()
    run = model.run(IDS, ["logits"], edits=[edits.ablate(f"z.{layer}", head=heads - 1)])
    torch.testing.assert_close(run.logits, expected, atol=1e-6, rtol=1e-5)


def test_what_is_not_seen_says_why(model):
    layer = HEADS[model.name][0]
    for site in ("q", "k", "v", "scores", "pattern"):
        with pytest.raises(AbsentSite, match=r"attentions are computed here|no softmax over keys"):
            model.run(IDS, [f"{site}.{layer}"])
    with pytest.raises(AbsentSite, match=r"pattern v W_O|no pattern|no v"):
        rs.attribute_logits(model.run(IDS), rs.logit_diff(5, 7), by="source")


def test_the_equations_have_z_and_its_write(model):
    layer = HEADS[model.name][0]
    steps = {step.place: step for step in flow(model.layout, layer)}
    assert steps[f"z.{layer}"].reads == (f"attn_in.{layer}",)
    assert "z W_O" in steps[f"result.{layer}"].equation


def test_heads_sum_to_attention(model):
    told = rs.attribute_logits(model.run(IDS), rs.logit_diff(5, 7), by="head")
    names = told.components.coords["component"]
    attn = torch.stack([told.components.values[names.index(f"attn_out.{i}")] for i in range(model.n_layers)])
    torch.testing.assert_close(
        told.heads.values.double().sum(1) + told.attn_bias.values.double(), attn.double(), atol=1e-5, rtol=1e-4
    )
