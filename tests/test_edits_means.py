"""Mean ablation: what the mean is of, by position, everywhere an edit may run, and what it says of itself."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import IOI, tiny_gpt2, tiny_llama

MODELS = {"llama": Model(tiny_llama(), name="llama"), "gpt2": Model(tiny_gpt2(), name="gpt2")}
SITES = ("resid_pre.2", "mlp_out.1", "z.1", "mlp_post.2", "attn_scale.1")


def rows_of(*lengths, seed=0):
    draw = random.Random(seed)
    return [[draw.randrange(2, 97) for _ in range(n)] for n in lengths]


def vectors(model, rows, site):
    """One prompt at a time: {(row, position): vector}."""
    return {(i, p): x for i, row in enumerate(rows) for p, x in enumerate(model.run([row], [site])[site][0])}


def average(some):
    some = list(some)
    return sum(some[1:], some[0]) / len(some)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=5).filter(lambda ls: max(ls) > 1),
    st.sampled_from(SITES),
    st.integers(0, 99),
)
def test_the_mean_is_over_all_tokens_but_the_first_of_each_prompt(lengths, site, seed):
    model, rows = MODELS["llama"], rows_of(*lengths, seed=seed)
    cut = edits.ablate(site, "mean", over=rows).prepare(model)
    close(cut.to, average(x for (_, p), x in vectors(model, rows, site).items() if p > 0))
    n = sum(lengths)
    assert dict(cut.averaged) == {"by": "token", "tokens": n - len(rows), "left out at position 0": len(rows),
                                  "left out as attention sinks": 0}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.sampled_from(SITES), st.integers(0, 99))
def test_by_position_it_is_over_the_prompts_that_have_the_position(lengths, site, seed):
    model, rows = MODELS["llama"], rows_of(*lengths, seed=seed)
    cut = edits.ablate(site, "mean", over=rows, by="position").prepare(model)
    alone = vectors(model, rows, site)
    for p in range(max(lengths)):
        close(cut.to[p], average(x for (_, q), x in alone.items() if q == p))
    assert cut.averaged["tokens at each position"] == [sum(n > p for n in lengths) for p in range(max(lengths))]
    assert cut.averaged["tokens"] == sum(lengths)


def test_sinks_stay_out_of_both(model):
    loud = 96
    embed = model.hf.get_input_embeddings().weight
    before = embed[loud].clone()
    with torch.no_grad():
        embed[loud] *= 1e4
    try:
        rows = [[5, 6, loud, 8, 9, 10], [11, 12, 13, 14, 15, 16], [loud, 18, 19, 20, 21, 22]]
        alone = vectors(model, rows, "mlp_out.1")
        plain = edits.ablate("mlp_out.1", "mean", over=rows).prepare(model)
        each = edits.ablate("mlp_out.1", "mean", over=rows, by="position").prepare(model)
        close(plain.to, average(x for (i, p), x in alone.items() if p > 0 and (i, p) != (0, 2)))
        close(each.to[2], average([alone[1, 2], alone[2, 2]]))
        close(each.to[0], average([alone[0, 0], alone[1, 0], alone[2, 0]]))
        assert plain.averaged["left out as attention sinks"] == each.averaged["left out as attention sinks"] == 1
        only = [[5, 6, loud, 8, 9, 10]]
        hole = edits.ablate("mlp_out.1", "mean", over=only, by="position", pos=[1, 3])
        model.run(rows, edits=hole)
        with pytest.raises(errors.CannotAlign, match="position 2"):
            model.run(rows, edits=edits.ablate("mlp_out.1", "mean", over=only, by="position"))
    finally:
        with torch.no_grad():
            embed[loud] = before


DATA = rows_of(9, 7, 9, 8, seed=3)
RUN = rows_of(8, 6, 8, seed=4)


def means(model, site, data=DATA):
    alone = vectors(model, data, site)
    return [average(x for (_, q), x in alone.items() if q == p) for p in range(max(map(len, data)))]


@pytest.mark.parametrize("site", ["mlp_out.1", "z.1", "resid_pre.2"])
def test_in_a_run_and_in_a_window_each_position_gets_its_own(model, site):
    where = {"head": 2} if site == "z.1" else {}
    cut, own = edits.ablate(site, "mean", over=DATA, by="position", **where), means(model, site)
    plain, run = model.run(RUN, [site]), model.run(RUN, [site, "logits"], edits=cut)
    for i, row in enumerate(RUN):
        for p in range(len(row)):
            new, old = run[site][i, p], plain[site][i, p]
            close(new[2] if where else new, own[p][2] if where else own[p])
            if where:
                close(new[[0, 1, 3]], old[[0, 1, 3]])
    last = edits.ablate(site, "mean", over=DATA, by="position", pos=[-1, 4], **where)
    whole = model.run(RUN, [site, "logits"], edits=last)
    base = model.run(RUN)
    late = model.run(RUN, [site, "logits"], edits=last, window=rs.Window(base, start=1, pos=3))
    for i, row in enumerate(RUN):
        close(late.logits[i, : len(row) - 3], whole.logits[i, 3 : len(row)])
        close(whole[site][i, 4].flatten(), (torch.cat([plain[site][i, 4][:2], own[4][2:3], plain[site][i, 4][3:]]) if where
                                            else own[4]).flatten())  # fmt: skip


def test_in_a_sweep_and_back_from_json(model):
    cells = [edits.ablate("z.1", "mean", over=DATA, by="position", head=1),
             edits.ablate("mlp_out.2", "mean", over=DATA, by="position", pos=-1),
             [edits.isolate("z.1", to="mean", over=DATA, by="position", head=h) for h in (0, 3)],
             edits.ablate("resid_pre.1", "mean", over=DATA, pos=[2, 5])]  # fmt: skip
    metric = rs.logit_diff(5, 9)
    swept = rs.sweep(model, RUN, cells, metric).run(False).values
    for cell, values in zip(cells, swept, strict=True):
        run = model.run(RUN, ["logits"], edits=cell)
        close(metric(run), values)
        text = edits.to_json(run.edits)
        assert edits.to_json(edits.from_json(text)) == text
        close(model.run(RUN, ["logits"], edits=edits.from_json(text)).logits, run.logits)
        for entry in json.loads(text):
            assert entry["averaged"]["tokens"] > 0


def test_isolated_heads_leave_the_others_at_the_positions_own_mean(model):
    run = model.run(
        RUN, ["z.1"], edits=[edits.isolate("z.1", to="mean", over=DATA, by="position", head=h) for h in (0, 3)]
    )
    own, plain = means(model, "z.1"), model.run(RUN, ["z.1"])
    for i, row in enumerate(RUN):
        for p in range(len(row)):
            close(run["z.1"][i, p, [1, 2]], own[p][[1, 2]])
            close(run["z.1"][i, p, [0, 3]], plain["z.1"][i, p, [0, 3]])
    with pytest.raises(errors.ClashingEdits):
        model.run(RUN, edits=[edits.isolate("z.1", to="mean", over=DATA, by=by, head=0) for by in (None, "position")])


def test_while_generating_new_tokens_take_the_mean_of_their_own_positions(model):
    prompt, longer = RUN[1], rows_of(12, 12, seed=5)
    cut = edits.ablate("mlp_out.1", "mean", over=longer, by="position")
    ids = list(prompt)
    for token in model.generate([prompt], cut, 5):
        logits = model.run([ids], ["logits"], edits=cut).logits[0, -1]
        assert token.id == int(logits.argmax())
        assert token.log_prob == pytest.approx(float(logits.log_softmax(-1)[token.id]), abs=1e-9)
        ids.append(token.id)
    short = edits.ablate("mlp_out.1", "mean", over=rows_of(8, 8), by="position")
    assert len(model.generate([prompt], short, 3).ids) == 3  # positions 0 to 7 are run
    with pytest.raises(errors.CannotAlign, match="position 8"):
        model.generate([prompt], short, 4)
    assert len(model.generate([prompt], short, 4, at="prompt").ids) == 4


def test_what_has_no_mean_is_refused(model):
    with pytest.raises(errors.BadEdit, match="2 at position 0"):
        model.run(RUN, edits=edits.ablate("mlp_out.1", "mean", over=[[5], [6]]))
    model.run([[7]], edits=edits.ablate("mlp_out.1", "mean", over=[[5], [6]], by="position"))
    with pytest.raises(errors.CannotAlign, match="position 6"):
        model.run(RUN, edits=edits.ablate("mlp_out.1", "mean", over=rows_of(6, 5), by="position"))
    with pytest.raises(errors.CannotAlign, match="position 7"):
        rs.sweep(
            model,
            RUN[:1],
            [edits.ablate("mlp_out.1", "mean", over=rows_of(6), by="position", pos=-1)],
            rs.logit_diff(5, 9),
        )
    for bad in ({"by": "layer", "to": "mean", "over": DATA}, {"by": "position"}, {"by": "position", "to": torch.ones(9, 32)},
                {"by": "position", "to": "resample", "over": DATA}):  # fmt: skip
        with pytest.raises(errors.BadEdit, match="by="):
            edits.ablate("mlp_out.1", **bad)
    with pytest.raises(errors.BadEdit, match="by="):
        edits.isolate("z.1", head=1, by="position")


@pytest.mark.parametrize("by", [None, "position"])
def test_an_ablation_sweep_says_what_it_averaged(model, by):
    result = rs.ablation_sweep(model, RUN[:1], rs.logit_diff(5, 9), site="z", to="mean", over=DATA, by=by)
    assert set(result.provenance["averaged"]) == {f"z.{layer}" for layer in range(4)}
    about = result.provenance["averaged"]["z.1"]
    assert (about["by"], about["tokens"]) == (("position", 33) if by else ("token", 29))
    cut = edits.ablate("z.2", "mean", over=DATA, by=by, head=3)
    close(result.values[2, 3], rs.logit_diff(5, 9)(model.run(RUN[:1], ["logits"], edits=cut))[0])
    json.dumps(about)


def test_the_sink_of_smollm2_no_longer_decides_the_effect(smollm2):
    """At END of IOI: the mean with position 0 in it is a sink's stream, which no text has there."""
    data = smollm2.run(rs.tasks.ioi(smollm2, 30, seed=1), ["resid_pre.15"])
    x, metric = data["resid_pre.15"], rs.logit_diff(" Mary", " John")
    rows = [x[i, : data.lengths[i]] for i in range(30)]
    clean = float(metric(smollm2.run(IOI, ["logits"])))

    def effect(to, **more):
        return (
            float(metric(smollm2.run(IOI, ["logits"], edits=edits.ablate("resid_pre.15", to, pos=-1, **more)))) - clean
        )

    with_sink, without = effect(torch.cat(rows).mean(0)), effect(torch.cat([row[1:] for row in rows]).mean(0))
    assert effect("mean", over=data) == pytest.approx(without, abs=1e-3)
    assert with_sink < 2 * without < 0
    length = len(smollm2.batch(IOI).ids[0])
    at_end = torch.stack([row[length - 1] for row in rows]).mean(0)
    assert effect("mean", over=data, by="position") == pytest.approx(effect(at_end), abs=1e-3)
