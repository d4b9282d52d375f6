"""Edits: no-ops change nothing, effects are what the equations say, JSON there and back changes nothing."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residscope import directions, edits, errors
from residscope.engine.model import Model
from tiny_models import tiny_llama


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def vector(model, seed=0):
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).double()


def direction(model, seed=0, **kwargs):
    return directions.Direction(vector(model, seed), vector(model, seed), "resid_pre.2", **kwargs)


def test_no_op_edits_change_nothing(tiny, ids):
    plain = tiny.run(ids, capture=tiny.sites.names)
    zero = vector(tiny)
    for site in plain.sites:
        stack = [edits.scale(str(site), 1.0), edits.freeze(str(site)), edits.noise(str(site), 0.0)]
        close(tiny.run(ids, edits=edits.patch(str(site), plain)).logits, plain.logits)
        if site.kind.dims == "batch pos d_model":
            stack.append(edits.steer(str(site), zero, 0.0))
        close(tiny.run(ids, edits=stack).logits, plain.logits)


def test_every_edit_has_an_effect(tiny, ids):
    plain = tiny.run(ids, capture=tiny.sites.names)
    for site in plain.sites:
        if site.name == "scores":
            continue
        changed = tiny.run(ids, edits=[edits.scale(str(site), 0.5)])
        assert (changed.logits - plain.logits).abs().max() > 1e-6, site


def test_ablation(tiny, ids):
    run = tiny.run(ids, ["z", "result", "attn_raw"], edits=[edits.ablate("z.1", head=[0, 2], pos=[3, -1])])
    plain = tiny.run(ids, ["z.1"])
    assert run["z.1"][:, [3, 10]][:, :, [0, 2]].abs().max() == 0
    close(run["z.1"][:, :3], plain["z.1"][:, :3])
    close(run["z.1"][:, :, [1, 3]], plain["z.1"][:, :, [1, 3]])
    assert run["result.1"][:, 3, 0].abs().max() == 0


def test_mean_ablation_takes_its_data(tiny, ids):
    cut = edits.ablate("mlp_out.1", "mean", over=ids)
    mean = tiny.run(ids, ["mlp_out.1"])["mlp_out.1"].flatten(0, 1).mean(0)
    run = tiny.run(ids, ["mlp_out.1"], edits=[cut])
    close(run["mlp_out.1"], mean.expand_as(run["mlp_out.1"]))
    ragged = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    rec = tiny.run(ragged, ["mlp_out.1"])
    expected = torch.cat([rec["mlp_out.1"][0, :3], rec["mlp_out.1"][1]]).mean(0)
    close(edits.ablate("mlp_out.1", "mean", over=ragged).prepare(tiny).to, expected)


def test_ablating_the_stream_is_exact_on_both_branches(tiny, ids):
    """A zero stream stays zero: no rounding is left for the norm to blow up."""
    run = tiny.run(ids, ["mlp_in.1", "resid_mid.1", "resid_post.1", "mlp_out.1"], edits=[edits.ablate("resid_mid.1")])
    assert run["resid_mid.1"].abs().max() == 0
    assert torch.equal(run["resid_post.1"], run["mlp_out.1"])


def test_steering_moves_the_coordinate(tiny, ids):
    d = direction(tiny).unit()
    plain, run = tiny.run(ids), tiny.run(ids, edits=[edits.steer("resid_pre.2", d, 3.0, pos=4)])
    moved = d.project(run["resid_pre.2"]) - d.project(plain["resid_pre.2"])
    close(moved[:, 4], torch.full_like(moved[:, 4], 3.0))
    assert moved[:, :4].abs().max() == 0
    with_sd = directions.Direction(2 * d.read, 5 * d.write, "resid_pre.2", scale=1.5)
    run = tiny.run(ids, edits=[edits.steer("resid_pre.2", with_sd, -2.0, unit="sd")])
    close(
        with_sd.project(run["resid_pre.2"]) - with_sd.project(plain["resid_pre.2"]), torch.full((2, 11), -3.0).double()
    )


def test_projecting_out(tiny, ids):
    pair = [direction(tiny, 0), direction(tiny, 1)]
    once = edits.project_out("resid_mid.2", pair)
    run = tiny.run(ids, ["resid_mid.2"], edits=[once])
    for d in pair:
        assert d.project(run["resid_mid.2"]).abs().max() < 1e-9
    close(tiny.run(ids, ["resid_mid.2"], edits=[once, once])["resid_mid.2"], run["resid_mid.2"])
    oblique = directions.Direction(vector(tiny, 0), vector(tiny, 5), "resid_mid.2")
    run = tiny.run(ids, ["resid_mid.2"], edits=[edits.project_out("resid_mid.2", oblique)])
    assert oblique.project(run["resid_mid.2"]).abs().max() < 1e-8


def test_freezing_holds_what_the_unedited_run_has(tiny, ids):
    cut = edits.ablate("resid_pre.1", pos=2)
    plain = tiny.run(ids, ["pattern", "attn_scale", "mlp_scale", "final_scale", "logits"])
    loose = tiny.run(ids, ["pattern.3", "logits"], edits=[cut])
    assert (loose["pattern.3"] - plain["pattern.3"]).abs().max() > 1e-6
    held = tiny.run(ids, ["pattern", "logits"], edits=[cut, edits.freeze("patterns")])
    for layer in range(tiny.n_layers):
        close(held["pattern", layer], plain["pattern", layer])
    assert (held.logits - loose.logits).abs().max() > 1e-6
    norms = tiny.run(ids, ["attn_scale", "mlp_scale", "final_scale"], edits=[cut, edits.freeze("norms")])
    for site in norms.sites:
        close(norms[site], plain[site])


def test_a_frozen_norm_makes_the_rest_linear(tiny, ids):
    """With the final norm's scale frozen, logits move linearly with what is written at the end of the stream."""
    d, last = vector(tiny), f"resid_post.{tiny.n_layers - 1}"

    def logits(strength, *more):
        return tiny.run(ids, ["logits"], edits=[edits.steer(last, d, strength), *more]).logits

    frozen = edits.freeze("final_scale")
    # stock RMSNorms round to float32 whatever the model's dtype
    close(logits(2.0, frozen) - logits(0.0, frozen), 2 * (logits(1.0, frozen) - logits(0.0, frozen)), 1e-5)
    loose = (logits(2.0) - logits(0.0)) - 2 * (logits(1.0) - logits(0.0))
    assert loose.abs().max() > 1e-3


def test_patching(tiny, ids):
    other = tiny.run(ids.flip(0), capture=["z", "resid_pre", "resid_post"])
    close(tiny.run(ids, edits=[edits.patch("resid_pre.0", other)]).logits, other.logits)
    run = tiny.run(ids, ["z.1"], edits=[edits.patch("z.1", other, head=2, pos=[5])])
    close(run["z.1"][:, 5, 2], other["z.1"][:, 5, 2])
    close(run["z.1"][:, 6], tiny.run(ids, ["z.1"])["z.1"][:, 6])
    by_prompt = tiny.run(ids, edits=[edits.patch("resid_pre.2", ids.flip(0), pos=-1)])
    close(by_prompt.logits, tiny.run(ids, edits=[edits.patch("resid_pre.2", other, pos=10)]).logits)
    shorter = tiny.run(ids[:, :7], capture=["resid_pre"])
    run = tiny.run(ids, ["resid_pre.1"], edits=[edits.patch("resid_pre.1", shorter, align={9: 2})])
    close(run["resid_pre.1"][:, 9], shorter["resid_pre.1"][:, 2])
    run = tiny.run(ids, ["resid_pre.1"], edits=[edits.patch("resid_pre.1", shorter, pos=[3, 5])])
    close(run["resid_pre.1"][:, [3, 5]], shorter["resid_pre.1"][:, [3, 5]])
    for align in ({11: 2}, {-1: 2}, {3: 7}):
        with pytest.raises(errors.UnknownPosition, match="0 to 10 from 0 to 6"):
            tiny.run(ids, edits=[edits.patch("resid_pre.1", shorter, align=align)])
    with pytest.raises(errors.CannotAlign, match="suffix"):
        tiny.run(ids, edits=[edits.patch("resid_pre.1", shorter)])


def test_edits_apply_in_order(tiny, ids):
    d = vector(tiny)
    steer, half = edits.steer("resid_pre.1", d, 2.0), edits.scale("resid_pre.1", 0.5)
    x = tiny.run(ids)["resid_pre.1"]
    unit = d / d.norm()
    close(tiny.run(ids, edits=[steer, half])["resid_pre.1"], (x + 2 * unit) / 2)
    close(tiny.run(ids, edits=[half, steer])["resid_pre.1"], x / 2 + 2 * unit)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_json_there_and_back(data):
    model = MODEL
    some = [
        edits.ablate("z.1", head=data.draw(st.integers(0, 3))),
        edits.ablate("mlp_out.2", vector(model, 9)),
        edits.ablate("v.0", kv_head=1, pos=[data.draw(st.integers(-11, 10))]),
        edits.ablate("mlp_post.1", neuron=[3, 7]),
        edits.scale("resid_mid.1", data.draw(st.floats(-3, 3))),
        edits.steer("resid_pre.2", direction(model, scale=2.0, name="d"), 1.5, unit="sd"),
        edits.project_out("resid_post.2", [direction(model), vector(model, 4)]),
        edits.freeze("pattern.1", head=[0, 1]),
        edits.freeze("norms"),
        edits.patch("resid_pre.1", OTHER, pos=3),
    ]
    chosen = data.draw(st.lists(st.sampled_from(range(len(some))), min_size=1, max_size=4))
    stack = [some[i] for i in chosen]
    text = edits.to_json(stack)
    back = edits.from_json(text)
    assert edits.to_json(back) == text
    assert torch.equal(model.run(IDS, edits=back).logits, model.run(IDS, edits=stack).logits)


MODEL = Model(tiny_llama())
IDS = torch.randint(2, 97, (1, 11), generator=torch.Generator().manual_seed(2))
OTHER = MODEL.run(IDS.flip(1))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("{}", "not a list"), ('[{"kind": "explode"}]', "ablate"), ('["x"]', "no such kind"),
     ('[{"kind": "scale", "site": "z.1", "by": 2}]', "factor"), ('[{"kind": "scale"}]', "needs a site"),
     ('[{"kind": "ablate", "site": "z.1", "head": "two"}]', "whole number"),
     ('[{"kind": "ablate", "site": "z.1", "to": "one"}]', "zero"),
     ('[{"kind": "ablate", "site": "z.1", "to": "mean"}]', "over="),
     ('[{"kind": "freeze", "site": "z.1", "head": true}]', "whole number"),
     ('[{"kind": "steer", "site": "z.1", "unit": "cm"}]', "unit")],
)  # fmt: skip
def test_edits_that_do_not_parse(text, words):
    with pytest.raises(errors.BadEdit, match=words):
        edits.from_json(text)


@pytest.mark.parametrize(
    "text",
    ['[{"kind": "steer", "site": "resid_pre.1", "direction": "north", "strength": 1}]',
     '[{"kind": "steer", "site": "resid_pre.1", "strength": 1}]',
     '[{"kind": "scale", "site": "z.1", "factor": "two"}]', '[{"kind": "scale", "site": "z.1", "factor": NaN}]',
     '[{"kind": "project_out", "site": "z.1", "directions": ["north"]}]'],
)  # fmt: skip
def test_parts_of_the_wrong_type_are_refused_without_a_type_checker(text):
    """As users run it: no checker stands before the constructors."""
    code = f"from residscope import edits, errors\ntry: edits.from_json({text!r})\nexcept errors.ResidscopeError: print('typed')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "typed\n", done.stderr[-500:]


def test_a_direction_whose_write_does_not_move_its_read_is_refused():
    blind = directions.Direction(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), "resid_pre.1", scale=1.0)
    with pytest.raises(errors.ZeroDirection, match="read"):
        edits.project_out("resid_pre.1", blind)
    with pytest.raises(errors.ZeroDirection, match="read"):
        edits.steer("resid_pre.1", blind, 1.0, unit="sd")


def test_a_damaged_tensor_is_refused():
    entry = edits.ablate("mlp_out.2", torch.ones(32)).to_dict()
    entry["to"]["$tensor"]["sha256"] = "0" * 64
    with pytest.raises(errors.BadEdit, match="damaged"):
        edits.from_json(json.dumps([entry]))


def test_edits_that_do_not_fit(llama, ids):
    wide = directions.Direction(torch.ones(33), torch.ones(33), "resid_pre.1")
    for edit, error, words in [
        (edits.ablate("z.1", head=4), errors.UnknownHead, "0 to 3"),
        (edits.ablate("k.1", head=0), errors.UnknownHead, "kv_head"),
        (edits.ablate("resid_pre.1", head=0), errors.UnknownHead, "no head"),
        (edits.ablate("mlp_post.1", neuron=48), errors.UnknownNeuron, "0 to 47"),
        (edits.ablate("z.1", pos=11), errors.UnknownPosition, "11 tokens"),
        (edits.ablate("z.9"), errors.UnknownLayer, "4 layers"),
        (edits.ablate("router.1"), errors.AbsentSite, "dense"),
        (edits.steer("resid_pre.1", wide, 1.0), errors.WrongWidth, "33"),
        (edits.ablate("z.1", torch.ones(5)), errors.WrongWidth, "broadcastable"),
    ]:
        with pytest.raises(error, match=words):
            llama.run(ids, edits=[edit])
    with pytest.raises(errors.ZeroDirection):
        edits.steer("resid_pre.1", torch.zeros(32), 1.0)
    one = edits.ablate("z.1")
    assert torch.equal(llama.run(ids, edits=one).logits, llama.run(ids, edits=[one]).logits)
