"""Direct attribution by expert and by dictionary feature: against the stock modules, their sums, refusals."""

import pytest
import torch
from families import FAMILIES
from labelled import labelled

import residscope as rs
from residscope import edits, errors
from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.methods._lib.direct import direct_effects, direct_sites
from tiny_models import IOI

EXACT = 2e-6
RIGHT, WRONG = 5, 7
DIFF = rs.logit_diff(RIGHT, WRONG)
SITES = ("mlp_out", "attn_out", "resid_pre", "resid_mid", "resid_post", "embed", "result", "z", "mlp_post")
MIXTURES = [name for name, tiny in FAMILIES.items() if "router" not in tiny.absent]


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


@pytest.fixture(params=MIXTURES, scope="module")
def mixture(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


def close(a, b, tolerance=EXACT):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def dictionary(site, width, n=12, *, written=None, seed=0, **more):
    draw = torch.Generator().manual_seed(seed)
    read, write = (torch.randn(n, width, generator=draw, dtype=torch.float64) for _ in range(2))
    base, mean = (torch.randn(width, generator=draw, dtype=torch.float64) for _ in range(2))
    parts = {"mean": mean, "bias": torch.randn(n, generator=draw, dtype=torch.float64), "base": base}
    return EncoderDictionary("sae", site, read, write, **parts, written=written, **more)


def test_the_experts_sum_to_the_mlp_and_each_is_what_the_stock_module_loses_without_it(mixture, ids):
    """Without an expert: its down projection (and its bias) at zero, in the stock model, at the last layer."""
    run, layer = mixture.run(ids), mixture.n_layers - 1
    found = direct_effects(run, DIFF, "each", experts=True)
    bias = torch.stack([found.mlp_bias[i] for i in range(mixture.n_layers)])
    close(found.experts.sum(1) + bias, found.mlp)
    assert float(bias.abs().max()) == 0
    chosen = (found.experts != 0).sum(1)
    assert (chosen == mixture.hf.config.num_experts_per_tok).all()
    weights = mixture.layout.blocks[layer].experts
    sigma, read = _reading(mixture, run)
    for expert in range(mixture.sites.sizes.n_experts):
        kept = {name: w.detach().clone() for name, w in weights.named_parameters() if "down" in name}
        with torch.no_grad():
            for name in kept:
                getattr(weights, name)[expert] = 0
            without = mixture.run(ids)[f"mlp_out.{layer}"]
            for name, w in kept.items():
                getattr(weights, name).copy_(w)
        lost = mixture.run(ids)[f"mlp_out.{layer}"] - without
        close(found.experts[layer, expert], (lost / sigma) @ read)
    assert found.experts[layer].abs().max() > 1e-4


def _reading(model, run):
    """The divisor of the last norm, measured, and the metric's direction: these families have RMSNorm."""
    x, y, norm = run[f"resid_post.{model.n_layers - 1}"], run["final_norm"], model.hf.model.norm
    sigma = (x * norm.weight.detach() / y).mean(-1, keepdim=True)
    head = model.hf.lm_head.weight.detach()
    return sigma, norm.weight.detach() * (head[RIGHT] - head[WRONG])


def test_experts_under_edits_of_the_router_and_of_the_mlp(mixture, ids):
    halved = [edits.scale("router.1", 0.5), edits.scale("mlp_out.0", 0.5)]
    plain = direct_effects(mixture.run(ids, edits=[edits.scale("router.1", 0.5)]), DIFF, "each", experts=True)
    found = direct_effects(mixture.run(ids, edits=halved), DIFF, "each", experts=True)
    close(found.experts.sum(1)[1] + found.mlp_bias[1], found.mlp[1])
    assert found.mlp_bias[0].abs().max() > 1e-4
    assert (plain.experts - direct_effects(mixture.run(ids), DIFF, "each", experts=True).experts).abs().max() > 1e-5


def test_a_report_of_experts(mixture):
    found = rs.direct_attribution(
        mixture, labelled(3, ragged=False), DIFF, by="expert", position="each", progress=False
    )
    assert found.experts.dims == ("layer", "expert", "pos", "prompt")
    mlp = [found.components.select(component=f"mlp_out.{i}").values for i in range(mixture.n_layers)]
    close(found.experts.values.sum(1) + found.mlp_bias.values, torch.stack(mlp))
    assert found.view().title
    with pytest.raises(errors.AbsentSite, match="dense"):
        rs.direct_attribution(Model(FAMILIES["llama"].build(), name="llama"), [[2, 3]], DIFF, by="expert")


def test_features_bias_and_error_sum_to_what_they_decompose(model, ids):
    """At every kind of site that writes into the stream: to the component there, or to all that was written before."""
    places = [name for name in SITES if name in model.sites.names]
    run, heads = model.run(ids, [*places, *direct_sites(model)]), model.n_heads
    whole = direct_effects(run, DIFF, "each")
    end = whole.metric - sum(0 if b is None else b for b in (whole.norm_bias, whole.unembed_bias))
    flat = {"z": heads * model.sites.sizes.d_head, "mlp_post": model.d_mlp, "result": heads * model.d_model}
    for name in places:
        site = model.sites.expand(name)[-1 if name != "resid_pre" else 1]
        d, layer = dictionary(str(site), flat.get(name, model.d_model)), site.layer or 0
        found = direct_effects(run, DIFF, "each", heads=False, features=d).features
        close(found.features.sum(0) + found.bias + found.error, found.whole, 1e-5)
        own = {"attn_out": whole.attn[layer], "embed": whole.embed, "resid_post": end}
        own |= dict.fromkeys(("z", "result"), whole.heads[layer].sum(0))
        own |= {} if whole.mlp is None else {"mlp_out": whole.mlp[layer]}
        if name in own:
            close(found.whole, own[name], 1e-5)
        active = d.encode(run[site].double().flatten(2)) != 0
        assert ((found.features != 0) == active.movedim(-1, 0)).all()
        assert found.features.abs().max() > 1e-4


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm"])
def test_a_feature_is_what_the_metric_loses_when_it_is_taken_out_and_the_norm_is_held(llama, ids, normalise):
    d = dictionary("resid_pre.3", 32, normalise=normalise)
    last = dictionary(f"resid_post.{llama.n_layers - 1}", 32, normalise=normalise)
    found = direct_effects(llama.run(ids), DIFF, -1, features=last).features
    held = edits.freeze("final_scale")
    base = DIFF(llama.run(ids))
    for i in range(12):
        cut = llama.run(ids, edits=[edits.feature(last, i, 0.0), held])
        close(found.features[i, :, 0], base - DIFF(cut))
    assert direct_effects(llama.run(ids), DIFF, -1, features=d).features.error.abs().max() > 1e-3


def test_a_transcoder_and_a_linear_path(llama, ids):
    skip = torch.randn(32, 32, generator=torch.Generator().manual_seed(3)).double()
    d = dictionary("mlp_in.2", 32, written="mlp_out.2", skip=skip)
    effects = direct_effects(llama.run(ids), DIFF, "each", features=d)
    close(effects.features.whole, effects.mlp[2])
    close(effects.features.features.sum(0) + effects.features.bias + effects.features.error, effects.mlp[2], 1e-5)


@pytest.mark.parametrize("site", ["z.2", "result.2"])
def test_a_dictionary_of_one_head_decomposes_that_head(llama, ids, site):
    width = {"z": llama.sites.sizes.d_head, "result": 32}[site.partition(".")[0]]
    read, mean = torch.randn(6, width, generator=torch.Generator().manual_seed(0)).double(), torch.ones(width).double()
    d = rs.Dictionary(name="svd", site=site, read=read, write=read, mean=mean, head=3)
    effects = direct_effects(llama.run(ids), DIFF, "each", features=d)
    close(effects.features.whole, effects.heads[2, 3])
    close(effects.features.features.sum(0) + effects.features.bias + effects.features.error, effects.heads[2, 3], 1e-5)


def test_directions_are_features_with_their_own_coordinates(llama, ids):
    pca = rs.Dictionary(
        name="pca",
        site="resid_pre.2",
        read=torch.eye(32)[:4].double(),
        write=torch.eye(32)[:4].double(),
        mean=torch.ones(32).double(),
    )
    run = llama.run(ids)
    whole = rs.attribute_logits(run, DIFF, by="feature", dictionary=pca)
    one = rs.attribute_logits(run, DIFF, by="feature", dictionary=pca[3])
    two = rs.attribute_logits(run, DIFF, by="feature", dictionary=[pca[0], pca[3]])
    close(one.features.values[0], whole.features.values[3])
    close(two.features.values, whole.features.values[[0, 3]])
    assert one.decomposed.values.allclose(whole.decomposed.values)


def test_a_report_of_features(llama):
    d = dictionary("mlp_out.1", 32)
    data = labelled(5, ragged=False)
    found = rs.direct_attribution(llama, data, DIFF, by="feature", dictionary=d, batch=2, progress=False)
    assert found.features.dims == ("feature", "prompt")
    sums = found.features.values.sum(0) + found.beside_features.values.sum(0)
    close(sums, found.decomposed.values, 1e-5)
    close(found.decomposed.values, found.components.select(component="mlp_out.1").values)
    assert found.provenance["dictionary hash"] == d.hash
    assert "features" in repr(found)
    assert found.view().views[0].title == "Features"


def test_what_is_no_feature_of_the_stream(llama, ids):
    run = llama.run(ids)
    with pytest.raises(errors.BadSweep, match="takes a dictionary"):
        rs.attribute_logits(run, DIFF, by="feature")
    with pytest.raises(errors.BadSweep, match="takes a dictionary"):
        rs.attribute_logits(run, DIFF, by="head", dictionary=dictionary("mlp_out.1", 32))
    with pytest.raises(errors.DirectionError, match="writes into the stream"):
        rs.attribute_logits(run, DIFF, by="feature", dictionary=dictionary("mlp_in.1", 32))
    with pytest.raises(errors.WrongWidth):
        rs.attribute_logits(run, DIFF, by="feature", dictionary=dictionary("mlp_out.1", 31))
    pair = [dictionary(site, 32)[0] for site in ("mlp_out.1", "mlp_out.2")]
    with pytest.raises(errors.DirectionError, match="different sites"):
        rs.attribute_logits(run, DIFF, by="feature", dictionary=pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_reason_to_refuse_and_a_part_that_is_lost_is(dtype, ids):
    for name, site in (("mixtral", "router.1"), ("gpt_oss", "mlp_in.2")):
        of = Model(FAMILIES[name].build(seed=3).to(dtype), name=name)
        how = {"features": dictionary("mlp_out.1", 32), "experts": True}
        assert direct_effects(of.run(ids), DIFF, "each", **how).experts.abs().max() > 1e-4
        run = of.run(ids, direct_sites(of, **how))
        lost = {s: torch.zeros_like(x) if str(s) == site else x for s, x in run.held.items()}
        if dtype == torch.float32:
            with pytest.raises(errors.NotAdditive, match="experts"):
                direct_effects(rs.Recording(of, run.batch, lost, weights=run.version), DIFF, "each", **how)


def test_features_of_another_stream_than_was_written_are_refused(llama, ids):
    d = dictionary("resid_pre.2", 32)
    run = llama.run(ids, direct_sites(llama, features=d))
    for size, right in ((1.0, True), (1.01, False)):
        held = {s: x * size if str(s) == "resid_pre.2" else x for s, x in run.held.items()}
        other = rs.Recording(llama, run.batch, held, weights=run.version)
        if right:
            assert direct_effects(other, DIFF, "each", features=d).error < 1e-5
        else:
            with pytest.raises(errors.NotAdditive, match="features of sae"):
                direct_effects(other, DIFF, "each", features=d)


def test_a_shipped_dictionary_of_the_default_model(smollm2):
    d = rs.sae.load("shipped", smollm2)["sae@resid_post.11"]
    found = rs.direct_attribution(
        smollm2, IOI, rs.logit_diff(" Mary", " John"), by="feature", dictionary=d, progress=False
    )
    total = found.features.values.sum() + found.beside_features.values.sum()
    assert float(total) == pytest.approx(float(found.decomposed.values), abs=1e-3)
    before = [
        name
        for name in found.components.coords["component"]
        if name == "embed" or int(name.partition(".")[2] or 99) < 12
    ]
    parts = found.components.select(component=before).values
    assert float(parts.sum()) == pytest.approx(float(found.decomposed.values), abs=1e-3)
    assert len(found.features.values) < len(d) / 2
