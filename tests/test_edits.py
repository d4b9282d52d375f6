"""Edits: no-ops change nothing, effects are what the equations say, JSON there and back changes nothing."""

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from residscope import directions, edits, errors
from residscope.engine.model import Model
from tiny_models import hook_count, tiny_llama


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
    mean = tiny.run(ids, ["mlp_out.1"])["mlp_out.1"][:, 1:].flatten(0, 1).mean(0)
    run = tiny.run(ids, ["mlp_out.1"], edits=[cut])
    close(run["mlp_out.1"], mean.expand_as(run["mlp_out.1"]))
    ragged = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    rec = tiny.run(ragged, ["mlp_out.1"])
    expected = torch.cat([rec["mlp_out.1"][0, 1:3], rec["mlp_out.1"][1, 1:]]).mean(0)
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


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_json_and_files_there_and_back(data):
    model, head, pos = MODEL, data.draw(st.integers(0, 3)), data.draw(st.integers(-11, 10))
    some = [
        edits.ablate("z.1", head=head),
        edits.ablate("mlp_out.2", vector(model, 9)),
        edits.ablate("v.0", kv_head=1, pos=[pos]),
        edits.ablate("mlp_post.1", neuron=[3, 7]),
        edits.ablate("attn_out.2", "mean", over=MORE).prepare(model),
        edits.ablate("attn_out.1", "mean", over=MORE, by="position").prepare(model),
        edits.ablate("z.3", "resample", over=MORE, seed=data.draw(st.integers(0, 9))).prepare(model),
        edits.scale("resid_mid.1", data.draw(st.floats(-3, 3))),
        edits.steer("resid_pre.2", direction(model, scale=2.0, name="d"), 1.5, unit="sd"),
        edits.clamp("resid_mid.2", direction(model, offset=0.3, space="centred"), 2.0, pos=pos),
        edits.project_out("resid_post.2", [direction(model), vector(model, 4)]),
        edits.noise("embed", 0.2, seed=data.draw(st.integers(0, 9)), pos=pos),
        edits.freeze("pattern.1", head=[0, 1]),
        edits.freeze("norms"),
        edits.isolate("z.2", head=[head, 1]),
        edits.isolate("z.2", head=0, pos=[1, -2]),
        edits.patch("resid_pre.1", OTHER, pos=3),
        edits.patch("mlp_out.0", SHORT, align=data.draw(st.sampled_from(["suffix", "prefix", {9: 2}, [{1: 1}]]))),
        edits.patch("resid_post.3", IDS.flip(1), feature=[0, 2], dictionary=SOME),
        edits.feature(SOME, 1, data.draw(st.floats(-2, 2))),
        edits.feature(SOME, [0, 2], value=0.5, site="resid_mid.3", pos=pos),
        edits.path("z.0", "q.2", OTHER, sender_head=head, head=1),
        edits.path("embed", "q.2", IDS.flip(1), head=[1, 2], pos=[pos]),
        edits.overlay("model.layers.2.mlp.down_proj", (torch.ones(48, 2) * 0.01, torch.ones(2, 32))),
    ]
    own = {kind for kind, cls in edits.KINDS.items() if cls.__module__.startswith("residscope.edits")}
    assert {edit.kind for edit in some} == own
    chosen = data.draw(st.lists(st.sampled_from(range(len(some))), min_size=1, max_size=4, unique=True))
    stack = [some[i] for i in chosen]
    run, tensors = model.run(IDS, edits=stack), {}
    text, lean = edits.to_json(stack), edits.to_json(stack, tensors)
    assert edits.to_json(edits.from_json(text)) == text
    assert "base64" not in lean
    assert '"data"' not in lean
    with TemporaryDirectory() as folder:
        edits.save(Path(folder) / "stack.safetensors", stack)
        assert [p.name for p in Path(folder).iterdir()] == ["stack.safetensors"]
        loaded = edits.load(Path(folder) / "stack.safetensors")
    for back in (
        edits.from_json(text),
        edits.from_json(lean, tensors),
        loaded,
        edits.from_json(edits.to_json(run.edits)),
    ):
        assert torch.equal(model.run(IDS, edits=back).logits, run.logits)


MODEL = Model(tiny_llama())
IDS = torch.randint(2, 97, (1, 11), generator=torch.Generator().manual_seed(2))
MORE = torch.randint(2, 97, (4, 12), generator=torch.Generator().manual_seed(3))
OTHER, SHORT = MODEL.run(IDS.flip(1)), MODEL.run(MORE[:1, :6])
SOME = directions.Dictionary("some", "resid_pre.1", *torch.randn(2, 4, 32).double(), torch.zeros(32).double())


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


def test_each_tensor_is_saved_once_and_a_damaged_or_missing_one_is_refused_by_name(tmp_path):
    path, tensors, value = tmp_path / "some.safetensors", {}, torch.arange(32.0)
    stack = [
        edits.ablate("mlp_out.2", value),
        edits.ablate("mlp_out.1", value.clone()),
        edits.ablate("z.1", torch.zeros(8)),
    ]
    text = edits.to_json(stack, tensors)
    digest = hashlib.sha256(value.numpy().tobytes()).hexdigest()
    assert len(tensors) == 2
    assert torch.equal(tensors[digest], value)
    edits.save(path, stack)
    with pytest.raises(errors.BadEdit, match=f"missing.*{digest}"):
        edits.from_json(text, {k: v for k, v in tensors.items() if k != digest})
    with pytest.raises(errors.BadEdit, match=f"damaged.*{digest}"):
        edits.from_json(text, tensors | {digest: value + 1})
    with pytest.raises(errors.BadEdit, match="damaged"):
        edits.from_json(text)
    whole = path.read_bytes()
    at = whole.index(value.numpy().tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(errors.BadEdit, match=r"some\.safetensors.*damaged"):  # the seal is broken, of whichever part
        edits.load(path)
    save_file(tensors | {digest: value + 1}, path, {"edits": text})  # as before edits were sealed
    with pytest.raises(errors.BadEdit, match=rf"some\.safetensors.*damaged.*{digest}"):
        edits.load(path)
    for damaged in (whole[: len(whole) // 2], b"", b"not a file"):
        path.write_bytes(damaged)
        with pytest.raises(errors.BadEdit, match=r"some\.safetensors"):
            edits.load(path)
    with pytest.raises(errors.BadEdit, match=r"none\.safetensors"):
        edits.load(tmp_path / "none.safetensors")
    several = [(torch.zeros(4, 8), "z.1"), (torch.zeros(8).double(), "z.2"), (torch.zeros(16), "z.0")]
    edits.save(path, [edits.ablate(site, x) for x, site in several])  # the last two are the same bytes
    assert [tuple(edit.to.shape) for edit in edits.load(path)] == [(4, 8), (8,), (16,)]


def test_eight_threads_with_different_edits_are_one_at_a_time(llama, ids):
    d = vector(llama)
    stacks = [
        [edits.clamp("resid_pre.1", d, 3.0)], [edits.noise("embed", 0.5, seed=1)], [edits.isolate("z.1", head=2)],
        [edits.ablate("z.2", "resample", over=ids.flip(0))], [edits.feature(SOME, 1, 0.0)],
        [edits.path("z.0", "k.2", ids.flip(0))],
        [edits.overlay("model.layers.1.mlp.up_proj", (torch.ones(32), torch.ones(48)))],
        [edits.freeze("norms"), edits.scale("embed", 2.0)],
    ]  # fmt: skip
    alone = [llama.run(ids, edits=stack).logits for stack in stacks]
    assert len({float(x.sum()) for x in alone}) == 8
    failures = []

    def work(i):
        failures.extend(i for _ in range(4) if not torch.equal(llama.run(ids, edits=stacks[i]).logits, alone[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert hook_count(llama.hf) == 0


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
