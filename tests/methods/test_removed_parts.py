"""The total effect beside the direct one: each part taken out of the stock model by plain hooks, and the metric read again."""

import pytest
import torch
from families import FAMILIES
from labelled import labelled
from test_attribution_by_feature import dictionary

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model

RIGHT, WRONG = 5, 7
DIFF = rs.logit_diff(RIGHT, WRONG)


def close(a, b, tolerance=2e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, check_dtype=False)


def without(model, ids, module, head=None, width=0):
    """The stock model's logit difference at the end, a module's output (or a head of its input) at zero."""

    def out(_module, _args, output):
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    def into(_module, args):
        x = args[0].clone()
        x[..., head * width : (head + 1) * width] = 0
        return (x,)

    handle = module.register_forward_hook(out) if head is None else module.register_forward_pre_hook(into)
    with torch.no_grad():
        logits = model.hf(ids, use_cache=False).logits[:, -1]
    handle.remove()
    return logits[:, RIGHT] - logits[:, WRONG]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_total_effect_is_what_the_stock_model_loses_without_the_part(kind, request, ids):
    model = request.getfixturevalue(kind)
    found = rs.direct_attribution(model, ids, DIFF, remove="zero", largest=3, progress=False)
    base, parts = found.metric.values, found.removed.coords["part"]
    assert len(parts) == len({*parts}) == 3 + 2 * model.n_layers + 1 + (kind == "gpt2")
    for part, (direct, total) in zip(parts, found.removed.values, strict=True):
        name, _, at = part.partition(".")
        block = model.layout.blocks[int(at or 0)] if name != "embed" else None
        if part.startswith("head"):
            layer, head = map(int, part.removeprefix("head ").split("."))
            own = found.heads.values[layer, head]
            lost = without(model, ids, model.layout.blocks[layer].attn_proj, head, model.sites.sizes.d_head)
        elif name in ("attn_out", "mlp_out"):
            own = found.components.select(component=part).values
            lost = without(model, ids, block.attn if name == "attn_out" else block.mlp)
        else:
            own = found.components.select(component=part).values
            lost = without(model, ids, model.layout.embed if name == "embed" else model.layout.pos_embed)
        close(direct, own)
        close(total, base - lost)
    heads = found.heads.values.mean(-1).abs().flatten()
    best = [divmod(i, model.n_heads) for i in heads.topk(3).indices.tolist()]
    assert {part for part in parts if part.startswith("head")} == {f"head {a}.{h}" for a, h in best}
    assert found.view().views[-1].title == "Taken out, and read again"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_writes_last_has_no_effect_but_its_direct_one_where_the_norm_is_held(family, ids):
    model = Model(FAMILIES[family].build(), name=family)
    held = [edits.freeze("final_scale")]
    found = rs.direct_attribution(
        model, ids, DIFF, by="component", remove="zero", background=held, progress=False
    ).removed
    close(found.values[-1, 0], found.values[-1, 1])
    assert (found.values[0, 0] - found.values[0, 1]).abs().max() > 1e-4  # the embedding is read by all


def test_to_a_mean_with_named_positions_in_batches(llama):
    data = labelled(6)
    found = rs.direct_attribution(
        llama, data, DIFF, remove="mean", over=data, largest=2, position="P", batch=4, progress=False
    )
    sweep = rs.ablation_sweep(
        llama, data, rs.logit_diff(RIGHT, WRONG), site="mlp_out", to="mean", over=data, layers=[1], progress=False
    )
    plain = rs.direct_attribution(llama, data, DIFF, remove="mean", over=data, largest=0, progress=False)
    _, total = plain.removed.select(part="mlp_out.1").values
    close(plain.metric.values - total, sweep.values[0])
    at = data.at("P")
    run = llama.run(data, edits=[edits.ablate("mlp_out.1", to="mean", over=data)])
    logits = torch.stack([run.logits[row, p, RIGHT] - run.logits[row, p, WRONG] for row, p in enumerate(at)])
    _, total = found.removed.select(part="mlp_out.1").values
    close(found.metric.values - total, logits)


def test_features_neurons_and_a_cap(ids):
    model = Model(FAMILIES["gemma2"].build(), name="gemma2")
    d = dictionary("mlp_out.1", model.d_model)
    found = rs.direct_attribution(
        model, ids, DIFF, by="feature", dictionary=d, remove="zero", largest=2, progress=False
    )
    part = found.removed.coords["part"][-1]
    cut = edits.feature(d, int(part.removeprefix("feature ")), 0.0)
    edited = rs.direct_attribution(model, ids, DIFF, by="component", background=[cut], progress=False)
    close(found.removed.values[-1, 1], found.metric.values - edited.metric.values)
    found = rs.direct_attribution(model, ids, DIFF, by="neuron", remove="zero", largest=1, progress=False)
    layer, neuron = map(int, found.removed.coords["part"][-1].removeprefix("neuron ").split("."))
    cut = edits.ablate(f"mlp_post.{layer}", neuron=neuron)
    edited = rs.direct_attribution(model, ids, DIFF, by="component", background=[cut], progress=False)
    close(found.removed.values[-1, 1], found.metric.values - edited.metric.values)
    assert rs.direct_attribution(model, ids, DIFF, progress=False).removed is None


def test_what_cannot_be_taken_out_so(llama, ids):
    for more, match in (
        ({"remove": "zero", "position": "each"}, "one position"),
        ({"remove": "mean"}, "over prompts"),
        ({"remove": "resample"}, "zero or to a mean"),
        ({"remove": "mean", "by": "feature", "dictionary": dictionary("mlp_out.1", 32), "over": ids}, "to zero"),
    ):
        with pytest.raises(errors.BadSweep, match=match):
            rs.direct_attribution(llama, ids, DIFF, progress=False, **more)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_an_expert_taken_out_is_one_whose_own_weights_write_nothing(family):
    """Its last matrix (and bias) at zero: the router, which reads the stream before it, weights the others as it did."""
    model, data = Model(FAMILIES[family].build(), name=family), labelled(4)
    found = rs.direct_attribution(model, data, DIFF, by="expert", remove="zero", largest=2, batch=3, progress=False)
    parts = [(i, part) for i, part in enumerate(found.removed.coords["part"]) if part.startswith("expert")]
    assert len(parts) == 2
    for i, part in parts:
        layer, expert = map(int, part.removeprefix("expert ").split("."))
        direct, total = found.removed.values[i]
        close(direct, found.experts.values[layer, expert])
        experts = model.layout.blocks[layer].experts
        own = [w for w in (experts.down_proj, getattr(experts, "down_proj_bias", None)) if w is not None]
        kept = [w.detach().clone() for w in own]
        with torch.no_grad():
            for w in own:
                w[expert] = 0
            logits = [model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in data.prompts]
            for w, before in zip(own, kept, strict=True):
                w.copy_(before)
        without = torch.stack([x[RIGHT] - x[WRONG] for x in logits])
        close(total, found.metric.values - without)
        assert total.abs().max() > 1e-4
    with pytest.raises(errors.BadSweep, match="to zero"):
        rs.direct_attribution(model, data, DIFF, by="expert", remove="mean", over=data, progress=False)
