"""A model that changes under us: each change is followed exactly, or refused, and no recording outlives it unseen."""

import warnings

import pytest
import torch
from torch import nn

import residscope as rs
from residscope import edits, errors
from residscope.engine import certificate
from residscope.engine.model import Model
from tiny_models import hook_count, tiny_gpt2, tiny_llama

IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 8, 9]])
CUT = edits.ablate("mlp_post.2")


def by_hand(hf, ids=IDS):
    """The stock model's logits with the neurons of layer 2 zeroed by a plain hook, compiled code set aside."""
    hook = hf.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return hf(ids).logits
    finally:
        hook.remove()


def stock(hf):
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return hf(IDS).logits


def compile_whole(hf):
    hf.compile(backend="eager")


def compile_layer(hf):
    hf.model.layers[2].compile(backend="eager")


def compile_forward(hf):
    hf.forward = torch.compile(hf.forward, backend="eager")


def replace_layer(hf):
    hf.model.layers[1] = tiny_llama(seed=7).model.layers[1]


def replace_head(hf):
    hf.lm_head = tiny_llama(seed=8).lm_head


def replace_forward(hf):
    module = hf.model.layers[1].mlp
    own = module.forward
    module.forward = lambda x: own(x * 0.5)


def write_in_place(hf):
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight.mul_(1.5)


def write_through_data(hf):
    hf.model.layers[1].mlp.up_proj.weight.data.mul_(1.5)


def set_data(hf):
    weight = hf.model.layers[1].mlp.up_proj.weight
    weight.data = weight.data * 1.5


def change_setting(hf):
    hf.model.layers[1].self_attn.scaling *= 2


def change_epsilon(hf):
    hf.model.norm.variance_epsilon = 0.5


def change_config(hf):
    hf.config.hidden_act = "gelu"


def hook_that_scales_neurons(hf):
    hf.model.layers[1].mlp.act_fn.register_forward_hook(lambda module, args, out: out * 0.5)


def class_forward(hf):
    cls = type(
        "Halved", (type(hf.model.layers[1].mlp),), {"forward": lambda self, x: super(cls, self).forward(x * 0.5)}
    )
    hf.model.layers[1].mlp.__class__ = cls


CHANGES = [
    compile_whole, compile_layer, compile_forward, replace_layer, replace_head, replace_forward, write_in_place,
    write_through_data, set_data, change_setting, change_epsilon, hook_that_scales_neurons, class_forward,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_followed_and_its_recordings_are_stale(change):
    hf = tiny_llama()
    model = rs.load((hf, None))
    before = model.run(IDS)
    was = model.fingerprint()
    change(hf)
    assert before.stale
    with pytest.raises(errors.WeightsChanged):
        _ = before["mlp_in.1"]
    with pytest.raises(errors.WeightsChanged):
        before.logits_at(-1)
    run = model.run(IDS, ["logits", "mlp_pre"])
    torch.testing.assert_close(run.logits, stock(hf), atol=1e-6, rtol=1e-6)
    assert not run.stale
    torch.testing.assert_close(model.run(IDS, ["logits"], edits=CUT).logits, by_hand(hf), atol=1e-6, rtol=1e-6)
    found = rs.sweep(model, IDS, [CUT], rs.logit_diff(5, 7)).run(False).values[0]
    expected = by_hand(hf)[:, -1, 5] - by_hand(hf)[:, -1, 7]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert model.certificate.passed
    if change in (replace_layer, replace_head, write_in_place, write_through_data, set_data):
        assert model.fingerprint() != was
        assert model.provenance["hash"] != was
    assert hook_count(hf) == (change is hook_that_scales_neurons) + (change in (replace_forward, compile_forward))


def test_a_change_between_planning_and_running_a_sweep_is_refused():
    hf = tiny_llama()
    plan = rs.sweep(Model(hf), IDS, [CUT], rs.logit_diff(5, 7))
    compile_layer(hf)
    with pytest.raises(errors.WeightsChanged):
        plan.run(False)


def test_nothing_that_a_run_does_itself_counts_as_a_change():
    hf = tiny_llama()
    model = rs.load((hf, None))
    held = model.weights_version()
    model.run(IDS, ["pattern", "logits"], edits=[CUT, edits.freeze("norms")])
    rs.sweep(model, IDS, [CUT, edits.ablate("z.1", head=1)], rs.logit_diff(5, 7)).run(False)
    list(model.generate(IDS, max_new_tokens=2))
    hf.train()
    hf.eval()
    seen = []
    hook = edits.scale("z.1", 2.0)
    model.run(IDS, ["logits"], edits=[hook], readout=_Looks(model, seen))
    assert seen == [held]
    assert model.weights_version() == held


class _Looks:
    """A readout that asks for the version while the run's lock is held."""

    sites = ("logits",)

    def __init__(self, model, seen):
        self.model, self.seen = model, seen

    def __call__(self, recording):
        self.seen.append(self.model.weights_version())
        return recording.logits[:, -1, 0]


def test_a_version_asked_for_in_the_middle_of_a_run_does_not_see_the_runs_own_hooks():
    hf = tiny_llama()
    model = Model(hf)
    held, seen = model.weights_version(), []
    own = hf.model.layers[1].mlp.act_fn
    look = own.register_forward_hook(lambda *_: seen.append(model.weights_version()))
    held = model.weights_version()
    model.run(IDS, ["mlp_post"], edits=[CUT, edits.path("z.0", "q.2", IDS + 1)])
    assert set(seen) == {held}
    look.remove()


def test_a_compiled_object_is_served_by_what_it_was_made_from():
    hf = tiny_llama()
    rs.load((hf, None))  # its certificate is kept
    model = rs.load((torch.compile(hf, backend="eager"), None))
    assert model.hf is hf
    torch.testing.assert_close(model.run(IDS, ["logits"], edits=CUT).logits, by_hand(hf), atol=1e-6, rtol=1e-6)


def test_no_certificate_is_kept_for_what_somebody_put_on_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(certificate, "_folder", lambda: tmp_path)
    hf = tiny_llama()
    assert not rs.load((hf, None)).certificate.cached
    assert rs.load((hf, None)).certificate.cached
    hook = hf.model.layers[1].mlp.register_forward_hook(lambda module, args, out: None)
    assert not rs.load((hf, None)).certificate.cached
    hook.remove()
    assert rs.load((hf, None)).certificate.cached
    hf.model.layers[1].self_attn.scaling *= 2  # same weights, another model
    assert not rs.load((hf, None)).certificate.cached


def test_a_forward_that_breaks_the_equations_takes_its_sites_with_it_and_is_named():
    hf = tiny_llama()
    model = rs.load((hf, None))
    own = hf.model.layers[1].mlp.forward
    hf.model.layers[1].mlp.forward = lambda x: own(x) * 0.5
    torch.testing.assert_close(model.run(IDS, ["logits"]).logits, stock(hf), atol=1e-6, rtol=1e-6)
    assert {"mlp_post.1", "mlp_pre.1"} <= {*model.sites.absent}
    assert "another forward on model.layers.1.mlp" in model.sites.absent["mlp_post.1"]
    with pytest.raises(errors.AbsentSite, match=r"another forward on model\.layers\.1\.mlp"):
        model.run(IDS, ["mlp_post.1"])


@pytest.mark.parametrize("compile", [compile_whole, compile_layer, compile_forward])
def test_a_first_look_at_compiled_code_sees_what_it_was_made_from(tmp_path, monkeypatch, compile):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    hf = tiny_llama()
    compile(hf)
    assert rs.load((hf, None)).family == rs.load((tiny_llama(), None)).family


def test_a_first_look_under_a_hook_that_breaks_the_equations_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    hf = tiny_llama()
    hf.model.layers[1].register_forward_hook(lambda module, args, out: out + 1)
    with pytest.raises(errors.UnknownFamily, match=r"take off a forward hook on model\.layers\.1"):
        rs.load((hf, None))


def test_a_hook_that_breaks_the_equations_is_refused_by_name():
    hf = tiny_llama()
    model = rs.load((hf, None))
    hook = hf.model.layers[1].register_forward_hook(lambda module, args, out: out + 1)
    for _ in range(2):
        with pytest.raises(errors.CertificateFailed, match=r"take off a forward hook on model\.layers\.1"):
            model.run(IDS)
    hook.remove()
    torch.testing.assert_close(model.run(IDS, ["logits"]).logits, stock(hf), atol=1e-6, rtol=1e-6)


def test_adapters_are_refused_with_the_way_out_and_served_once_merged():
    peft = pytest.importorskip("peft")
    hf = tiny_llama()
    model = rs.load((hf, None))
    config = peft.LoraConfig(target_modules=["up_proj", "o_proj"], r=2, init_lora_weights=False)
    wrapped = peft.get_peft_model(hf, config)
    with pytest.raises(errors.UnmergedAdapter, match=r"merge_and_unload"):
        rs.load((wrapped, None))
    with pytest.raises(errors.UnmergedAdapter, match=r"merge_and_unload"):
        model.run(IDS)  # added in place, to a model that was loaded already
    with wrapped.disable_adapter(), pytest.raises(errors.UnmergedAdapter):
        model.run(IDS)
    merged = rs.load((wrapped.merge_and_unload(), None))
    torch.testing.assert_close(merged.run(IDS, ["logits"]).logits, stock(merged.hf), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(merged.run(IDS, ["logits"], edits=CUT).logits, by_hand(merged.hf), atol=1e-6, rtol=1e-6)


# ── numbers that are none ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_the_first_ones_name(value):
    hf = tiny_llama()
    hf.model.layers[3].mlp.up_proj.weight.data[1, 2] = value
    hf.model.layers[1].self_attn.q_proj.weight.data[0, 0] = value
    with pytest.raises(errors.NotFinite, match=r"model\.layers\.1\.self_attn\.q_proj\.weight.*1 of 1024"):
        rs.load((hf, None))


def test_an_overflow_is_refused_by_the_first_site():
    rs.load((tiny_llama().half(), None))
    hf = tiny_llama().half()
    hf.model.layers[1].mlp.down_proj.weight.data.fill_(6e4)
    with pytest.raises(errors.NotFinite, match=r"from (mlp_raw|mlp_out)\.1 on.*float16.*dtype=torch\.float32"):
        rs.load((hf, None))


@pytest.mark.parametrize("value", [3e2, 6e4])
def test_a_first_look_at_an_overflow_names_the_module_or_the_way_out(tmp_path, monkeypatch, value):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    hf = tiny_llama().half()
    hf.model.layers[1].mlp.down_proj.weight.data.fill_(6e4)
    hf.model.layers[1].mlp.up_proj.weight.data.fill_(value)
    with pytest.raises((errors.NotFinite, errors.UnknownFamily), match=r"dtype=torch\.float32"):
        rs.load((hf, None))


def test_weights_that_turn_into_none_while_the_structure_changes_are_refused_too():
    hf = tiny_gpt2()
    model = rs.load((hf, None))
    hf.transformer.h[1] = tiny_gpt2(seed=3).transformer.h[1]
    hf.transformer.h[2].mlp.c_fc.weight.data[0, 0] = float("nan")
    with pytest.raises(errors.NotFinite, match=r"transformer\.h\.2\.mlp\.c_fc\.weight"):
        model.run(IDS)


# ── a device that is silently wrong ─────────────────────────────────────────────────────────────────────────────


class Wrong(nn.Linear):
    """A product that is wrong by 2 % with the weights where they were made, and right with copies of them."""

    def forward(self, x):
        out = super().forward(x)
        return out * 1.02 if self.weight.data_ptr() == self.here else out


@pytest.mark.parametrize("cls", [Wrong, nn.Linear])
def test_a_device_that_is_silently_wrong_is_refused(monkeypatch, cls):
    """`elsewhere` stands for another device, which this machine lacks: the check and its copy of the weights are real."""
    from residscope.engine.checks import Bench

    hf = tiny_llama()
    hf.lm_head.__class__ = cls
    hf.lm_head.here = hf.lm_head.weight.data_ptr()
    monkeypatch.setattr(Bench, "elsewhere", property(lambda self: True))
    monkeypatch.setattr(certificate, "_read", lambda path: None)
    if cls is nn.Linear:
        assert rs.load((hf, None)).certificate.passed
        return
    with pytest.raises(errors.CertificateFailed, match="beside the CPU"):
        rs.load((hf, None))


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cell", "window"),
    [
        (edits.ablate("z.1"), {"start": 2}),
        (edits.scale("resid_post.0", 2.0), {"start": 2}),
        (edits.scale("embed", 2.0), {"start": 1}),
        (edits.ablate("mlp_out.3", pos=1), {"pos": 2}),
        (edits.ablate("mlp_out.3", pos=[-7, -1]), {"pos": 2}),
        (edits.freeze("norms"), {"start": 2}),  # over a base that has edits of its own
    ],
)
def test_an_edit_before_the_window_is_refused(llama, cell, window):
    base = llama.run(IDS, edits=edits.scale("z.0", 1.1) if cell.needs_unedited else ())
    with pytest.raises(errors.BadEdit, match=r"before the window|below the window"):
        llama.run(IDS, ["logits"], edits=cell, window=rs.Window(base, **window))


def test_what_holds_to_an_unedited_base_may_lie_before_the_window(llama):
    base = llama.run(IDS)
    cells = [edits.freeze("norms"), edits.scale("z.3", 2.0)]
    run = llama.run(IDS, ["logits"], edits=cells, window=rs.Window(base, 2))
    torch.testing.assert_close(run.logits, llama.run(IDS, ["logits"], edits=cells).logits, atol=1e-9, rtol=1e-9)


def test_a_run_says_nothing_on_a_model_as_it_is(llama):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama.run(IDS, ["logits"])
