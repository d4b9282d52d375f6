"""Self-repair: the loss is a plain run's, the parts sum to it, and each gain is what the stream says by hand."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import shaken

METRIC = rs.logit_diff(5, 7)
ROWS = [[5, 9, 3, 17, 8, 2, 11], [4, 8, 15, 16, 23, 42, 6]]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma2"])
def model(request):
    return Model(shaken(FAMILIES[request.param].build()), name=request.param)


def by_hand(model, ids, stack):
    """The metric, each head's z W_O and each MLP's write through the final norm's own arithmetic, for one prompt."""
    rec = model.run([ids], ["result", "mlp_out", "attn_raw", "final_scale", "logits"], edits=stack)
    column = model.W_U[:, 5] - model.W_U[:, 7]
    norm = model.layout.final_norm
    stream = model.run([ids], ["resid_post"], edits=stack)[f"resid_post.{model.n_layers - 1}"][0, -1]

    def effect(
        write,
    ):  # what the final norm, with the divisor held, gives of a write: linear, so a difference of two streams
        scale = rec["final_scale"][0, -1]
        return float((norm.over(stream + write, scale) - norm.over(stream, scale)) @ column)

    return float(METRIC(rec)), rec, effect


@pytest.mark.parametrize("ablated", [(0, 1), [(0, 0), (1, 2)]])
def test_the_parts_sum_to_what_a_plain_run_loses(model, ablated):
    heads = [ablated] if isinstance(ablated, tuple) else ablated
    found = rs.self_repair(model, ROWS, ablated, METRIC, progress=False)
    cut = [edits.ablate(f"z.{layer}", head=head) for layer, head in heads]
    capped = model.layout.factors.logits_cap is not None  # then the sum is of the logits before it
    if not capped:
        losses = METRIC(model.run(ROWS, ["logits"])) - METRIC(model.run(ROWS, ["logits"], edits=cut))
        assert float(found.parts.values[1]) == pytest.approx(float(losses.mean()), abs=1e-6)
    direct, total, *gains = found.parts.values.tolist()
    assert total == pytest.approx(direct - sum(gains), abs=1e-9)
    assert found.repaired == pytest.approx(1 - total / direct)
    assert found.parts.low is not None
    whole = rs.direct_attribution(model, ROWS, METRIC, progress=False)
    own = sum(float(whole.heads.select(layer=a, head=h).mean("prompt").values) for a, h in heads)
    assert direct == pytest.approx(own, abs=1e-7)  # zero has no direct effect


def test_each_gain_is_the_stream_s_by_hand():
    model = Model(shaken(FAMILIES["llama"].build()), name="llama")
    cut = [edits.ablate("z.0", head=1)]
    found = rs.self_repair(model, [ROWS[0]], (0, 1), METRIC, progress=False)
    (_, clean, before), (_, without, after) = (by_hand(model, ROWS[0], stack) for stack in ([], cut))
    for layer, head in ((0, 0), (1, 2), (model.n_layers - 1, 0)):
        write = [rec[f"result.{layer}"][0, -1, head] for rec in (clean, without)]
        assert float(found.heads.values[layer, head]) == pytest.approx(after(write[1]) - before(write[0]), abs=1e-8)
    write = [rec["mlp_out.1"][0, -1] for rec in (clean, without)]
    assert float(found.mlps.values[1]) == pytest.approx(after(write[1]) - before(write[0]), abs=1e-8)
    assert found.heads.low is None


def test_with_the_divisor_held_only_what_reads_the_head_gains():
    model = Model(shaken(FAMILIES["llama"].build()), name="llama")
    held = [edits.freeze("final_scale")]
    found = rs.self_repair(model, ROWS, (1, 1), METRIC, background=held, progress=False)
    assert abs(float(found.parts.values[4])) < 1e-8
    assert found.heads.values[0].abs().max() < 1e-8
    assert found.heads.values[2:].abs().max() > 1e-6
    last = rs.self_repair(model, ROWS, (model.n_layers - 1, 1), METRIC, background=held, progress=False)
    assert float(last.parts.values[2]) == 0  # no later head: what is lost is not made up for by one


def test_a_mean_and_a_resampled_head_and_what_dropout_is_told():
    model = Model(shaken(FAMILIES["gpt2"].build()), name="gpt2")
    for to in ("mean", "resample"):
        found = rs.self_repair(model, ROWS, (0, 1), METRIC, to=to, over=ROWS, progress=False)
        cut = edits.ablate("z.0", to=to, over=ROWS, head=1)
        losses = METRIC(model.run(ROWS, ["logits"])) - METRIC(model.run(ROWS, ["logits"], edits=cut))
        assert float(found.parts.values[1]) == pytest.approx(float(losses.mean()), abs=1e-6)
    assert ("trained with dropout" in found.provenance) == (model.hf.config.resid_pdrop > 0)


def test_it_is_refused_in_words(llama):
    with pytest.raises(errors.NotLinear):
        rs.self_repair(llama, ROWS, (0, 1), rs.log_prob(5))
    with pytest.raises(errors.BadSweep, match="no head"):
        rs.self_repair(llama, ROWS, [], METRIC)
    with pytest.raises(errors.UnknownHead):
        rs.self_repair(llama, ROWS, (0, 9), METRIC)
    with pytest.raises(errors.UnknownPosition):
        rs.self_repair(llama, ROWS, (0, 1), METRIC, position="END")
    assert torch.isfinite(rs.self_repair(llama, ROWS, (0, 1), METRIC, position=2, progress=False).heads.values).all()
