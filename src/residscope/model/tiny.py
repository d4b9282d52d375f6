"""Tiny random copies of any Hugging Face decoder, from its configuration alone: every part is there, no weights are needed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from residscope.errors import NoTinyCopy
from residscope.model.tiny_sizes import HEADS, POSITIONS, WINDOW, shrink_fields

__all__ = ["build", "causal_types", "default_config", "not_decoders", "shrink", "variants"]

TIES, SLIDING, FULL = "tie_word_embeddings", "sliding_attention", "full_attention"
AUDIO = "audio: it writes sound codes, several streams at once, not text"
DRAFT = "a draft for another model: it reads that model's keys and values, no tokens of its own"
ENCODER = "an encoder: each position sees the later ones too, unless its configuration says is_decoder"
HALF = "half of an encoder-decoder: its blocks are made to read an encoder's output as well"
BY_HAND = {
    "cpmant": "each position of its prompt sees the later ones too",
    "gemma4_assistant": DRAFT,
    "gemma4_unified_assistant": DRAFT,
    "musicgen": AUDIO,
    "musicgen_melody": AUDIO,
    "reformer": "reversible: two streams that take turns, not one",
    "trocr": HALF,
    "xlm": "a masked model unless its configuration says causal",
    "xlnet": "each position sees the later ones too, unless a permutation mask is given",
}
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 16,
}
LEFT_OUT: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "cohere_compass_text": {
        "rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [24, 20, 20]}}
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 8, "clip_qkv": 8.0},
        "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4},
    },
    "deepseek_v2": {"num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "granitemoehybrid": {"layer_types": [*["linear_attention"] * 7, "full_attention"] * 4},
    "hunyuan_v1_moe": {"num_experts": 64, "moe_topk": 8},
    "lfm2": {"num_hidden_layers": 8, "layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
    "lfm2_moe": {"num_hidden_layers": 8, "layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
}  # fields that a type's own defaults leave empty or without effect
WITHOUT = {
    "deepseek_v4": ("mha", "biased"),
    "mimo_v2_flash": ("mha",),
    "moshi": ("wide",),
    "nemotron_h": ("window", "biased"),
}  # fields that this class has and does not read, or not at this value
SWITCHES = {
    "use_parallel_residual": ("parallel", "sequential"),
    "parallel_attn": ("parallel", "sequential"),
    "attention_bias": ("biased", "unbiased"),
    "use_bias": ("biased", "unbiased"),
    "alibi": ("alibi", "rotary"),
    "qk_layernorm": ("qk-norms", "no-qk-norms"),
    "use_qk_norm": ("qk-norms", "no-qk-norms"),
    "new_decoder_architecture": ("new-blocks", "old-blocks"),
}  # a switch -> what the configuration is called with it on, with it off
SHAKE = 0.2  # added to gains and biases, as a standard deviation
WEAK = 0.05  # a matrix whose entries are smaller than this is made four times larger
SELECTION = ("x_proj", "dt_proj")  # what a state space reads and keeps: weak at first as its steps are
STEPS = ("dt_bias", "dt_proj.bias", "dt_proj_bias")  # a state space's steps, at first too small for its state to matter
STATE = ("A_log", "A", "dt_bias", "D")  # a state space's own decay: exponentials, left in the range they start in


def causal_types() -> dict[str, str]:
    """Every model type that the installed transformers has a causal class for: type -> class name."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return {kind: name if isinstance(name, str) else name[0] for kind, name in sorted(names.items())}


def default_config(model_type: str) -> PretrainedConfig:
    """The configuration that transformers itself starts this type with, and what it leaves empty filled in."""
    return CONFIG_MAPPING[model_type](**copy.deepcopy(LEFT_OUT.get(model_type, {})))


def not_decoders() -> dict[str, str]:
    """Those causal types that are no decoders of text, and why, in words."""
    found = {}
    for kind in causal_types():
        if reason := _not_a_decoder(kind):
            found[kind] = reason
    return found


def _not_a_decoder(kind: str) -> str | None:
    if kind in BY_HAND:
        return BY_HAND[kind]
    fields = getattr(CONFIG_MAPPING[kind], "__dataclass_fields__", {})
    if CONFIG_MAPPING[kind].is_encoder_decoder is True:
        return HALF
    turns = "is_decoder" in fields and "add_cross_attention" in fields
    return ENCODER if turns and fields["is_decoder"].default is False else None


def shrink(config: PretrainedConfig) -> PretrainedConfig:
    """
    The same configuration with every size made tiny: d_model 32, 4 heads (2 of KV where they are grouped), 4 to 8 layers so
    that every kind of layer occurs, a vocabulary of 97. What is no size stays: scales, caps, ties, activations, switches.
    """
    with _refusals(config):
        small = type(config)(**shrink_fields(config.to_dict()))
    small.name_or_path = config.name_or_path
    return small


def build(
    config: PretrainedConfig, *, seed: int = 0, dtype: torch.dtype = torch.float64, trust_remote_code: bool = False
) -> PreTrainedModel:
    """
    A random model of this configuration, in eval mode, every part of which matters: norm gains and biases away from one
    and zero, matrices large enough to bend the stream. The same seed gives the same weights; the global generator is left
    as it was. Raises NoTinyCopy where the class wants something else: a package, a size that fits, code to be trusted.
    """
    options = {"dtype": torch.float32, "experts_implementation": "eager", "trust_remote_code": trust_remote_code}
    with torch.random.fork_rng(devices=[]), _refusals(config):
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
        _shake(hf)
    return hf.to(dtype).eval()


@contextmanager
def _refusals(config: PretrainedConfig) -> Iterator[None]:
    """A class may ask for anything: sizes that agree in its own way, a package, a part that its defaults leave out."""
    try:
        yield
    except Exception as error:
        raise NoTinyCopy(
            f"no tiny copy of a {config.model_type} model could be made",
            received=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            allowed="a configuration whose class builds with every size made small",
            fix="install what it names, or load the model itself",
        ) from error


@torch.no_grad()
def _shake(hf: torch.nn.Module) -> None:
    for name, weight in hf.named_parameters():
        if name.endswith(STEPS) and weight.mean() < -1:
            weight.add_(3)
        elif name.rsplit(".", 1)[-1] in STATE or not weight.is_floating_point():
            continue
        elif weight.ndim == 1 or "norm" in name:
            weight.add_(torch.randn_like(weight) * SHAKE)
        elif any(part in name for part in SELECTION):
            weight.mul_(0.5 / weight.std())
        elif not weight.any():
            weight.normal_(std=0.1)
        elif "embed" not in name and "wte" not in name and weight.std() < WEAK:
            weight.mul_(4)


def variants(model_type: str) -> dict[str, PretrainedConfig]:
    """Tiny configurations of one type: as it comes, and with each switch that it has turned the other way."""
    base = shrink(default_config(model_type))
    found = {"default": base}
    for name, changes in _switches(base):
        with suppress(StrictDataclassError):  # this class has the field but refuses the value
            found[name] = _changed(base, changes)
    return found


def _changed(config: PretrainedConfig, changes: dict[str, Any]) -> PretrainedConfig:
    fields, text = config.to_dict(), config.get_text_config()
    inside = next((name for name, value in vars(config).items() if value is text), None)
    if inside is not None:
        fields[inside] |= changes
    if inside is None or TIES in changes:
        fields |= changes
    return type(config)(**fields)


def _switches(config: PretrainedConfig) -> list[tuple[str, dict[str, Any]]]:
    text = config.get_text_config().to_dict()
    tied = getattr(config, TIES, None)
    can_tie = isinstance(tied, bool) and getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_tied_weights_keys", None)
    found: list[tuple[str, dict[str, Any]]] = [("untied" if tied else "tied", {TIES: not tied})] if can_tie else []
    found += _grouped(text) + _windowed(text)
    for field, names in SWITCHES.items():
        if isinstance(now := text.get(field), bool):
            found.append((names[now], {field: not now}))
    return [(name, changes) for name, changes in found if name not in WITHOUT.get(config.model_type, ())]


def _grouped(text: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    heads, kv, own = text.get("num_attention_heads"), text.get("num_key_value_heads"), text.get("attn_config")
    if isinstance(own, dict) and own.get("kv_n_heads"):
        return [("mha", {"attn_config": own | {"kv_n_heads": HEADS}})]
    if not isinstance(heads, int) or not isinstance(kv, int) or text.get("kv_lora_rank"):
        return []
    return [("gqa", {"num_key_value_heads": heads // 2}) if kv == heads else ("mha", {"num_key_value_heads": heads})]


def _windowed(text: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A window where there is none, and one that reaches every position where there is one."""
    if "sliding_window" not in text:
        return []
    kinds = text.get("layer_types")
    if text["sliding_window"] is not None and (kinds is None or SLIDING in kinds):
        return [("wide", {"sliding_window": POSITIONS})]
    changes: dict[str, Any] = {"sliding_window": WINDOW} | {k: True for k in ("use_sliding_window",) if k in text}
    if kinds is None:
        return [("window", changes)]
    if set(kinds) != {FULL} or FULL in (text.get("rope_parameters") or {}):
        return []
    return [("window", changes | {"layer_types": [SLIDING if i % 2 else kind for i, kind in enumerate(kinds)]})]
