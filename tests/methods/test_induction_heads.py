"""Induction heads: both numbers against plain loops, and, on a trained model, heads of both signs beside a control."""

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.methods.heads import induction_heads as module
from residscope.methods.heads.induction_heads import _Next
from residscope.model.prompts import PromptSet


def test_effects_are_the_heads_own_writes_on_the_next_tokens_logit(llama):
    """From the stock modules: z W_O, the final norm's gain and divisor, the unembedding's columns."""
    n, length = 3, 7
    found = rs.induction_heads(llama, n=n, length=length, seed=2, progress=False)
    hf, data = llama.hf, rs.repeated_tokens(llama, n=n, length=length, seed=2)
    seen = {}
    projections = [layer.self_attn.o_proj for layer in hf.model.layers]
    handles = [
        m.register_forward_pre_hook(lambda m, args: seen.__setitem__(m, args[0])) for m in (*projections, hf.model.norm)
    ]
    stock = torch.zeros(4, 4).double()
    with torch.no_grad():
        for row in data.prompts:
            hf(torch.tensor([row]))
            x = seen[hf.model.norm][0]
            sigma = (x.square().mean(-1) + hf.config.rms_norm_eps).sqrt()
            for layer, projection in enumerate(projections):
                for head in range(4):
                    z = seen[projection][0, :, 8 * head : 8 * head + 8]
                    write = z @ projection.weight[:, 8 * head : 8 * head + 8].T
                    logits = (write * hf.model.norm.weight / sigma[:, None]) @ hf.lm_head.weight.T
                    each = [
                        float(logits[i, row[i + 1]] - logits[i, list(row[:length])].mean())
                        for i in range(length, 2 * length - 1)
                    ]
                    stock[layer, head] += sum(each) / len(each) / n
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found.effect.values, stock, atol=1e-6, rtol=1e-6)
    scores = rs.head_scores(llama, n=n, length=length, seed=2, kinds=("induction",), progress=False)
    torch.testing.assert_close(found.attention.values, scores.scores.values[0], atol=1e-6, rtol=1e-6)
    assert stock.abs().max() > 1e-3


def test_sequences_read_in_parts_are_those_read_together(llama, monkeypatch):
    whole = rs.induction_heads(llama, n=5, length=6, progress=False)
    monkeypatch.setattr(module, "MOST", 2)
    parts = rs.induction_heads(llama, n=5, length=6, progress=False)
    torch.testing.assert_close(parts.effect.values, whole.effect.values)
    torch.testing.assert_close(parts.effect.low, whole.effect.low)


def test_the_readout_is_its_own_number(llama):
    run = llama.run([[3, 4, 5, 3, 4, 5]], ["logits"])
    logits = run.logits[0, 3]
    expected = logits[4] - logits[[3, 4, 5]].mean()
    assert float(_Next(3, 3)(run)[0]) == pytest.approx(float(expected))


def test_refusals(llama):
    with pytest.raises(errors.BadSweep, match="several sequences"):
        rs.induction_heads(llama, n=1, progress=False)
    with pytest.raises(errors.PromptTooLong):
        rs.induction_heads(llama, length=60, progress=False)


def test_the_default_model_has_heads_of_both_signs(smollm2, monkeypatch):
    found = rs.induction_heads(smollm2, n=4, length=20, progress=False)
    assert (23, 2) in found.induction
    assert (24, 4) in found.anti_induction
    assert not {*found.induction} & {*found.anti_induction}
    for heads, sign in ((found.induction, 1), (found.anti_induction, -1)):
        for layer, head in heads:
            assert float(found.attention.values[layer, head]) >= module.LOOKS
            assert sign * float(found.effect.values[layer, head]) > 0
    assert [row[0] for row in found.view().views[1].rows].count("anti-induction") == len(found.anti_induction)
    data, cut = rs.repeated_tokens(smollm2, n=4, length=20), [rs.edits.ablate("z.24", head=4)]
    plain, without = (smollm2.run(data, ["logits"], edits=edits) for edits in ([], cut))
    raised = [[float(_Next(i, 20)(run).mean()) for i in range(20, 39)] for run in (plain, without)]
    assert sum(raised[1]) > sum(raised[0]), "without the head that lowers it, the next token's logit is higher"
    ids = rs.repeated_tokens(smollm2, n=4, length=40).prompts  # the control: second halves that repeat nothing
    monkeypatch.setattr(module, "repeated_tokens", lambda *_, **__: PromptSet(tuple(row[:40] for row in ids)))
    none = rs.induction_heads(smollm2, n=4, length=20, progress=False)
    assert none.induction == none.anti_induction == ()
