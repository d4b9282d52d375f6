"""Activation patching and ablation: every cell's number is that of a forward with the one edit."""

import pytest
import torch

import residscope as rs
from residscope import edits, errors
from tiny_models import IOI, VOCAB

METRIC = rs.logit_diff(5, 7)
PAIR = ([list(range(2, 11))], [list(range(32, 41))])


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "mlp_post"])
def test_every_layer_and_position(tiny, site):
    clean, corrupted = PAIR
    found = rs.activation_patching(tiny, clean, corrupted, METRIC, site=site)
    assert found.dims == ("layer", "pos")
    source = tiny.run(clean, [site])
    for layer, pos in ((0, 0), (1, 4), (3, 8), (2, 7)):
        edit = edits.patch(f"{site}.{layer}", source, pos=pos)
        plain = METRIC(tiny.run(corrupted, ["logits"], edits=edit))
        torch.testing.assert_close(found.values[layer, pos], plain[0], atol=1e-6, rtol=1e-6)
    assert found.coords["token"] == tuple(f"<{i}>" for i in range(32, 41))


@pytest.mark.parametrize(
    ("site", "axis"), [("z", "head"), ("q", "head"), ("k", "kv_head"), ("v", "kv_head"), ("pattern", "head")]
)
def test_every_head(tiny, site, axis):
    clean, corrupted = PAIR
    found = rs.activation_patching(tiny, clean, corrupted, METRIC, site=site, mode="noise")
    assert found.dims == ("layer", axis)
    source = tiny.run(corrupted, [site])
    for layer, head in ((0, 0), (3, found.sizes[axis] - 1)):
        plain = METRIC(tiny.run(clean, ["logits"], edits=edits.patch(f"{site}.{layer}", source, **{axis: head})))
        torch.testing.assert_close(found.values[layer, head], plain[0], atol=1e-6, rtol=1e-6)


def test_patching_a_run_into_itself_changes_nothing(tiny):
    clean, _ = PAIR
    found = rs.activation_patching(tiny, clean, clean, METRIC)
    assert (found.values == found.values.flatten()[0]).all()  # answered from one base, to the bit
    plain = METRIC(tiny.run(clean, ["logits"])).expand_as(found.values)
    torch.testing.assert_close(found.values, plain, atol=1e-6, rtol=0)  # the metric's own columns are a smaller product


def test_the_whole_stream_restores_the_clean_run_and_its_share_is_one(llama):
    clean, corrupted = PAIR
    found = rs.activation_patching(llama, clean, corrupted, METRIC, positions="all", normalize=True)
    torch.testing.assert_close(found.values, torch.ones(4, dtype=torch.float64), atol=1e-7, rtol=0)
    assert found.provenance["clean"] == METRIC(llama.run(clean, ["logits"])).tolist()
    assert found.provenance["corrupted"] == METRIC(llama.run(corrupted, ["logits"])).tolist()
    by_pos = rs.activation_patching(llama, clean, corrupted, METRIC, normalize=True)
    assert (by_pos.values[0] - 1).abs().min() > 1e-3  # no one position does it alone


def test_a_data_set_by_named_positions_with_its_own_answers_and_partners(llama):
    rows = [tuple(range(2, 11)), tuple(range(20, 26))]
    partners = [tuple((t + 9) % VOCAB for t in row) for row in rows]
    data = rs.PromptSet(
        tuple(rows), corrupted=tuple(partners), answers=((5, 7), (9, 4)), positions={"A": (3, 1), "END": (8, 5)}
    )
    found = rs.activation_patching(llama, data, None, rs.logit_diff(), positions=["A", "END"])
    assert found.dims == ("layer", "pos", "prompt")
    assert found.coords["pos"] == ("A", "END")
    for i, (row, partner, answer, a) in enumerate(zip(rows, partners, ((5, 7), (9, 4)), (3, 1), strict=True)):
        edit = edits.patch("resid_pre.2", llama.run([row], ["resid_pre"]), pos=a)
        plain = rs.logit_diff(*answer)(llama.run([partner], ["logits"], edits=edit))
        torch.testing.assert_close(found.values[2, 0, i], plain[0], atol=1e-6, rtol=1e-6)


def test_screening_is_labelled(llama):
    clean, corrupted = PAIR
    found = rs.activation_patching(llama, clean, corrupted, METRIC, screen="gradient")
    assert "gradient" in str(found.exact)
    assert {*found.provenance["known"]} <= {"exact", "estimate"}


def test_ablating_each_head_and_each_position(tiny):
    clean, _ = PAIR
    found = rs.ablation_sweep(tiny, clean, METRIC, relative=True)
    base = METRIC(tiny.run(clean, ["logits"]))[0]
    plain = METRIC(tiny.run(clean, ["logits"], edits=edits.ablate("z.2", head=1)))[0]
    torch.testing.assert_close(found.values[2, 1], plain - base, atol=1e-6, rtol=1e-6)
    mean = rs.ablation_sweep(tiny, clean, METRIC, site="mlp_out", to="mean", over=PAIR[1], positions="each")
    edit = edits.ablate("mlp_out.1", to="mean", over=PAIR[1], pos=4)
    plain = METRIC(tiny.run(clean, ["logits"], edits=edit))[0]
    torch.testing.assert_close(mean.values[1, 4], plain, atol=1e-6, rtol=1e-6)


def test_what_cannot_be_patched_is_refused(llama):
    clean, corrupted = PAIR
    with pytest.raises(errors.UnalignedPrompts, match="9 and 5 tokens"):
        rs.activation_patching(llama, clean, [[2, 3, 4, 5, 6]], METRIC)
    ragged = ([[2, 3, 4], [5, 6]], [[7, 8, 9], [10, 11]])
    with pytest.raises(errors.UnalignedPrompts, match="name them"):
        rs.activation_patching(llama, *ragged, METRIC)
    assert rs.activation_patching(llama, *ragged, METRIC, positions=[-1]).values.shape == (4, 1, 2)
    with pytest.raises(errors.BadSweep, match="denoise"):
        rs.activation_patching(llama, clean, corrupted, METRIC, mode="restore")
    with pytest.raises(errors.BadSweep, match="same metric"):
        rs.activation_patching(llama, clean, clean, METRIC, normalize=True)
    with pytest.raises(errors.BadSweep, match="no such layers"):
        rs.activation_patching(llama, clean, corrupted, METRIC, layers=[9])
    with pytest.raises(errors.BadSweep, match="corrupted"):
        rs.activation_patching(llama, clean, None, METRIC)
    with pytest.raises(errors.BadSweep, match="name no positions"):
        rs.activation_patching(llama, clean, corrupted, METRIC, positions=["S2"])
    with pytest.raises(errors.UnknownSite):
        rs.activation_patching(llama, clean, corrupted, METRIC, site="residual")


def test_the_real_models_answer_moves_from_the_subject_to_the_end(smollm2):
    """On the IOI pair: early the subject's token carries the answer, late the last one; elsewhere nothing does."""
    other = IOI.replace("store, John", "store, Mary")
    found = rs.activation_patching(smollm2, IOI, other, rs.logit_diff(" Mary", " John"), normalize=True)
    assert found.values[0, 9] > 0.99
    assert found.values[29, 15] > 0.8
    assert found.values[25, 9] < 0.1
    assert found.values[:, :9].abs().max() < 1e-4  # before the one difference
