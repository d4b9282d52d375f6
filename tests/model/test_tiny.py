"""Tiny random copies of causal types, from the configuration alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    BertConfig,
    DeepseekV3Config,
    Gemma3nTextConfig,
    GPT2Config,
    LlamaConfig,
    NemotronHConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from residscope.errors import NoTinyCopy
from residscope.model import tiny

SAMPLE = (
    "gpt2",
    "llama",
    "gemma2",
    "gemma3_text",
    "deepseek_v3",
    "qwen3_next",
    "jamba",
    "mamba2",
    "gptj",
    "falcon",
    "gpt_oss",
)
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 4096}
TOKENS = torch.tensor([[5, 17, 42, 3, 61, 8, 29]])


def logits(hf: PreTrainedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return hf(input_ids=tokens, use_cache=False).logits[0]


@pytest.mark.parametrize("kind", SAMPLE)
def test_every_variant_runs_and_hides_what_comes_later(kind: str) -> None:
    for name, config in tiny.variants(kind).items():
        hf = tiny.build(config)
        changed = TOKENS.clone()
        changed[0, -1] = 77
        before, after = logits(hf, TOKENS), logits(hf, changed)
        assert before.shape == (7, 97), (kind, name)
        assert before.dtype == (torch.float32 if getattr(config, "residual_in_fp32", False) else torch.float64), (
            kind,
            name,
        )
        assert torch.isfinite(before).all(), (kind, name)
        scale = before.abs().max()
        assert (before - after)[:-1].abs().max() < 1e-5 * scale, (kind, name)
        assert (before - after)[-1].abs().max() > 1e-2 * scale, (kind, name)
        assert sum(p.numel() for p in hf.parameters()) < 400_000


def test_the_seed_decides_and_the_global_generator_stays() -> None:
    config = tiny.shrink(LlamaConfig())
    state = torch.get_rng_state()
    one, same, other = (logits(tiny.build(config, seed=seed), TOKENS) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_only_sizes_change() -> None:
    was = LlamaConfig(
        num_key_value_heads=8,
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
        attention_bias=True,
        eos_token_id=31999,
        hidden_act="gelu",
    )
    config = tiny.shrink(was)
    assert (config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (
        32,
        4,
        2,
        8,
    )
    assert (config.num_hidden_layers, config.intermediate_size, config.vocab_size, config.eos_token_id) == (
        4,
        48,
        97,
        96,
    )
    assert config.tie_word_embeddings
    assert config.attention_bias
    assert config.rms_norm_eps == 1e-3
    assert config.hidden_act == "gelu"
    assert was.hidden_size == 4096


def test_sizes_of_a_type_newer_than_the_table_are_told_by_their_names() -> None:
    config = tiny.shrink(LlamaConfig(own_latent_dim=4096, own_gate_heads=64, own_period=1000, own_experts_scale=2.5))
    assert (config.own_latent_dim, config.own_gate_heads, config.own_period, config.own_experts_scale) == (
        16,
        4,
        1000,
        2.5,
    )


def kinds(config: PretrainedConfig) -> set[tuple[str, ...]]:
    """The kinds of layer that a configuration lists, all its lists read together."""
    text = config.get_text_config()
    lists = [
        getattr(text, name, None) for name in ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
    ]
    return set(zip(*([str(kind) for kind in names] for names in lists if names), strict=True))


def test_every_decoder_shrinks_and_keeps_every_kind_of_layer() -> None:
    for kind in sorted(set(tiny.causal_types()) - set(tiny.not_decoders())):
        full = tiny.default_config(kind)
        small = tiny.shrink(full)
        text = small.get_text_config()
        text.allow_global_per_layer_attribute_access = True  # some layers may have heads of their own size
        assert kinds(small) == kinds(full), kind
        assert text.vocab_size <= 97, kind
        ids = (getattr(text, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id"))
        assert all(i < 97 for i in ids if isinstance(i, int)), kind
        assert getattr(text, "num_hidden_layers", 4) <= 8, kind
        assert getattr(text, "hidden_size", 32) <= 64, kind


REAL: dict[str, Callable[[], PretrainedConfig]] = {
    "llama 3.1": lambda: LlamaConfig(
        num_key_value_heads=8,
        vocab_size=128256,
        bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009],
        dtype="bfloat16",
        rope_parameters=YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "phi 3 long": lambda: Phi3Config(
        original_max_position_embeddings=4096,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "longrope",
            "short_factor": [1.0] * 48,
            "long_factor": [2.0] * 48,
            "rope_theta": 1e4,
        },
    ),
    "qwen 2 with windows": lambda: Qwen2Config(use_sliding_window=True, max_window_layers=10, rope_parameters=YARN),
    "deepseek v3, fp8": lambda: DeepseekV3Config(quantization_config={"quant_method": "fp8"}, rope_parameters=YARN),
    "phi 2, 0.4 rotary": lambda: PhiConfig(hidden_size=2560, num_attention_heads=32, partial_rotary_factor=0.4),
    "opt 350m": lambda: OPTConfig(word_embed_proj_dim=512, hidden_size=1024, do_layer_norm_before=False),
    "nemotron h": lambda: NemotronHConfig(hybrid_override_pattern="M-M-M-M*-M-M-M-M*-M-M-"),
    "gemma 3n e2b": lambda: Gemma3nTextConfig(num_hidden_layers=30, num_kv_shared_layers=10),
}


@pytest.mark.parametrize("name", REAL)
def test_configurations_as_published_shrink_and_run(name: str) -> None:
    full = REAL[name]()
    config = tiny.shrink(full)
    hf = tiny.build(config)
    assert torch.isfinite(logits(hf, TOKENS)).all()
    assert kinds(config) == kinds(full)
    assert {p.dtype for p in hf.parameters()} == {torch.float64}


def test_an_encoder_is_told_apart_by_what_it_sees() -> None:
    hf, decoder = (tiny.build(tiny.shrink(BertConfig(is_decoder=answer))) for answer in (False, True))
    changed = TOKENS.clone()
    changed[0, -1] = 77
    assert (logits(hf, TOKENS) - logits(hf, changed))[:-1].abs().max() > 1e-3
    assert torch.equal(logits(decoder, TOKENS)[:-1], logits(decoder, changed)[:-1])


def test_a_part_left_out_would_show() -> None:
    """Each matrix, gain and bias of a copy moves the logits."""
    for kind in ("llama", "gptj", "mamba", "gemma2", "qwen3_next"):
        hf = tiny.build(tiny.variants(kind)["default"])
        before, noise = logits(hf, TOKENS), torch.Generator().manual_seed(0)
        for name, weight in hf.named_parameters():
            if "expert" in name and "shared" not in name:
                continue
            with torch.no_grad():
                kept = weight.clone()
                weight.add_(torch.randn(weight.shape, generator=noise) * 0.5 * weight.norm() / weight.numel() ** 0.5)
                moved = (logits(hf, TOKENS) - before).norm() / before.norm()
                weight.copy_(kept)
            assert moved > 1e-4, (kind, name)


def test_what_is_no_decoder_says_why() -> None:
    types, reasons = tiny.causal_types(), tiny.not_decoders()
    assert types["gpt2"] == "GPT2LMHeadModel"
    assert set(reasons) < set(types)
    assert "encoder" in reasons["bert"]
    assert "encoder-decoder" in reasons["bart"]
    assert "audio" in reasons["musicgen"]
    assert not {"gpt2", "gpt_neox", "llama", "mamba", "gemma3"} & set(reasons)


def test_every_switch_changes_the_model() -> None:
    for kind in ("falcon", "qwen2", "stablelm", "gemma3_text", "bamba", "dbrx"):
        named = {name: logits(tiny.build(config), TOKENS) for name, config in tiny.variants(kind).items()}
        for name, values in named.items():
            assert name == "default" or not torch.allclose(values, named["default"]), (kind, name)


def test_what_cannot_be_built_says_what_its_class_wants() -> None:
    with pytest.raises(NoTinyCopy, match="no tiny copy of a gpt2 model"):
        tiny.build(GPT2Config(n_embd=30, n_head=4))


def test_foreign_code_is_run_only_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    code = "from transformers import LlamaConfig, LlamaForCausalLM\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    (tmp_path / "own.py").write_text(code + "\n\nclass OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n")
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
    config = tiny.shrink(AutoConfig.from_pretrained(tmp_path, trust_remote_code=True))
    with pytest.raises(NoTinyCopy, match="own"):
        tiny.build(config)
    assert torch.isfinite(logits(tiny.build(config, trust_remote_code=True), TOKENS)).all()
