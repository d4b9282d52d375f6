"""Direct attribution by source: each head's effect by the token that it attends to, against plain products of stock weights."""

import pytest
import torch
from families import FAMILIES
from test_direct_attribution import DIFF, RIGHT, WRONG, close

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.methods._lib.direct import direct_effects, direct_sites
from tiny_models import VARIANTS


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


@pytest.fixture(params=VARIANTS, scope="module")
def tiny(request):
    return Model(VARIANTS[request.param](), name=request.param)


def test_sources_and_the_bias_sum_to_each_head_of_every_family(family, ids):
    if not {"pattern", "v"} <= {*family.sites.names}:
        with pytest.raises(errors.AbsentSite):
            direct_effects(family.run(ids), DIFF, "each", sources=True)
        return
    found = direct_effects(family.run(ids, direct_sites(family, sources=True)), DIFF, "each", sources=True)
    close(found.sources.sum(2) + found.value_bias, found.heads)
    assert found.sources.shape == (*found.heads.shape[:2], ids.shape[1], *ids.shape)
    later = torch.ones(ids.shape[1], ids.shape[1]).tril(-1).bool()[:, None].expand(-1, len(ids), -1)
    assert float(found.sources[:, :, later].abs().max()) == 0  # no query reads what comes after it
    assert found.sources.abs().max() > 1e-3


def test_each_source_is_the_dense_product(tiny, ids):
    """A[q, k] (v_k - b_V) W_O of stock weights and a stock pattern, through the final norm by its own formula."""
    hf, gpt2 = tiny.hf, hasattr(tiny.hf, "transformer")
    blocks = hf.transformer.h if gpt2 else hf.model.layers
    final, heard = (hf.transformer.ln_f if gpt2 else hf.model.norm), {}
    handles = [final.register_forward_pre_hook(lambda _, args: heard.update(end=args[0]))]
    for layer, block in enumerate(blocks):
        norm = block.ln_1 if gpt2 else block.input_layernorm
        handles.append(norm.register_forward_hook(lambda _m, _a, out, layer=layer: heard.update({layer: out})))
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = hf(ids, output_attentions=True, use_cache=False).attentions
    for handle in handles:
        handle.remove()
    found = direct_effects(tiny.run(ids), DIFF, "each", sources=True)
    column = (hf.lm_head.weight[RIGHT] - hf.lm_head.weight[WRONG]).detach() * final.weight.detach()
    end = heard["end"]
    end, column = (end - end.mean(-1, keepdim=True), column - column.mean()) if gpt2 else (end, column)
    sigma = (end.square().mean(-1) + (final.eps if gpt2 else final.variance_epsilon)).sqrt()
    for layer, block in enumerate(blocks):
        if gpt2:
            W_V, b_V = block.attn.c_attn.weight[:, 64:], block.attn.c_attn.bias[64:]
            W_O = block.attn.c_proj.weight
        else:
            W_V, b_V, W_O = (
                block.self_attn.v_proj.weight.T,
                block.self_attn.v_proj.bias,
                block.self_attn.o_proj.weight.T,
            )
        value = (heard[layer] @ W_V).unflatten(-1, (-1, 8))
        value = value.repeat_interleave(4 // value.shape[2], 2)  # batch source head d_head
        moved = torch.einsum("bhqk,bkhd,hdm->hkbqm", patterns[layer], value, W_O.reshape(4, 8, 32))
        close(found.sources[layer], (moved @ column / sigma).detach())
        bias = torch.zeros(4, 8).double() if b_V is None else b_V.reshape(-1, 8)
        bias = bias.repeat_interleave(4 // len(bias), 0)
        own = torch.einsum("hd,hdm,m->h", bias, W_O.reshape(4, 8, 32), column)
        close(found.value_bias[layer], (own[:, None, None] / sigma).detach())
        assert (b_V is None) == (float(found.value_bias.abs().max()) == 0)


def test_the_method_sums_to_the_metric_and_shows_where_from(tiny):
    prompts = [[2, 3, 4, 5], [6, 7, 8, 9], [9, 4, 2, 3]]
    found = rs.direct_attribution(tiny, prompts, DIFF, by="source", batch=2, progress=False)
    assert found.sources.dims == ("layer", "head", "source", "prompt")
    close(found.sources.values.sum(2) + found.value_bias.values, found.heads.values)
    attn = found.sources.values.sum((1, 2)) + found.value_bias.values.sum(1) + found.attn_bias.values
    others = [i for i, c in enumerate(found.components.coords["component"]) if not str(c).startswith("attn_out")]
    close(attn.sum(0) + found.components.values[others].sum(0), found.metric.values)
    alone = rs.attribute_logits(tiny.run([prompts[1]]), DIFF, by="source")
    close(alone.sources.values, found.sources.select(prompt=1).values)
    assert len(alone.sources.coords["source_token"]) == 4
    table = next(view for view in alone.view().views if getattr(view, "title", "") == "Heads by source")
    head, source, _, value = table.rows[0]
    layer, head = map(int, head.split("."))
    assert value == float(alone.sources.values.max()) == float(alone.sources.values[layer, head, source])
    each = rs.direct_attribution(tiny, prompts[:1], DIFF, by="source", position="each", progress=False)
    close(
        each.sources.select(pos=3).values, rs.attribute_logits(tiny.run(prompts[:1]), DIFF, by="source").sources.values
    )


def test_edits_are_in_the_sources_they_change(tiny, ids):
    plain = direct_effects(tiny.run(ids), DIFF, "each", sources=True)
    hidden = direct_effects(tiny.run(ids, edits=[edits.ablate("v.1", pos=3)]), DIFF, sources=True)
    close(hidden.sources[1, :, 3], -hidden_bias(tiny, ids, 3))
    cut = direct_effects(tiny.run(ids, edits=[edits.ablate("z.1", head=2)]), DIFF, "each", sources=True)
    close(cut.value_bias[1, 2], -cut.sources[1, 2].sum(0))
    assert plain.sources[1, 2].abs().max() > 1e-4


def hidden_bias(model, ids, k):
    """What the values' bias adds at the last query from one source, in the run whose value there is nothing."""
    run = model.run(ids, ["pattern", "z", "v"], edits=[edits.ablate("v.1", pos=k)])
    found = direct_effects(run, DIFF, sources=True)
    return found.value_bias[1] * run["pattern.1"][:, :, -1, k].T[..., None]


def test_a_source_that_is_lost_is_seen_and_unequal_prompts_are_refused(tiny, ids):
    run = tiny.run(ids, direct_sites(tiny, sources=True))
    lost = run.held
    site = rs.Site("pattern", 2)
    lost[site] = lost[site].clone()
    lost[site][..., 4] = 0
    with pytest.raises(errors.NotAdditive, match="sources of the heads of layer 2"):
        direct_effects(rs.Recording(tiny, run.batch, lost, weights=run.version), DIFF, "each", sources=True)
    with pytest.raises(errors.UnalignedPrompts, match="unequal"):
        rs.direct_attribution(tiny, [[2, 3, 4], [5, 6]], DIFF, by="source", progress=False)
