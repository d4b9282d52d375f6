"""The certificate passes true descriptions and names what is wrong with false ones."""

import threading
from dataclasses import replace

import pytest
import torch
from by_hand import _common, families, family_of
from families import FAMILIES

import residscope as rs
from residscope import errors
from residscope.engine import certificate, hooks
from residscope.engine.certificate import measure
from residscope.engine.finite import require_finite_weights
from residscope.engine.look import described
from residscope.engine.model import Model
from tiny_models import VARIANTS, tiny_gpt2, tiny_llama


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_true_descriptions_pass(name, dtype):
    certificate = measure(Model(VARIANTS[name]().to(dtype)))
    assert certificate.passed, certificate
    if dtype == torch.float32:
        assert certificate.worst < 1e-4


def wrong(monkeypatch, family, **changes):
    block = replace(family.block, **{k: v for k, v in changes.items() if k in family.block.__dataclass_fields__})
    other = {k: v for k, v in changes.items() if k not in family.block.__dataclass_fields__}
    lie = replace(family, block=block, **other)
    monkeypatch.setattr(described, "families", lambda: dict.fromkeys(family.model_types, lie))
    monkeypatch.setattr(described, "family_of", lambda config: lie)


LIES = {
    "swapped norms": ("llama", {"attn_norm": "post_attention_layernorm", "mlp_norm": "input_layernorm"}, "norms"),
    "wrong norm kind": ("llama", {"norm": "layer"}, "norms"),
    "gain off by one": ("llama", {"norm_gain_offset": 1.0}, "norms"),
    "gate for up": ("llama", {"mlp_down": "mlp.up_proj"}, "neurons"),
    "swapped branches": ("llama", {"attn": "mlp", "mlp": "self_attn"}, "stream"),
    "swapped branches, gpt2": ("gpt2", {"attn": "mlp", "mlp": "attn"}, "stream"),
    "wrong final norm": ("gpt2", {"final_norm": "transformer.h.0.ln_1"}, "norms"),
    "wrong projection": ("gpt2", {"attn_proj": "mlp.c_proj"}, "attention"),
    "rms for layer norm": ("gpt2", {"norm": "rms"}, "norms"),
    "post-norms left out": ("gemma2", {"attn_post_norm": None, "mlp_post_norm": None}, "stream"),
    "pre-norm for post-norm": ("gemma2", {"mlp_norm": "post_attention_layernorm"}, "norms"),
    "gain offset left out": ("gemma", {"norm_gain_offset": 0.0}, "norms"),
    "score cap left out": ("gemma2", {"factors": {"logits_cap": "final_logit_softcapping"}}, "write inside attention"),
    "logit cap left out": ("gemma2", {"factors": {"scores_cap": "attn_logit_softcapping"}}, "lens"),
    "residual multiplier left out": ("granite", {"factors": {"embed": "embedding_multiplier", "1/logits": "logits_scaling"}},
                                     "stream"),
    "embedding multiplier left out": ("granite", {"factors": {"residual": "residual_multiplier", "1/logits": "logits_scaling"}},
                                      "stream"),
    "logit scale left out": ("cohere", {"factors": {}}, "lens"),
    "one after the other, not parallel": ("gpt_neox", {"absent": {}}, "stream"),
    "parallel, not one after the other": ("gpt_neox, one by one", {"absent": {"resid_mid": "side by side"}}, "norms"),
    "one norm for two": ("gpt_neox", {"mlp_norm": None}, "norms"),
    "residual taken for output": ("bloom", {"attn_writer": "self_attention", "mlp_writer": "mlp"}, "stream"),
    "MLP's residual taken for output": ("mpt", {"mlp_writer": "ffn"}, "stream"),
    "embedding norm left out": ("bloom", {"embed_norm": None}, "stream"),
    "sink left out": ("gpt_oss", {"sinks": None}, "attention"),
    "sum added in place": ("falcon", {"mlp_added_in_place": False}, "stream"),
    "two halves taken for one": ("phi3", {"mlp_gate": None}, "write the inputs"),
    "gate and input swapped": ("llama", {"mlp_up": "mlp.gate_proj", "mlp_gate": "mlp.up_proj"}, "neurons"),
    "head norms swapped": ("qwen3", {"q_norm": "self_attn.k_norm", "k_norm": "self_attn.q_norm"}, "write the norm scales"),
    "an MLP left out": ("toy, gelu", {"mlp": None, "mlp_norm": None, "mlp_up": None, "mlp_down": None,
                                      "absent": _common.NO_MLP}, "stream"),
    "positions kept out of the stream": ("toy, attention only", {"absent": {**_common.NO_MLP, "pos_embed": "not in it"}},
                                         "stream"),
    "layer norm for the last RMS": ("toy, solu", {"final_kind": None}, "norms"),
    "no seam": ("gpt_neo", {"attention": "interface"}, "attention"),
}  # fmt: skip
# A sliding window cannot be forgotten: no file states one. The masks are the stock model's own, whatever its configuration says.


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_description_is_caught_and_the_check_named(monkeypatch, lie):
    name, changes, check = LIES[lie]
    hf = {"llama": tiny_llama, "gpt2": tiny_gpt2}.get(name, lambda: FAMILIES[name].build())().float()
    wrong(monkeypatch, family_of(hf.config), **changes)
    certificate = measure(Model(hf))
    failed = {c.name for c in certificate.checks if not c.passed}
    assert check in failed or failed == {"no-op run"}, certificate
    with pytest.raises(errors.CertificateFailed) as caught:
        rs.load((hf, None))
    assert any(name in str(caught.value) for name in failed)


def test_resid_mid_hooked_on_one_branch_only_is_caught(monkeypatch):
    """The classic mistake: the norm gets the edit, the residual branch does not. Every identity still holds."""

    def one_branch(self, layer, parts):
        self._input(parts.mlp_norm.module, hooks.Site("resid_mid", layer))
        return lambda *_: None

    monkeypatch.setattr(hooks.Hooks, "_resid_mid", one_branch)
    certificate = measure(Model(tiny_llama().float()))
    failed = [c.name for c in certificate.checks if not c.passed]
    assert failed == ["write the stream"], certificate


def test_a_second_load_skips_the_checks_and_other_weights_do_not(tmp_path, monkeypatch):
    hf = tiny_llama().float()
    assert not rs.load((hf, None)).certificate.cached
    assert rs.load((hf, None)).certificate.cached
    assert not rs.load((tiny_llama(seed=1).float(), None)).certificate.cached
    with torch.no_grad():
        hf.lm_head.weight.mul_(1.01)
    assert not rs.load((hf, None)).certificate.cached
    for kept in (tmp_path / "certificates").iterdir():
        kept.write_text("{")
    assert not rs.load((tiny_llama().float(), None)).certificate.cached


def test_many_threads_that_keep_one_certificate_leave_it_whole(tmp_path):
    kept = measure(Model(tiny_llama().float()))
    path, failed = tmp_path / "certificate.json", []

    def keep():
        try:
            for _ in range(20):
                certificate._write(path, kept)
                assert certificate._read(path).checks == kept.checks
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [each.name for each in tmp_path.iterdir()] == ["certificate.json"]


def test_a_value_that_a_file_does_not_serve_is_refused():
    hf = FAMILIES["bloom"].build()
    hf.config.slow_but_exact = True
    with pytest.raises(errors.UnknownConfig, match="slow_but_exact"):
        Model(hf)


def test_a_field_that_a_file_does_not_know_is_looked_at():
    hf = FAMILIES["bloom"].build()
    assert not rs.load((hf, None)).family.found
    hf.config.layer_scale = 0.5
    assert rs.load((hf, None)).family.found


def test_parts_that_never_run_are_no_part_of_what_is_found():
    """A decoder with cross attention and no encoder to read."""
    tiny = FAMILIES["gpt2"]
    plain, crossed = (
        type(tiny)(tiny.stem, {**tiny.fields, **more}).build() for more in ({}, {"add_cross_attention": True})
    )
    assert rs.load((crossed, None)).family.block == rs.load((plain, None)).family.block


def test_a_type_that_nobody_knows_is_looked_at():
    hf = tiny_gpt2()
    hf.config.model_type = "nobody's"
    model = rs.load((hf, None))
    assert model.family.found
    assert model.family.block == families()["gpt2"].block


def test_the_default_model_passes(smollm2):
    certificate = measure(smollm2)
    print(certificate)
    assert certificate.passed
    assert certificate.worst < 1e-4


def test_errors_are_each_position_s_however_wide_its_values_are():
    generator = torch.Generator().manual_seed(1)
    for width in (3, 5_000, 150_000):  # the widest is compared a position at a time
        expected = torch.randn(2, 4, width, generator=generator)
        far = torch.tensor([[0.0, 0.1, 0.5, 2.0], [0.3, 0.0, 0.5, 0.0]])
        got = expected * (1 + far[..., None])
        assert certificate.errors((got, expected)).tolist() == pytest.approx([0.3, 0.1, 0.5, 2.0], abs=1e-5)
        got[1, 2, width // 2] = torch.nan
        assert certificate.errors((got, expected))[2] > 1e300


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_entry_that_is_no_number_is_seen_in_every_dtype(dtype, wrong):
    layer = torch.nn.Linear(40, 30).to(dtype)
    require_finite_weights(layer)
    torch.nn.init.constant_(layer.weight[17:18, 3:4], wrong)
    with pytest.raises(errors.NotFinite, match="weight"):
        require_finite_weights(layer)


def test_a_weight_without_entries_is_finite():
    require_finite_weights(torch.nn.ParameterList([torch.nn.Parameter(torch.empty(0, 4))]))
