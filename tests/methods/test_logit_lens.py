"""The lens against the stock model's own norm and unembedding, and against the model with its later blocks taken out."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.methods._lib.lens_reading import Said, read_rows
from tiny_models import left_as_it_was

TEXT = [5, 9, 3, 17, 8, 2, 11]
ADDING = ("gpt2", "llama", "gemma2", "gpt_neox", "qwen3", "phi")


@pytest.mark.parametrize("name", ADDING)
def test_a_row_is_the_model_with_every_later_block_s_additions_zero(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    lens = rs.logit_lens(model, TEXT, token=None, k=3)
    for row in range(model.n_layers + 1):
        cut = [
            edits.ablate(f"{part}.{layer}") for layer in range(row, model.n_layers) for part in ("attn_out", "mlp_out")
        ]
        plain = model.run(TEXT, edits=cut).logits[0].float().softmax(-1)
        values = plain.topk(3).values
        torch.testing.assert_close(lens.probability[row], values, atol=1e-5, rtol=1e-4)
        own = model.run(TEXT).logits[0].float().softmax(-1)
        kl = (own * (own.log() - plain.log())).sum(-1)
        torch.testing.assert_close(lens.kl[row], kl, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(lens.entropy[row], -(plain * plain.log()).sum(-1), atol=1e-4, rtol=1e-3)
        said = own.argmax(-1)
        torch.testing.assert_close(lens.chance.values[row], plain.gather(-1, said[:, None])[:, 0], atol=1e-5, rtol=1e-4)
        assert lens.rank[row].tolist() == (plain > plain.gather(-1, said[:, None])).sum(-1).tolist()
    assert lens.kl[-1].max() < 1e-5


def test_the_default_model_s_lens_is_its_own_norm_and_unembedding(smollm2):
    text = "The capital of France is"
    lens = rs.logit_lens(smollm2, text, token=" Paris", k=2)
    with torch.no_grad(), left_as_it_was(smollm2.hf):
        out = smollm2.hf(torch.tensor([smollm2.encode(text)]), output_hidden_states=True)
        for row in (0, 12, 29):  # the last of transformers' own hidden states is behind the final norm
            plain = smollm2.hf.lm_head(smollm2.hf.model.norm(out.hidden_states[row][0])).softmax(-1)
            torch.testing.assert_close(lens.probability[row], plain.topk(2).values, atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(
                lens.chance.values[row], plain[:, smollm2.token_id(" Paris")], atol=1e-6, rtol=1e-3
            )
    assert lens.token == " Paris"
    assert lens.rank[-1, -1] == int((out.logits[0, -1] > out.logits[0, -1, smollm2.token_id(" Paris")]).sum())


def test_parts_of_a_long_prompt_are_one_lens(monkeypatch):
    model = rs.load((FAMILIES["llama"].build().float(), None))
    whole = rs.logit_lens(model, TEXT, site="resid_mid", k=4)
    monkeypatch.setattr("residscope.methods.reading.logit_lens.PART", 3)
    parts = rs.logit_lens(model, TEXT, site="resid_mid", k=4)
    assert parts.top.tolist() == whole.top.tolist()
    torch.testing.assert_close(parts.kl, whole.kl, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("columns", [3, 7, 100])
@pytest.mark.parametrize("listened", [False, True])
def test_the_vocabulary_in_blocks_is_the_vocabulary(monkeypatch, columns, listened):
    model = rs.load((FAMILIES["gemma2"].build().float(), None))
    monkeypatch.setattr("residscope.methods._lib.lens_reading.COLUMNS", columns)
    hook = model.hf.lm_head.register_forward_hook(lambda module, args, out: out + 0) if listened else None
    lens, rec = rs.logit_lens(model, TEXT, k=9), model.run(TEXT)
    plain = model.lens(rec["resid_post.0"][0]).double().log_softmax(-1)
    own = rec.logits[0].double().log_softmax(-1)
    if hook is not None:
        hook.remove()
    torch.testing.assert_close(lens.probability[1].double(), plain.topk(9).values.exp(), atol=1e-6, rtol=1e-5)
    assert lens.top[1].tolist() == plain.topk(9).indices.tolist()
    torch.testing.assert_close(lens.kl[1].double(), (own.exp() * (own - plain)).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lens.entropy[1].double(), -(plain.exp() * plain).sum(-1), atol=1e-5, rtol=1e-5)
    ids = own.argmax(-1, keepdim=True)
    assert lens.rank[1].tolist() == (plain > plain.gather(-1, ids)).sum(-1).tolist()
    torch.testing.assert_close(lens.chance.values[1].double(), plain.gather(-1, ids)[:, 0].exp(), atol=1e-6, rtol=1e-5)
    assert lens.kl[-1].max() < 1e-6


def test_a_token_that_is_never_said_leaves_every_number_finite():
    hf = FAMILIES["phi"].build().float()
    model = rs.load((hf, None))
    with torch.no_grad():
        hf.lm_head.bias[4] = -3e38
    said = Said(torch.randn(2, model.d_vocab), 4)
    top, probability, *numbers = read_rows(model, torch.randn(3, 2, model.d_model), said, 3)
    assert 4 not in top.flatten().tolist()
    assert all(bool(x.isfinite().all()) for x in (probability, *numbers))
    assert float(numbers[-1].max()) == 0.0
    assert numbers[2].tolist() == [[model.d_vocab - 1] * 2] * 3


def test_under_an_edit_it_reads_the_edited_stream():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    cut = edits.ablate("attn_out.1")
    lens = rs.logit_lens(model, TEXT, background=[cut])
    values = model.run(TEXT, ["resid_post.1"], edits=[cut])["resid_post.1"][0]
    torch.testing.assert_close(lens.probability[2, :, 0], model.lens(values).softmax(-1).amax(-1), atol=1e-6, rtol=1e-5)


def test_it_is_refused_in_words():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    with pytest.raises(errors.PromptError, match="one prompt"):
        rs.logit_lens(model, [TEXT, TEXT])
    with pytest.raises(errors.BadArguments, match="resid_post"):
        rs.logit_lens(model, TEXT, site="z")
