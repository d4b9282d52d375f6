"""Facts against what the models do: a token too far away changes nothing, a tied weight changes both ends."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope.methods.reading.model_facts import local_layers


def built(name):
    return rs.load((FAMILIES[name].build().float(), None))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_has_its_facts(name):
    model = built(name)
    facts = rs.model_facts(model)
    assert len(set(facts.names)) >= 7
    assert all(facts.consequences)
    modules = [module for name, module in model.hf.named_modules() if "norm" in name or "ln_" in name]
    own, last = type(modules[0]).__name__, type(model.layout.final_norm.module).__name__
    assert facts["norms"].startswith("LayerNorm" if "LayerNorm" in own else "RMSNorm")
    assert ("last norm" in facts.names) == (("LayerNorm" in own) != ("LayerNorm" in last))
    assert ("side by side" in facts["blocks"]) == (
        "resid_mid" in model.sites.absent and "mlp_out" not in model.sites.absent
    )
    assert facts["parameters"] == f"{sum(w.numel() for w in model.hf.parameters()):,}"


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "bloom", "phi", "gemma2", "qwen3"])
def test_tied_is_what_a_change_of_the_embedding_does_to_the_unembedding(name):
    model = built(name)
    said = rs.model_facts(model)["unembedding"]
    with torch.no_grad():
        before = model.layout.unembed.weight.clone()
        model.hf.get_input_embeddings().weight.add_(1.0)
    assert (said == "tied to the embedding") == (not torch.equal(before, model.layout.unembed.weight))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_local_layer_sees_its_window_and_no_further(name):
    model = built(name)
    local = local_layers(model)
    length = min(model.context, max(local.values(), default=4) + 4)
    rec = model.run(torch.arange(length)[None] % model.d_vocab, capture=["pattern"])
    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    for layer in range(model.n_layers):
        pattern = rec["pattern", layer][0]
        far = distance >= local.get(layer, length)
        assert not pattern[:, far].any()
        near = (distance >= 0) & ~far
        assert (pattern[:, near] > 0).all()


def test_of_the_default_model(smollm2):
    facts = rs.model_facts(smollm2)
    assert facts["keys and values"] == "3 for 9 heads, 3 heads to each"
    assert facts["unembedding"] == "tied to the embedding"
    assert facts["positions"].startswith("rotary")
    assert facts["parameters"] == "134,515,008"
    assert facts["MLP"] == "gated, silu, 1,536 neurons"
