"""One real pretrained model: SmolLM2-135M-Instruct, and the numbers the field knows it by."""

import pytest
import torch

import residscope as rs
from residscope import directions, edits, errors
from tiny_models import IOI

MARY, JOHN = " Mary", " John"


def test_the_next_token_is_mary(smollm2):
    rec = smollm2.run(IOI)
    text, _, p = rec.top(1)[0]
    assert text == MARY
    assert p == pytest.approx(0.93, abs=0.01)
    assert float(rs.logit_diff(MARY, JOHN)(rec)) == pytest.approx(4.27, abs=0.05)
    assert float(rs.log_prob(MARY)(rec).exp()) == pytest.approx(p, abs=1e-4)


def test_logits_are_the_stock_models(smollm2):
    ids = smollm2.tokens(IOI)
    with torch.no_grad():
        stock = smollm2.hf(ids).logits
    ours = smollm2.run(IOI, smollm2.sites.names).logits
    assert ((ours - stock).norm(dim=-1) / stock.norm(dim=-1)).max() < 1e-5


def test_the_answers_direction_grows_in_the_later_layers(smollm2):
    rec, d = smollm2.run(IOI), directions.logit_diff(smollm2, MARY, JOHN)
    by_layer = torch.stack([d.project(rec["resid_post", i], model=smollm2)[0, -1] for i in range(30)])
    assert by_layer[-1] == pytest.approx(4.27, abs=0.05)
    assert by_layer[24:].min() > 0
    assert by_layer[:20].max() < 0


def test_head_23_3_helps_mary(smollm2):
    m = rs.logit_diff(MARY, JOHN)
    cut = smollm2.run(IOI, edits=[edits.ablate("z.23", head=3)])
    assert float(m(smollm2.run(IOI)) - m(cut)) == pytest.approx(2.45, abs=0.1)


def test_tokens_follow_the_models_own_habit(smollm2):
    assert smollm2.bos is False
    assert smollm2.token_texts(smollm2.tokens(IOI)[0].tolist())[:4] == ["When", " John", " and", " Mary"]
    assert smollm2.tokens(IOI, bos=True).shape[1] == smollm2.tokens(IOI).shape[1] + 1
    chat = smollm2.chat([{"role": "user", "content": "Hello"}])
    assert "<|im_start|>user\nHello<|im_end|>" in smollm2.tokenizer.decode(chat[0])
    with pytest.raises(errors.UnknownToken, match="tokens"):
        smollm2.token_id(" Zwolle Amersfoort")
    with pytest.raises(errors.EmptyPrompt):
        smollm2.run("")
    with pytest.raises(errors.PromptTooLong, match="8192"):
        smollm2.run("word " * 9000)


def test_metrics(smollm2):
    rec = smollm2.run([IOI, "The cat sat on the"])
    ids = smollm2.tokens(IOI)
    with torch.no_grad():
        theirs = float(smollm2.hf(ids, labels=ids).loss)
    assert float(rs.loss()(rec)[0]) == pytest.approx(theirs, abs=1e-4)
    same = rs.kl(rec)(rec)
    assert same.abs().max() < 1e-6
    cut = smollm2.run([IOI, "The cat sat on the"], edits=[edits.ablate("mlp_out.10")])
    assert (rs.kl(rec)(cut) > 1e-3).all()


def test_shipped_directions(smollm2):
    found = directions.shipped(smollm2)
    assert len(found) == 31
    rec = smollm2.run(IOI)
    for site, pca in found.items():
        assert len(pca) >= 20
        gram = pca.read @ pca.read.T
        assert (gram - torch.eye(len(pca))).abs().max() < 5e-3, site
        coordinates = pca.encode(rec[site][0, 1:])
        assert coordinates.abs().median() < 6 * pca.sd.max()
    assert found["resid_post.23"][7].name == "PC 7"
