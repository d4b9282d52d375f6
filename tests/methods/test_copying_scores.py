"""Copying scores: against the dense circuit over a tiny vocabulary, and the circuits' matrices against every family's own run."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.methods._lib.circuits import embedding_to_logits, output_weights, value_weights

EXACT = 2e-6


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


def test_values_are_the_stream_through_these_weights(model, ids):
    """v less its bias, from the stream over the norm's divisor: what differs between two tokens."""
    rec = model.run(ids, ["resid_pre", "v", *(["attn_scale"] if "attn_scale" in model.sites.names else [])])
    for layer in range(model.n_layers):
        x = rec["resid_pre", layer]
        x = x / rec["attn_scale", layer] if "attn_scale" in model.sites.names else x
        rest = rec["v", layer] - torch.einsum("bpm,hmd->bphd", x, value_weights(model, layer))
        spread = (rest - rest[:1, :1]).abs().max()
        assert spread < 1e-5 * rec["v", layer].abs().max() + EXACT
        assert rec["v", layer].std() > 1e-3


def test_heads_write_through_these_weights(model, ids):
    posted = "attn_post_scale" in model.sites.names
    rec = model.run(ids, ["z", "attn_out", *(["attn_post_scale"] if posted else [])])
    for layer in range(model.n_layers):
        written = torch.einsum("bphd,hdm->bpm", rec["z", layer], output_weights(model, layer))
        written = (written / rec["attn_post_scale", layer] if posted else written) * model.layout.factors.residual
        rest = rec["attn_out", layer] - written
        if not posted:  # where a post-norm stands, its divisor is over the projection's bias too
            assert (rest - rest[:1, :1]).abs().max() < EXACT
        else:
            assert rest.abs().max() < EXACT


def dense(name, hf):
    """W_E G W_V W_O G' W_U of every head, layer by layer, with the modules' own names and packings written out."""
    heads, d = 4, 32
    one, C = torch.ones(d).double(), torch.eye(d).double() - 1 / d
    if name in ("llama", "gemma2", "olmo2"):
        offset, W_E, W_U = float(name == "gemma2"), hf.model.embed_tokens.weight, hf.lm_head.weight.T
        for layer in hf.model.layers:
            attn = layer.self_attn
            before = one if name == "olmo2" else layer.input_layernorm.weight + offset
            post = one if name == "llama" else layer.post_attention_layernorm.weight + offset
            W_V = attn.v_proj.weight.T.unflatten(1, (2, -1)).repeat_interleave(2, 1)
            W_O = attn.o_proj.weight.T.unflatten(0, (heads, -1))
            after = torch.diag(post) @ torch.diag(hf.model.norm.weight + offset) @ W_U
            yield [W_E @ torch.diag(before) @ W_V[:, h] @ W_O[h] @ after for h in range(heads)]
        return
    stack, W_U = hf.transformer, hf.lm_head.weight.T
    after = C @ torch.diag(stack.ln_f.weight) @ W_U
    for block in stack.h:
        if name == "gpt2":
            W_E, before = stack.wte.weight, block.ln_1.weight
            W_V = block.attn.c_attn.weight[:, 2 * d :].unflatten(1, (heads, -1))
            W_O = block.attn.c_proj.weight.unflatten(0, (heads, -1))
        else:
            assert name == "bloom"
            W_E, before = stack.word_embeddings_layernorm(stack.word_embeddings.weight), block.input_layernorm.weight
            W_V = block.self_attention.query_key_value.weight.reshape(heads, 3, -1, d)[:, 2].permute(2, 0, 1)
            W_O = block.self_attention.dense.weight.T.unflatten(0, (heads, -1))
        yield [W_E @ C @ torch.diag(before) @ W_V[:, h] @ W_O[h] @ after for h in range(heads)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "olmo2", "bloom"])
def test_the_score_is_that_of_the_dense_circuit(name):
    hf = FAMILIES[name].build()
    found = rs.copying_scores(Model(hf, name=name), progress=False)
    assert found.dims == ("layer", "head")
    with torch.no_grad():
        for layer, circuits in enumerate(dense(name, hf)):
            for head, circuit in enumerate(circuits):
                assert circuit.shape == (97, 97)
                values = torch.linalg.eigvals(circuit)
                score = float(values.real.sum() / values.abs().sum())
                assert float(found.values[layer, head]) == pytest.approx(score, abs=1e-6)
    assert found.values.abs().max() > 0.05


def test_a_head_that_copies_scores_one_and_one_that_negates_minus_one():
    """Values and output each other's transposes, embeddings tied, no gains: W_E M M^T W_E^T has no eigenvalue below zero."""
    hf = FAMILIES["gpt2"].build()
    with torch.no_grad():
        hf.transformer.ln_f.weight.fill_(1)
        block = hf.transformer.h[0]
        block.ln_1.weight.fill_(1)
        V = block.attn.c_attn.weight[:, 64:]
        block.attn.c_proj.weight.copy_(V.T)
        block.attn.c_proj.weight[8:16] *= -1
    scores = rs.copying_scores(Model(hf), progress=False).values[0]
    assert scores.tolist() == pytest.approx([1, -1, 1, 1], abs=1e-6)


def test_a_prompt_longer_than_the_context_is_not_needed():
    """d_model entries are read in rows of the context's length."""
    config = {**FAMILIES["gpt2"].fields, "n_positions": 12}
    hf = type(FAMILIES["gpt2"])("GPT2", config).build()
    model = Model(hf)
    assert model.context < model.d_model
    W_V = hf.transformer.h[1].attn.c_attn.weight.detach()[:, 64:].reshape(32, 4, 8).transpose(0, 1)
    gain = hf.transformer.h[1].ln_1.weight.detach()[:, None]
    expected = gain * W_V - (gain * W_V).mean(1, keepdim=True)
    torch.testing.assert_close(value_weights(model, 1), expected, atol=1e-9, rtol=1e-9)


def test_embeddings_are_read_as_they_are_added(llama):
    hf = llama.hf
    expected = hf.model.norm.weight[:, None] * (hf.lm_head.weight.T @ hf.model.embed_tokens.weight)
    torch.testing.assert_close(embedding_to_logits(llama), expected.detach(), atol=1e-9, rtol=1e-9)


def test_refusals(llama, monkeypatch):
    with pytest.raises(errors.UnknownLayer, match="4 layers"):
        rs.copying_scores(llama, layers=[1, 4], progress=False)
    monkeypatch.setattr(type(llama), "quantised", property(lambda self: "int8"))
    with pytest.raises(errors.QuantisedModel, match="OV circuit"):
        rs.copying_scores(llama, progress=False)


def test_some_layers(llama):
    whole, some = rs.copying_scores(llama, progress=False), rs.copying_scores(llama, layers=[3, 1], progress=False)
    assert some.coords["layer"] == (3, 1)
    assert some.select(layer=3).values.tolist() == whole.select(layer=3).values.tolist()


def test_on_the_default_model_both_signs_are_found(smollm2):
    found = rs.copying_scores(smollm2, progress=False).values
    assert found.shape == (30, 9)
    assert found.max() > 0.95
    assert found.min() < -0.95
    assert float(found.abs().max()) <= 1 + 1e-9
