"""Direct attribution: every family's parts against plain hooks on the stock modules, the sum, edits, refusals."""

from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES
from labelled import labelled

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.methods._lib.direct import direct_effects, direct_sites

EXACT = 2e-6  # float64, but many stock families norm in float32 whatever the model's dtype
RIGHT, WRONG = 5, 7
DIFF = rs.logit_diff(RIGHT, WRONG)


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


def close(a, b, tolerance=EXACT):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


class Watched:
    """A stock model's run with plain hooks: what each module read and gave. No norm is computed here: see `through`."""

    def __init__(self, model, ids):
        self.model, self.read, self.gave = model, {}, {}
        handles = [m.register_forward_hook(self._keep, with_kwargs=True) for m in model.hf.modules()]
        with torch.no_grad():
            self.logits = model.hf(ids, use_cache=False).logits
        for handle in handles:
            handle.remove()

    def _keep(self, module, args, kwargs, output):
        first = args[0] if args else kwargs.get("hidden_states")
        self.read[module] = first.clone() if isinstance(first, torch.Tensor) else first
        output = output[0] if isinstance(output, tuple) else output
        self.gave[module] = output.clone() if isinstance(output, torch.Tensor) else output

    def through(self, norm, write):
        """A write as this norm passes it on, its divisor held: each entry by what became of the same entry of the whole."""
        x, y = self.read[norm], self.gave[norm]
        centred = "Layer" in type(norm).__name__
        bias = getattr(norm, "bias", None)
        y = y if bias is None else y - bias
        x, write = (v - v.mean(-1, keepdim=True) if centred else v for v in (x, write))
        return write * (y / x)


def reference(model, ids):
    """What every head, layer and embedding adds to logit(right) - logit(wrong), at every position."""
    seen, layout, config = Watched(model, ids), model.layout, model.hf.config
    head = model.hf.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    column = (head.weight[RIGHT] - head.weight[WRONG]).detach() * scale
    times = getattr(config, "residual_multiplier", 1.0)
    final = layout.final_norm.module

    def effect(write):
        return (seen.through(final, write.detach()) @ column).detach()

    heads, biases, attn, mlp = [], [], [], []
    for parts in layout.blocks:
        proj, post = parts.attn_proj, parts.attn_post_norm
        z = seen.read[proj]

        def write(x, proj=proj, post=post, linear=True):
            with torch.no_grad():
                out = proj(x) - (proj(torch.zeros_like(x)) if linear else 0)
            return (out if post is None else seen.through(post.module, out)) * times

        per = z.unflatten(-1, (model.n_heads, -1))
        each = [per * (torch.arange(model.n_heads) == h)[:, None] for h in range(model.n_heads)]
        heads.append(torch.stack([effect(write(x.flatten(-2))) for x in each]))
        biases.append(effect(write(torch.zeros_like(z), linear=False)))
        added = write(z, linear=False)
        attn.append(effect(added))
        mlp.append(effect(seen.gave[parts.block] - seen.read[parts.block] - added))
    stack = SimpleNamespace(
        heads=torch.stack(heads), biases=torch.stack(biases), attn=torch.stack(attn), mlp=torch.stack(mlp)
    )
    stack.embed = effect(seen.read[layout.blocks[0].block])
    stack.logits = seen.logits
    return stack


def test_every_part_is_what_plain_hooks_on_the_stock_modules_say(model, ids):
    expected = reference(model, ids)
    found = direct_effects(model.run(ids, direct_sites(model)), DIFF, "each")
    close(found.heads, expected.heads)
    close(found.attn_bias, expected.biases)
    close(found.attn, expected.attn)
    close(found.attn, found.heads.sum(1) + found.attn_bias)
    close(found.embed + (0 if found.pos_embed is None else found.pos_embed), expected.embed)
    if found.mlp is None:
        assert expected.mlp.abs().max() < EXACT
    else:
        close(found.mlp, expected.mlp)
    whole = expected.logits[..., RIGHT] - expected.logits[..., WRONG]
    if (cap := model.layout.factors.logits_cap) is not None:
        before = cap * torch.atanh(expected.logits / cap)
        whole = before[..., RIGHT] - before[..., WRONG]
    close(found.metric, whole)
    close(sum(found.components.values()), whole)
    assert found.heads.abs().max() > 1e-3


def test_every_neuron_is_its_row_of_the_stock_modules_weight(model, ids):
    """A neuron's write is what the MLP's last product makes of it alone."""
    layer = 1
    if "mlp_post" not in model.sites.names:
        with pytest.raises(errors.AbsentSite, match=r"fused|attention only"):
            direct_effects(model.run(ids), DIFF, "each", neurons=[layer])
        return
    found = direct_effects(model.run(ids), DIFF, "each", heads=False, neurons=[layer])
    seen, parts = Watched(model, ids), model.layout.blocks[layer]
    times = getattr(model.hf.config, "residual_multiplier", 1.0)
    head = model.hf.get_output_embeddings()
    scale = getattr(model.hf.config, "logit_scale", None) or 1 / (getattr(model.hf.config, "logits_scaling", None) or 1)
    column = (head.weight[RIGHT] - head.weight[WRONG]).detach() * scale
    with torch.no_grad():
        neurons = seen.read[parts.mlp_down].reshape(2, 11, -1)
        nothing = parts.mlp_down(torch.zeros_like(neurons[0]))
        for i in (0, 17, model.d_mlp - 1):
            alone = torch.zeros_like(neurons)
            alone[..., i] = neurons[..., i]
            write = (parts.mlp_down(alone.flatten(0, 1)) - nothing[:1]).reshape(2, 11, -1)
            write = write if parts.mlp_post_norm is None else seen.through(parts.mlp_post_norm.module, write)
            close(found.neurons[layer][i], seen.through(model.layout.final_norm.module, write * times) @ column)
    close(found.mlp[layer], found.neurons[layer].sum(0) + found.mlp_bias[layer])
    assert found.heads is None
    assert found.neurons[layer].abs().max() > 1e-3


def test_it_is_linear_in_the_metric(model, ids):
    rec = model.run(ids)
    there, back = (direct_effects(rec, rs.logit_diff(*pair)) for pair in ((RIGHT, WRONG), (WRONG, RIGHT)))
    one, other = (direct_effects(rec, rs.logit(token)) for token in (RIGHT, WRONG))
    for name, effect in there.components.items():
        close(effect, -back.components[name])
        close(effect, one.components[name] - other.components[name])
    close(there.heads, -back.heads)
    assert not torch.equal(there.heads, back.heads)


def test_a_head_taken_out_adds_nothing_and_the_edited_run_is_summed(model, ids):
    cut = model.run(ids, direct_sites(model), edits=[edits.ablate("z.1", head=2)])
    found = direct_effects(cut, DIFF, "each")
    assert float(found.heads[1, 2].abs().max()) == 0
    assert found.heads[1, 1].abs().max() > 1e-5
    close(direct_effects(model.run(ids, edits=[edits.ablate("result.1", head=2)]), DIFF, "each").heads, found.heads)


@pytest.mark.parametrize(
    ("edit", "site"),
    [(edits.scale("resid_pre.0", 1.5), "resid_pre.0"), (edits.ablate("resid_pre.2", pos=4), "resid_pre.2"),
     (edits.scale("resid_mid.1", -1.0), "resid_mid.1"), (edits.scale("resid_post.3", 0.5), "resid_post.3"),
     (edits.scale("final_norm", 2.0), "final_norm")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_edit_of_the_stream_is_a_component_of_its_own(kind, edit, site, request, ids):
    of = request.getfixturevalue(kind)
    run = of.run(ids, ["logits"], edits=[edit])
    found = direct_effects(run, DIFF, "each")
    assert [*found.edits] == [site]
    close(sum(found.components.values()), run.logits[..., RIGHT] - run.logits[..., WRONG])
    assert found.edits[site].abs().max() > 1e-3
    if edit.pos is not None:
        assert found.edits[site][:, :4].abs().max() < EXACT


def test_edits_that_are_read_where_they_act(llama, ids):
    """Of attention's output, of norms, of weights: in the terms they change, and in no other."""
    plain = direct_effects(llama.run(ids), DIFF, "each")
    halved = direct_effects(llama.run(ids, edits=[edits.scale("attn_out.3", 0.5)]), DIFF, "each")
    assert not halved.edits
    close(halved.attn[3], halved.heads[3].sum(0) + halved.attn_bias[3])
    close(halved.attn[3], halved.heads[3].sum(0) / 2)
    held = [edits.freeze("norms"), edits.ablate("z.0", head=1)]
    kept = direct_effects(llama.run(ids, edits=held), DIFF, "each")
    assert float(kept.heads[0, 1].abs().max()) == 0
    close(kept.embed, plain.embed)  # the divisor is the unedited run's
    a, b = torch.ones(32, 1).double(), torch.randn(1, 32, generator=torch.Generator().manual_seed(0)).double()
    laid = llama.run(ids, ["logits"], edits=[edits.overlay("model.layers.2.self_attn.o_proj", (a, b))])
    moved = direct_effects(laid, DIFF, "each")
    close(moved.heads[2].sum(0), moved.attn[2])
    assert (moved.heads[2] - plain.heads[2]).abs().max() > 1e-3
    b = torch.randn(1, 97, generator=torch.Generator().manual_seed(0)).double()
    laid = llama.run(ids, ["logits"], edits=[edits.overlay("lm_head", (a, b))])
    moved = direct_effects(laid, DIFF, "each")
    close(moved.metric, laid.logits[..., RIGHT] - laid.logits[..., WRONG])
    assert (moved.embed - plain.embed).abs().max() > 1e-3
    assert not moved.edits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_reason_to_refuse_and_a_part_that_is_lost_is(dtype, ids):
    for name in ("llama", "gpt2", "gemma2", "gpt_oss"):
        of = Model(FAMILIES[name].build(seed=3).to(dtype), name=name)
        assert direct_effects(of.run(ids), DIFF, "each").error < (1e-5 if dtype == torch.float32 else 0.1)
        run = of.run(ids, direct_sites(of))
        for site in ("embed", "attn_out.1", "mlp_out.2", "z.0"):
            lost = {s: torch.zeros_like(x) if str(s) == site else x for s, x in run.held.items()}
            wrong = rs.Recording(of, run.batch, lost, weights=run.version)
            if dtype == torch.float32:
                with pytest.raises(errors.NotAdditive, match="do not sum"):
                    direct_effects(wrong, DIFF, "each")


def test_what_is_no_sum_is_refused(llama, ids):
    rec = llama.run(ids)
    for metric in (rs.log_prob(RIGHT), rs.loss(), rs.kl(rec)):
        with pytest.raises(errors.NotLinear, match="no sum of logits"):
            rs.attribute_logits(rec, metric)
    with pytest.raises(errors.BadEdit, match="logits themselves"):
        rs.direct_attribution(llama, ids, DIFF, background=[edits.scale("logits", 2.0)], progress=False)
    with pytest.raises(errors.BadSweep, match="attribution"):
        rs.attribute_logits(rec, DIFF, by="neurone")
    with pytest.raises(errors.UnalignedPrompts, match="unequal"):
        rs.direct_attribution(llama, [[2, 3, 4], [5, 6]], DIFF, position="each", progress=False)
    with pytest.raises(errors.UnknownPosition, match="name no positions"):
        rs.direct_attribution(llama, [[2, 3, 4]], DIFF, position="S2", progress=False)
    with pytest.raises(errors.UnknownPosition, match="holds positions"):
        rs.direct_attribution(llama, [[2, 3, 4]], DIFF, position=3, progress=False)


# ── the method ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_results_are_those_of_each_prompt_by_itself(llama):
    data = labelled(9)
    found = rs.direct_attribution(llama, data, rs.logit_diff(), batch=4, progress=False)
    assert found.components.dims == ("component", "prompt")
    assert found.heads.dims == ("layer", "head", "prompt")
    for i in (0, 5, 8):
        right, wrong = data.answers[i]
        alone = rs.attribute_logits(llama.run(data.subset([i])), rs.logit_diff(right, wrong), by="head")
        close(found.components.values[:, i], alone.components.values)
        close(found.heads.select(prompt=i).values, alone.heads.values)
        logits = llama.run(data.subset([i]), ["logits"]).logits[0, -1]
        assert float(found.metric.values[i]) == pytest.approx(float(logits[right] - logits[wrong]), abs=1e-5)
    close(found.components.values.sum(0), found.metric.values)
    with_bias = found.heads.values.sum(1) + found.attn_bias.values
    close(with_bias[2], found.components.select(component="attn_out.2").values)
    neurons = rs.direct_attribution(llama, data, rs.logit_diff(), by="neuron", batch=4, progress=False)
    assert neurons.heads is None
    assert neurons.neurons.dims == ("layer", "neuron", "prompt")
    close(neurons.components.values, found.components.values)
    close(
        (neurons.neurons.values.sum(1) + neurons.mlp_bias.values)[2],
        found.components.select(component="mlp_out.2").values,
    )
    tables = [len(x.to_dataframe()) for x in (found, neurons)]
    assert tables == [found.heads.values.numel(), neurons.neurons.values.numel()]
    assert "20 strongest" in neurons.view().views[0].note
    assert found.provenance["error of the sum, at most"] < 1e-5


def test_positions(llama):
    data = labelled(6)
    ends = rs.direct_attribution(llama, data, rs.logit_diff(), position="END", by="component", progress=False)
    last = rs.direct_attribution(llama, data, rs.logit_diff(), by="component", progress=False)
    assert ends.components.values.tolist() == last.components.values.tolist()
    at_p = rs.direct_attribution(llama, data, rs.logit_diff(), position="P", by="component", progress=False)
    assert at_p.heads is None
    assert (at_p.metric.values - last.metric.values).abs().max() > 1e-3
    tokens = [data.prompts[0]]
    each = rs.direct_attribution(llama, tokens, DIFF, position="each", progress=False)
    assert each.components.dims == ("component", "pos")
    assert each.heads.dims == ("layer", "head", "pos")
    own = rs.direct_attribution(llama, tokens, rs.logit_diff(RIGHT, WRONG, pos=2), progress=False)
    close(each.components.select(pos=2).values, own.components.values)
    close(each.heads.select(pos=2).values, own.heads.values)
    for shown in (each, own, last):
        assert shown.view().to_dict()
    assert len(own.view().views) == 3


def test_a_background_that_differs_from_prompt_to_prompt(llama):
    """Edits made from a probe act at each prompt's own position, and are a component there."""
    data = labelled(60)
    probe = rs.fit_probe(llama, data, site="resid_pre.1", position="P", label="parity", Cs=(0.01,), progress=False)
    some, edit = data.subset(range(6)), rs.lrqp(probe, to="other")
    at_p = rs.direct_attribution(llama, some, rs.logit_diff(), position="P", background=[edit], batch=4, progress=False)
    added = at_p.components.select(component="edits of resid_pre.1").values
    assert added.abs().min() > 1e-4
    close(at_p.components.values.sum(0), at_p.metric.values)
    for i in (0, 5):
        logits = llama.run(some.subset([i]), ["logits"], edits=[edit]).logits[0, some.at("P")[i]]
        right, wrong = some.answers[i]
        assert float(at_p.metric.values[i]) == pytest.approx(float(logits[right] - logits[wrong]), abs=1e-5)


def test_what_it_says_of_a_cap():
    capped, plain = (Model(FAMILIES[name].build(), name=name) for name in ("gemma2", "llama"))
    found = rs.direct_attribution(capped, [[2, 3, 4]], DIFF, progress=False)
    assert "before their cap of 5" in found.provenance["logits"]
    assert "cap" not in rs.direct_attribution(plain, [[2, 3, 4]], DIFF, progress=False).provenance["logits"]


def test_on_the_default_model_the_heads_of_the_name_are_found(smollm2):
    """Wang et al.'s prompt: late heads write the name, and the sum is the difference itself."""
    rec = smollm2.run("When John and Mary went to the store, John gave a bottle of milk to")
    found = rs.attribute_logits(rec, rs.logit_diff(" Mary", " John"), by="head")
    logits = rec.logits[0, -1]
    pair = [smollm2.token_id(token) for token in (" Mary", " John")]
    assert float(found.components.values.sum()) == pytest.approx(float(logits[pair[0]] - logits[pair[1]]), abs=1e-4)
    layer, head = divmod(int(found.heads.values.argmax()), smollm2.n_heads)
    assert (layer, head) == (23, 3)
    twice = rs.logit((" Mary", " John"))
    assert float(twice(rec)[0]) == pytest.approx(float(logits[pair].mean()), abs=1e-5)


def test_on_the_default_model_one_weak_head_left_out_is_seen(smollm2):
    """The check is no formality: a thousandth of a logit that is missing is refused."""
    run = smollm2.run("The Eiffel Tower is in the city of", direct_sites(smollm2))
    metric = rs.logit_diff(" Paris", " London")
    heads = direct_effects(run, metric).heads[..., 0, 0]
    layer, head = divmod(int((heads.abs() - 1e-3).abs().argmin()), smollm2.n_heads)
    assert 5e-4 < float(heads[layer, head].abs()) < 2e-3
    lost = run.held
    site = rs.Site("attn_out", layer)
    W_O = smollm2.hf.model.layers[layer].self_attn.o_proj.weight.detach().T.reshape(9, 64, 576)
    lost[site] = lost[site] - lost[rs.Site("z", layer)][:, :, head] @ W_O[head]
    with pytest.raises(errors.NotAdditive, match="do not sum"):
        direct_effects(rs.Recording(smollm2, run.batch, lost, weights=run.version), metric, heads=False)
