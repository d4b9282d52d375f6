"""Formats whose libraries are not at hand, written as they write them; what is expected is the equation in float64."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import residscope as rs
from residscope import errors
from residscope.sae import folding
from residscope.sae.hooks import hook_of, site_of
from sae.written import D, F, K, saelens, weights

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


X = torch.randn(9, D, generator=torch.Generator().manual_seed(5)) * 2


def relu(w, x, *, subtracted=False, threshold=None):
    """Activations of jumprelu, or relu, one feature at a time in float64."""
    p = [(x.double() - (w["b_dec"] if subtracted else 0)) @ w["W_enc"][:, i].double() + w["b_enc"][i] for i in range(F)]
    p = torch.stack(p, -1)
    return torch.where(p > (0 if threshold is None else threshold.double()), p, 0)


def decoded(w, a):
    return a @ w["W_dec"].double() + w["b_dec"].double()


def check(sae, a, y):
    torch.testing.assert_close(sae.encode(X).double(), a, **CLOSE)
    torch.testing.assert_close(sae.reconstruct(X).double(), y, **CLOSE)
    assert (a > 0).any()
    assert (a == 0).any()


@pytest.mark.parametrize(
    ("repository", "folder", "sites"),
    [
        ("gemma-scope-2b-pt-res", "layer_7/width_16k/average_l0_71", ("resid_post.7", "resid_post.7")),
        ("gemma-scope-2b-pt-mlp", "layer_7/width_16k/average_l0_71", ("mlp_out.7", "mlp_out.7")),
        ("gemma-scope-2b-pt-att", "layer_7/width_16k/average_l0_71", ("z.7", "z.7")),
        ("gemma-scope-2b-pt-transcoders", "layer_7/width_16k/average_l0_71", ("mlp_in.7", "mlp_out.7")),
    ],
)
def test_gemma_scope(tmp_path, repository, folder, sites):
    w, place = weights(), tmp_path / "google" / repository / folder
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **{k: v.numpy() for k, v in w.items() if k != "W_skip"})
    for source in (place, place / "params.npz"):
        sae = rs.sae.load(source)
        assert (sae.site, sae.write_site) == sites
        a = relu(w, X, threshold=w["threshold"])
        check(sae, a, decoded(w, a))
    assert sae.provenance["model name"] == "google/gemma-2-2b"
    assert sae.provenance["bos"] is True


def test_gemma_scope_s_embedding_is_read_before_it_is_scaled(tmp_path):
    w, place = weights(), tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **{k: v.numpy() for k, v in w.items() if k != "W_skip"})
    sae = rs.sae.load(place)
    assert sae.site == "embed"
    a = relu(w, X / D**0.5, threshold=w["threshold"])
    check(sae, a, decoded(w, a) * D**0.5)


def test_gemma_scope_2_and_its_skip(tmp_path):
    w, place = weights(), tmp_path / "gemma-scope-2-1b-pt" / "transcoder" / "layer_5_width_16k"
    place.mkdir(parents=True)
    names = {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
    told = {theirs: w[ours] for theirs, ours in names.items()} | {"affine_skip_connection": w["W_skip"]}
    save_file(told, place / "params.safetensors")
    norm = "model.layers.5.{}_feedforward_layernorm.output"
    hooks = {"hf_hook_point_in": norm.format("pre"), "hf_hook_point_out": norm.format("post")}
    (place / "config.json").write_text(
        json.dumps({"architecture": "jump_relu", "model_name": "gemma-3-1b-pt", **hooks})
    )
    sae = rs.sae.load(place)
    assert (sae.site, sae.write_site) == ("mlp_in.5", "mlp_out.5")
    a = relu(w, X, threshold=w["threshold"])
    check(sae, a, decoded(w, a) + X.double() @ w["W_skip"].double())


@pytest.mark.parametrize("activation", ["ReLU", "TopK"])
def test_openai(tmp_path, activation):
    w, place = weights(), tmp_path / "gpt2-small" / "resid_delta_mlp_v5_32k" / "autoencoders"
    place.mkdir(parents=True)
    state = {
        "pre_bias": w["b_dec"], "latent_bias": w["b_enc"], "encoder.weight": w["W_enc"].T.contiguous(),
        "decoder.weight": w["W_dec"].T.contiguous(), "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
        "activation": activation,
    }  # fmt: skip
    state |= {"activation_state_dict": {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {}}
    torch.save(state, place / "6.pt")
    sae = rs.sae.load(place / "6.pt")
    assert (sae.site, sae.provenance["model name"]) == ("mlp_out.6", "gpt2")
    x, mean, sd = X.double(), 0.0, 1.0
    if activation == "TopK":
        mean = x.mean(1, keepdim=True)
        sd = (x - mean).square().sum(1, keepdim=True).div(D - 1).sqrt()
        x = (x - mean) / (sd + 1e-5)
    p = (x - w["b_dec"]) @ w["W_enc"].double() + w["b_enc"]
    a = p.clamp(min=0)
    if activation == "TopK":
        a = torch.where(p >= p.sort(1, descending=True).values[:, K - 1 : K], a, 0)
    check(sae, a, decoded(w, a) * sd + mean)


@pytest.mark.parametrize("jumps", [False, True])
def test_circuit_tracer_a_file_a_layer(tmp_path, jumps):
    several = [weights(seed) for seed in range(3)]
    for i, w in enumerate(several):
        told = {"W_enc": w["W_enc"].T.contiguous(), **{k: w[k] for k in ("W_dec", "b_enc", "b_dec", "W_skip")}}
        told |= {"activation_function.threshold": w["threshold"]} if jumps else {}
        save_file(told, tmp_path / f"layer_{i}.safetensors")
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (tmp_path / "config.yaml").write_text(
        "model_name: Qwen/Qwen3-1.7B\n" + "".join(f"{k}: {v}\n" for k, v in hooks.items())
    )
    found = rs.sae.load(tmp_path)
    assert [*found] == ["layer_0", "layer_1", "layer_2"]
    for i, (sae, w) in enumerate(zip(found.values(), several, strict=True)):
        assert (sae.site, sae.write_site) == (f"resid_mid.{i}", f"mlp_out.{i}")
        a = relu(w, X, threshold=w["threshold"] if jumps else None)
        check(sae, a, decoded(w, a) + X.double() @ w["W_skip"].double().T)
    assert rs.sae.load(tmp_path / "layer_1.safetensors").hash == found["layer_1"].hash


def test_centring_of_the_model_s_weights_is_folded(tmp_path):
    w = weights()
    kwargs = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = rs.sae.load(saelens(tmp_path / "a", w, **kwargs))
    assert sae.provenance["centred"] is True
    centred = X - X.mean(1, keepdim=True)
    a = relu(w, centred, subtracted=True)
    check(sae, a, decoded(w, a))
    torch.testing.assert_close(sae.encode(centred), sae.encode(X), **CLOSE)
    plain = rs.sae.load(tmp_path / "a", centred=False)
    torch.testing.assert_close(plain.encode(X).double(), relu(w, X, subtracted=True), **CLOSE)
    elsewhere = rs.sae.load(saelens(tmp_path / "b", w, hook_name="blocks.3.ln2.hook_normalized", **kwargs))
    torch.testing.assert_close(elsewhere.encode(X).double(), relu(w, X, subtracted=True), **CLOSE)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["relu", "gated", "jumprelu", "layer_norm"]))
def test_folding_is_exact_whatever_the_weights(seed, kind):
    """Centred, scaled, with the decoder's norms: each against the same dictionary fed what the peer was fed."""
    w = weights(seed)
    parts = {
        "read": w["W_enc"].T.double(), "write": w["W_dec"].double(), "bias": w["b_enc"].double(), "base": w["b_dec"].double(),
        "mean": w["b_dec"].double() * 3, "skip": w["W_skip"].double(),
    }  # fmt: skip
    if kind == "gated":
        gates = {"gate_bias": w["b_enc"].double() * 2 + 0.1, "gate_scale": w["threshold"].double()}
        parts |= {"activation": "gated", **gates}
    parts |= {"activation": "jumprelu", "threshold": w["threshold"].double()} if kind == "jumprelu" else {}
    parts |= {"normalise": "layer_norm"} if kind == "layer_norm" else {}

    def made(parts):
        return rs.directions.EncoderDictionary("sae", "mlp_in.1", written="mlp_out.1", **parts)

    x, plain = X.double(), made(parts)
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(made(folding.centred(parts)).encode(x), plain.encode(centred))
    torch.testing.assert_close(made(folding.centred(parts)).reconstruct(x), plain.reconstruct(centred))
    if kind != "layer_norm":
        torch.testing.assert_close(made(folding.scaled(parts, 0.37)).encode(x), plain.encode(x * 0.37))
    if kind == "relu":
        unit = made(folding.unit_decoder(parts))
        torch.testing.assert_close(unit.write.norm(dim=1), torch.ones(F).double())
        torch.testing.assert_close(unit.reconstruct(x), plain.reconstruct(x))


def test_the_scale_of_the_input_is_folded_where_it_is_known(tmp_path):
    w = weights()
    how = {"normalize_activations": "expected_average_only_in"}
    folder = saelens(tmp_path / "a", w, **how)
    with pytest.raises(errors.DirectionError, match="scale="):
        rs.sae.load(folder)
    for sae in (
        rs.sae.load(folder, scale=0.5),
        rs.sae.load(saelens(tmp_path / "b", w, norm_scaling_factor=0.5, **how)),
    ):
        a = relu(w, X * 0.5, subtracted=True)
        check(sae, a, decoded(w, a) / 0.5)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    a = relu(w, X * 0.25, subtracted=True)
    check(rs.sae.load(folder), a, decoded(w, a) / 0.25)
    boolean = rs.sae.load(saelens(tmp_path / "c", w, normalize_activations=True, norm_scaling_factor=0.5))
    torch.testing.assert_close(boolean.encode(X), sae.encode(X))


def test_a_finetuned_scaling_factor_goes_into_the_decoder(tmp_path):
    w, factor = weights(), torch.rand(F) + 0.5
    sae = rs.sae.load(saelens(tmp_path, w, more={"scaling_factor": factor}, finetuning_scaling_factor=True))
    a = relu(w, X, subtracted=True)
    check(sae, a, decoded(w, a * factor))


def test_several_in_a_folder_by_their_ids(tmp_path):
    for layer in (3, 10):
        saelens(tmp_path / f"blocks.{layer}.hook_resid_pre", weights(layer), hook_name=f"blocks.{layer}.hook_resid_pre")
    save_file({"sparsity": torch.zeros(F)}, tmp_path / "blocks.3.hook_resid_pre" / "sparsity.safetensors")
    found = rs.sae.load(tmp_path)
    assert {id: sae.site for id, sae in found.items()} == {
        f"blocks.{i}.hook_resid_pre": f"resid_pre.{i}" for i in (3, 10)
    }
    assert "SAELens" in found["blocks.3.hook_resid_pre"].provenance["format"]


HOOKS = {
    "blocks.6.hook_resid_pre": "resid_pre.6", "blocks.6.hook_resid_mid": "resid_mid.6", "blocks.11.hook_mlp_out": "mlp_out.11",
    "blocks.3.attn.hook_z": "z.3", "blocks.3.hook_z": "z.3", "blocks.3.ln2.hook_normalized": "mlp_in.3",
    "layers.10": "resid_post.10", "resid_pre_layer_8": "resid_pre.8",
    "blocks.3.ln1.hook_normalized": "attn_in.3", "blocks.3.mlp.hook_post": "mlp_post.3", "blocks.3.mlp.hook_in": "mlp_in.3",
    "blocks.3.hook_mlp_in": "resid_mid.3", "transformer.h.4": "resid_post.4", "model.layers.3.mlp": "mlp_raw.3",
    "gpt_neox.layers.3.attention": "attn_raw.3", "model.layers.3.self_attn.o_proj.input": "z.3", "layers_7": "resid_post.7",
    "model.layers.3.output": "resid_post.3", "model.layers.3.input": "resid_pre.3", "embed_tokens": "embed",
    "resid_post_layer_8": "resid_post.8", "hook_embed": "embed", "resid_pre.2": "resid_pre.2",
    "attention_out_layer_1": "attn_out.1",
}  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_peers_hooks_are_sites(hook):
    assert site_of(hook) == HOOKS[hook]


@pytest.mark.parametrize(
    "site", ["resid_pre.3", "resid_mid.0", "resid_post.11", "z.3", "mlp_in.2", "attn_in.1", "mlp_out.4", "embed"]
)
def test_a_site_s_hook_means_it_again(site):
    assert site_of(hook_of(site)) == site


def test_a_hook_that_means_nothing_is_refused():
    with pytest.raises(errors.UnknownSite, match="site="):
        site_of("blocks.3.hook_nonsense")
