"""Patches aligned by the tokens: each kept or exchanged token takes the value of the one that it stands for."""

import json

import pytest
import torch

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.fields.aligns import AlignField
from tiny_models import tiny_llama

MODEL = Model(tiny_llama(), name="llama")
LIVE = [[11, 12, 13, 14, 15, 16]]
SOURCE = [[11, 40, 12, 13, 41, 15, 16]]  # 40 is put in, 14 exchanged for 41
PAIRS = {0: 0, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6}


def stream(prompt, *stack):
    return MODEL.run(prompt, ["resid_post.2", "logits"], edits=stack)


@pytest.mark.parametrize("site", ["resid_pre.1", "z.1", "mlp_out.0"])
def test_it_is_the_patch_of_its_pairs(site):
    assert rs.align_tokens(LIVE[0], SOURCE[0]) == PAIRS
    by_tokens = stream(LIVE, edits.patch(site, SOURCE, align="tokens"))
    by_pairs = stream(LIVE, edits.patch(site, SOURCE, align=PAIRS))
    assert torch.equal(by_tokens["logits"], by_pairs["logits"])
    there = MODEL.run(SOURCE, [site])[site][0, [*PAIRS.values()]]
    here = MODEL.run(LIVE, [site], edits=[edits.patch(site, SOURCE, align="tokens")])[site][0, [*PAIRS]]
    assert torch.equal(here, there)
    assert not torch.allclose(by_tokens["logits"], stream(LIVE)["logits"])


def test_a_path_and_each_row_of_a_batch_are_aligned_by_their_own_tokens():
    rows, sources = [LIVE[0], [11, 15, 16]], [SOURCE[0], [15, 16, 20]]
    each = (PAIRS, {1: 0, 2: 1})
    path = {"sender": "z.0", "receiver": "final_norm"}
    for of_tokens, of_pairs in (
        (edits.patch("resid_pre.1", sources, align="tokens"), edits.patch("resid_pre.1", sources, align=each)),
        (edits.path(**path, source=sources, align="tokens"), edits.path(**path, source=sources, align=each)),
    ):
        assert torch.equal(stream(rows, of_tokens)["logits"], stream(rows, of_pairs)["logits"])


def test_written_down_it_still_knows_the_tokens():
    prepared = edits.patch("resid_pre.1", SOURCE, align="tokens").prepare(MODEL)
    (again,) = edits.from_json(edits.to_json(prepared))
    assert torch.equal(stream(LIVE, again)["logits"], stream(LIVE, prepared)["logits"])
    with pytest.raises(errors.BadEdit, match="only a run has tokens"):
        stream(LIVE, edits.patch("resid_pre.1", {"resid_pre.1": torch.zeros(1, 7, MODEL.d_model)}, align="tokens"))


def test_patterns_of_prompts_that_correspond_are_put_in_whole():
    other = [[11, 12, 40, 14, 15, 16]]
    aligned = stream(LIVE, edits.patch("pattern.1", other, align="tokens"))
    assert torch.equal(aligned["logits"], stream(LIVE, edits.patch("pattern.1", other))["logits"])
    with pytest.raises(errors.CannotAlign, match="positions twice"):
        stream(LIVE, edits.patch("pattern.1", SOURCE, align="tokens"))


def test_a_sweep_of_such_cells_equals_one_run_each():
    cells = [(edits.patch("resid_pre", SOURCE, align="tokens", pos=pos),) for pos in (1, 3)]
    metric = rs.logit(5)
    swept = rs.sweep(MODEL, LIVE, cells, metric).run().values.flatten()
    assert swept.tolist() == pytest.approx([metric(MODEL.run(LIVE, edits=cell)).item() for cell in cells], abs=1e-9)


@pytest.mark.parametrize(
    ("typed", "plain", "code"),
    [
        ("tokens", "tokens", "'tokens'"),
        ("suffix", "suffix", "'suffix'"),
        ("4:5,6:7", [[4, 5], [6, 7]], "{4: 5, 6: 7}"),
    ],
)
def test_the_field_says_one_thing_on_every_door(typed, plain, code):
    from residscope.declare import EDITS

    patch, field = EDITS["patch"], AlignField()
    said = {"kind": "patch", "site": "resid_pre.1", "source": "the"}
    assert field.read([typed]) == plain
    spec = patch.check({**said, "align": plain})
    assert json.loads(spec.model_dump_json())["align"] == plain
    assert field.code(spec.align, None) == code
    if isinstance(plain, list):
        assert patch.check({**said, "align": {"4": 5, "6": 7}}).align == plain
        assert field.resolve(plain, None) == {4: 5, 6: 7}


@pytest.mark.parametrize("align", ["middle", [[1, 2], [1, 3]], [[-1, 2]], [[1]], [], {"a": 2}])
def test_what_is_no_alignment_is_refused(align):
    from residscope.declare import EDITS

    with pytest.raises(errors.BadEdit, match="align"):
        EDITS["patch"].check({"kind": "patch", "site": "resid_pre.1", "source": "the", "align": align})
