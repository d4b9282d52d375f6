"""The direct path against the modules of four families themselves, and its KL against pairs counted by hand."""

import math

import pytest
import torch
from bundles import spelling
from dense_weights import NAMES, built

import residscope as rs
from residscope import errors

ASKED = [5, 40, 7]


def heads(name, hf, ids):
    """The logits of the embedding alone and of it with the first MLP, through the published model's own modules."""
    body = {"gpt2": "transformer", "gpt_neox": "gpt_neox"}.get(name, "model")
    stack = getattr(hf, body)
    with torch.no_grad():
        if name == "gpt2":
            x, block, last = stack.wte(ids), stack.h[0], stack.ln_f
            both = x + block.mlp(block.ln_2(x))
        elif name == "gpt_neox":
            x, block, last = stack.embed_in(ids), stack.layers[0], stack.final_layer_norm
            both = x + block.mlp(block.post_attention_layernorm(x))
        else:
            x, block, last = stack.embed_tokens(ids), stack.layers[0], stack.norm
            if name == "gemma2":  # some versions scale inside the embedding, some behind it
                x = hf.model.embed_tokens.weight[ids] * 32**0.5
                made = block.mlp(block.pre_feedforward_layernorm(x))
                both = x + block.post_feedforward_layernorm(made)
            else:
                both = x + block.mlp(block.post_attention_layernorm(x))
        logits = torch.stack([last(x), last(both)]) @ hf.get_output_embeddings().weight.T
        cap = getattr(hf.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_modules_say(name):
    model, hf = built(name)
    found = rs.direct_path(model, ASKED, k=4, progress=False)
    dense = heads(name, hf, torch.tensor(ASKED))
    best = dense.topk(4)
    assert found.top.tolist() == best.indices.tolist()
    torch.testing.assert_close(found.logit, best.values.float(), atol=1e-5, rtol=1e-4)
    chances = dense.softmax(-1).gather(-1, best.indices)
    torch.testing.assert_close(found.probability.values, chances.float(), atol=1e-6, rtol=1e-4)
    assert found.seen.numel() == found.kl.numel() == 0
    assert not torch.allclose(dense[0], dense[1], atol=1e-3)  # the rows differ, so the second is not the first again


def test_without_heads_and_positions_it_is_the_model():
    """A model whose blocks write nothing but the first MLP says the same after a token as the second row."""
    model, _ = built("llama")
    found = rs.direct_path(model, [5], k=3, progress=False)
    cuts = [rs.edits.ablate(f"attn_out.{at}") for at in range(model.n_layers)]
    cuts += [rs.edits.ablate(f"mlp_out.{at}") for at in range(1, model.n_layers)]
    logits = model.run([3, 5], edits=cuts).logits[0, -1].float()
    torch.testing.assert_close(found.logit[1, 0], logits.topk(3).values, atol=1e-5, rtol=1e-4)
    bare = model.run([3, 5], edits=[*cuts, rs.edits.ablate("mlp_out.0")]).logits[0, -1].float()
    torch.testing.assert_close(found.logit[0, 0], bare.topk(3).values, atol=1e-5, rtol=1e-4)


def test_kl_is_from_the_text_s_pairs():
    model = spelling()
    a, b, c = (model.token_id(x) for x in "abc")
    found = rs.direct_path(model, ["a", "b", "d"], k=2, text=["ababacabacb"], progress=False)
    assert found.seen.tolist() == [5, 3, 0]  # a: b b c b c; b: a a a; d never
    told = {}
    for row in range(2):
        whole = rs.direct_path(model, ["a", "b"], k=model.d_vocab, progress=False)
        for at, token in enumerate("ab"):
            chances = whole.probability.values[row, at]
            told[row, token] = {int(id): float(p) for id, p in zip(whole.top[row, at], chances, strict=True)}
    for row in range(2):
        of_a = 0.6 * math.log(0.6 / told[row, "a"][b]) + 0.4 * math.log(0.4 / told[row, "a"][c])
        of_b = -math.log(told[row, "b"][a])
        assert found.kl[row, :2].tolist() == pytest.approx([of_a, of_b], abs=1e-5)
        assert math.isnan(found.kl[row, 2])
        assert found.mean_kl[row] == pytest.approx((5 * of_a + 3 * of_b) / 8, abs=1e-5)
    assert found.view().views[-1].rows[2][1] == 0


def test_a_real_model_s_first_mlp_comes_nearer_to_the_bigram():
    model = rs.load("smollm2-135m")
    found = rs.direct_path(model, [" the", " of", " in", " to"], text="english", read=4000, progress=False)
    assert int(found.seen.min()) > 20
    embedding, both = found.mean_kl
    assert both < embedding


def test_it_is_refused_in_words():
    model, _ = built("llama")
    for tokens, error, words in (
        ([], errors.BadArguments, "several"),
        ("ab", errors.BadArguments, "list of tokens"),
        ([5, 5], errors.BadArguments, "twice"),
        ([97], errors.UnknownToken, "97"),
    ):
        with pytest.raises(error, match=words):
            rs.direct_path(model, tokens, progress=False)
