"""Answers: the numbers of one whole forward for each cell, and flips counted where there was something to flip."""

import pytest
import torch

import residscope as rs
from residscope import edits, errors
from residscope.methods._lib.answers import answer_diffs, flips


def prompts(n=30):
    drawn = torch.Generator().manual_seed(4)
    rows = tuple(tuple(torch.randint(2, 97, (6 + i % 4,), generator=drawn).tolist()) for i in range(n))
    at = tuple(3 + i % 2 for i in range(n))
    labels = {"parity": tuple(row[p] % 2 for row, p in zip(rows, at, strict=True))}
    answers = tuple((10 + i, 40 + i) for i in range(n))
    return rs.PromptSet(rows, answers=answers, labels=labels, positions={"P": at})


@pytest.mark.parametrize("site", ["resid_pre.2", "resid_mid.1", "resid_post.3"])
def test_every_cell_is_one_whole_forward(tiny, site):
    data = prompts()
    probe = rs.fit_probe(tiny, data, site=site, position="P", label="parity", Cs=(0.1,))
    other, leace = rs.lrqp(probe, to="other"), rs.concepts.leace(probe)
    cells = [[], [other], [other, edits.freeze("pattern.3")], [edits.scale("mlp_out.1", 0.5)], [leace]]
    found = answer_diffs(tiny, data, cells, batch=7)
    for i in (0, 6, 15, 29):
        row, (right, wrong) = data.prompts[i], data.answers[i]
        alone = data.subset([i])
        for cell, held in zip(cells, found[:, i], strict=True):
            logits = tiny.run(alone, ["logits"], edits=cell).logits[0, len(row) - 1]
            assert float(logits[right] - logits[wrong]) == pytest.approx(float(held), abs=1e-4)
    if site != "resid_post.3":  # nothing after the last layer carries P's stream to the end
        assert (found[1] - found[0]).abs().max() > 1e-3
    else:
        assert torch.equal(found[1], found[0])


ENDS = {
    "divisor": lambda model, probe: [edits.scale("final_scale", 1.5)],
    "norm": lambda model, probe: [edits.scale("final_norm", 0.5, pos=-1)],
    "logits": lambda model, probe: [edits.scale("logits", 2.0)],
    "unembedding": lambda model, probe: [rank_one(model, model.layout.unembed)],
    "unembedding, and later": lambda model, probe: [rank_one(model, model.layout.unembed), edits.scale("z.2", 0.3)],
    "a weight below, and later": lambda model, probe: [
        rank_one(model, model.layout.blocks[0].attn_proj), edits.scale("mlp_out.2", 0.3)
    ],
    "probe, norms held": lambda model, probe: [rs.lrqp(probe, to="other"), edits.freeze("norms")],
    "each prompt's own draws": lambda model, probe: [edits.noise("resid_pre.1", 0.5, seed=3)],
}  # fmt: skip


def rank_one(model, module):
    name = next(n for n, m in model.hf.named_modules() if m is module)
    d_out, d_in = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.T.shape
    return edits.overlay(name, (torch.linspace(-1, 1, d_in).double(), torch.linspace(0, 0.3, d_out).double()))


@pytest.mark.parametrize("end", ENDS)
def test_what_acts_after_the_blocks_or_on_weights_is_in_the_answers(tiny, end):
    """The reference is a whole run of all prompts together, and the logits at each one's own end."""
    data = prompts()
    probe = rs.fit_probe(tiny, data, site="resid_mid.1", position="P", label="parity", Cs=(0.1,))
    cell = ENDS[end](tiny, probe)
    clean, found = answer_diffs(tiny, data, [[], cell], batch=7)
    logits = tiny.run(data, ["logits"], edits=cell).logits
    expected = [
        float(logits[i, len(row) - 1, right] - logits[i, len(row) - 1, wrong])
        for i, (row, (right, wrong)) in enumerate(zip(data.prompts, data.answers, strict=True))
    ]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), atol=1e-4, rtol=1e-4)
    assert (found - clean).abs().max() > 1e-3


def test_flips():
    clean, edited = torch.tensor([3.0, 1.0, 2.0, -1.0, -2.0]), torch.tensor([-1.0, 0.5, 4.0, 2.0, -2.0])
    found = flips(clean, edited)
    assert (found.right, found.flipped) == (3, 1)
    assert found.rate == pytest.approx(1 / 3)
    assert found.interval[0] < 1 / 3 < found.interval[1]
    assert found.mean_absolute_shift == pytest.approx((4 + 0.5 + 2 + 3 + 0) / 5)
    assert flips(clean, clean).flipped == 0
    assert flips(clean, clean).mean_absolute_shift == 0


def test_prompts_without_answers(llama):
    with pytest.raises(errors.MissingLabel, match="no answers"):
        answer_diffs(llama, rs.PromptSet(((5, 6, 7),)))
