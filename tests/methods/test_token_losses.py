"""Losses against transformers' own cross-entropy, and the shift: the loss stands where the token does."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors

TEXT = [5, 9, 3, 17, 8, 2, 11]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_they_are_cross_entropies_of_the_stock_model(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    found = rs.token_losses(model, TEXT)
    ids = torch.tensor([TEXT])
    with torch.no_grad():
        out = model.hf(ids, labels=ids)
        plain = torch.nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:], reduction="none")
    torch.testing.assert_close(found.losses.values, plain, atol=1e-5, rtol=1e-5)
    assert found.mean == pytest.approx(float(out.loss), abs=1e-5)
    assert [*found.losses.coords["pos"]] == [1, 2, 3, 4, 5, 6]
    order = out.logits[0, :-1].argsort(-1, descending=True)
    assert found.rank.tolist() == [order[i].tolist().index(TEXT[i + 1]) for i in range(6)]
    torch.testing.assert_close(found.chance, out.logits[0, :-1].softmax(-1).amax(-1), atol=1e-6, rtol=1e-5)


def test_edits_stand_beside_the_run_without_them(monkeypatch):
    model = rs.load((FAMILIES["llama"].build().float(), None))
    cut = edits.ablate("mlp_out.1")
    monkeypatch.setattr("residscope.methods.reading.token_losses.PART", 4)
    found, plain = rs.token_losses(model, TEXT, edit=[cut]), rs.token_losses(model, TEXT)
    torch.testing.assert_close(found.without, plain.losses.values)
    logits = model.run(TEXT, edits=[cut]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TEXT[1:]), reduction="none")
    torch.testing.assert_close(found.losses.values, expected, atol=1e-5, rtol=1e-5)
    strips = found.view().views
    assert strips[0].to_dict()["values"][0] is None
    assert strips[1].values[1] == pytest.approx(float(expected[0] - plain.losses.values[0]), abs=1e-5)
    assert len(plain.without) == 0


def test_one_token_and_several_prompts_are_refused():
    model = rs.load((FAMILIES["gpt2"].build().float(), None))
    with pytest.raises(errors.PromptError, match="predicted by nothing"):
        rs.token_losses(model, [3])
    with pytest.raises(errors.PromptError, match="one prompt"):
        rs.token_losses(model, [TEXT, TEXT])


def test_the_in_context_score_is_late_less_early():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    found = rs.token_losses(model, TEXT)
    own = dict(zip(found.losses.coords["pos"], found.losses.values.double().tolist(), strict=True))
    assert found.in_context_score(2, 5, around=0) == pytest.approx(own[5] - own[2])
    assert found.in_context_score(2, 5, around=1) == pytest.approx(
        (own[4] + own[5] + own[6] - own[1] - own[2] - own[3]) / 3
    )
    assert found.in_context_score(4, 4, around=1) == 0
    for early, late, around in ((0, 5, 0), (2, 7, 0), (1, 5, 1), (2, 5, -1), (50, 500, 10)):
        with pytest.raises(errors.UnknownPosition, match="1 to 6"):
            found.in_context_score(early, late, around=around)


def test_repeated_text_is_learnt_in_context(smollm2):
    """Random tokens written twice: the second copy is expected far better than the first, which says nothing of itself."""
    ids = rs.repeated_tokens(smollm2, n=1, length=40).prompts[0]
    assert rs.token_losses(smollm2, [list(ids)]).in_context_score(20, 65) < -3
