"""What each size of a configuration becomes in a tiny copy: one table of the field names that transformers uses."""

import math
import re
from typing import Any

VOCAB = 97
POSITIONS = 64
WINDOW = 4
HEADS = 4
D_MODEL = 32

SIZES: dict[int, tuple[str, ...]] = {
    D_MODEL: ("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size", "hidden_size_global", "adapter_in_dim",
              "adapter_out_dim", "adapter_input_size", "out_hidden_size", "indexer_head_dim", "original_max_position_embeddings"),
    48: ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "dff", "d_inner", "dim_ff",
         "n_inner", "intermediate_size_mlp", "dense_intermediate_size", "feed_forward_size", "d_ff", "mlp_dim"),
    24: ("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size", "shared_intermediate_size",
         "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size", "router_hidden_size"),
    HEADS: ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads",
            "encoder_attention_heads", "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "linear_num_heads",
            "num_query_groups", "swa_num_attention_heads", "num_experts", "num_local_experts", "n_routed_experts",
            "moe_num_experts", "sliding_window", "sliding_window_size", "attention_window_size", "window_size",
            "local_attention", "local_attention_window_len", "attention_chunk_size", "keep_window_size", "floor_scale",
            "log_scaling_n_floor", "index_topk", "indexer_budget", "chunk_size", "mamba_chunk_size", "block_size", "laurel_rank",
            "gated_norm_rank", "hc_lowrank", "adapter_rank", "attn_layer_period", "heads_per_ngram", "index_block_size"),
    2: ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k", "n_group", "num_expert_group",
        "n_groups", "mamba_n_groups", "mamba_ngroups", "zero_expert_num", "o_groups", "mamba_dt_rank",
        "time_step_rank", "index_topk_blocks", "indexer_n_heads", "indexer_compress_ratio", "kv_n_heads",
        "n_layers_per_attn_res_block", "global_attn_every_n_layers"),
    1: ("topk_group",),
    16: ("q_lora_rank", "index_n_heads", "mamba_head_dim", "mamba_headdim", "o_lora_rank", "ple_embed_dim"),
    8: ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "index_head_dim", "linear_head_dim", "linear_key_head_dim",
        "state_size", "mamba_d_state", "ssm_state_size", "hidden_size_per_layer_input", "rel_extent", "d_rel",
        "swa_head_dim", "ffn_round_up_to_multiple_of", "block_multiple_of", "split_ngram_parts"),
    POSITIONS: ("max_position_embeddings", "n_positions", "n_ctx", "context_length", "max_seq_len", "model_max_length",
                "max_target_positions", "max_source_positions", "mamba_d_ssm"),
}  # fmt: skip
TINY = {name: size for size, names in SIZES.items() for name in names}
ROPE_DIM = 4
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "decoder_layers", "encoder_layers", "depth",
          "num_layers_per_stack", "num_global_layers")  # fmt: skip
LEADING = ("first_k_dense_replace", "num_dense_layers")
TRAILING = ("num_kv_shared_layers",)
INDICES = (
    "moe_layers",
    "cross_attention_layers",
    "hybrid_layer_ids",
    "full_attn_idxs",
    "attn_layer_indices",
    "mlp_only_layers",
    "ple_layer_ids",
)
OTHER_LISTS = ("eos_token_id", "architectures", "ssm_multipliers", "mlp_multipliers", "time_step_limit", "block_types")
AS_HIDDEN = ("attention_hidden_size", "lru_width", "embedding_dim", "word_embed_proj_dim", "input_size")
MOST_LAYERS = 8
UNKNOWN_WIDTH = re.compile("(hidden_size|intermediate_size|_dim|_rank|_width)$")  # of a type newer than this table
UNKNOWN_COUNT = re.compile("(_heads|_experts)$")


def shrink_fields(fields: dict[str, Any], *, of_text: bool = True) -> dict[str, Any]:
    """The fields of a configuration (`to_dict`) with every size made tiny, those of its parts too."""
    small = {name: value for name, value in fields.items() if name != "quantization_config"}
    for name, value in fields.items():
        if _is_size(value) and name in TINY:
            small[name] = min(value, TINY[name])
        elif _is_size(value) and "vocab" in name:
            small[name] = min(value, VOCAB)
        elif _is_size(value) and value > POSITIONS and of_text and UNKNOWN_WIDTH.search(name):
            small[name] = 16
        elif _is_size(value) and value > HEADS and of_text and UNKNOWN_COUNT.search(name):
            small[name] = HEADS
        elif isinstance(value, dict) and "model_type" in value:
            small[name] = shrink_fields(value, of_text=name == "text_config")
    _heads(fields, small)
    _layers(fields, small)
    _relations(fields, small)
    _exceptions(fields, small)
    _tokens(fields, small)
    return small


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _first(fields: dict[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _hidden(fields: dict[str, Any]) -> Any:
    return _first(fields, "hidden_size", "n_embd", "d_model", "emb_dim")


def _n_heads(fields: dict[str, Any]) -> Any:
    return _first(
        fields, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads"
    )


def _heads(fields: dict[str, Any], small: dict[str, Any]) -> None:
    """Heads of 8, larger where they do not fill the stream or turn only partly; KV heads as grouped as they were."""
    hidden, heads = _hidden(fields), _n_heads(fields)
    if not hidden or not heads:
        return
    d_head = fields.get("head_dim") or hidden // heads
    fills = d_head * heads == hidden
    rotary = fields.get("rotary_dim")
    part = rotary / d_head if rotary else min(_fractions(fields), default=1.0)
    size = _head_size(8 if fills else 16, part)
    if fills and size > 8:
        small.update({name: HEADS * size for name in SIZES[D_MODEL] if fields.get(name) == hidden})
    if "head_dim" in fields:
        small["head_dim"] = size
    if rotary:
        small["rotary_dim"] = max(2, int(size * part))
    for name in ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"):
        if name in fields:
            small[name] = HEADS if fields[name] in (None, heads) else min(fields[name], 2)
    _rope(small, int(size * part) // 2)


def _head_size(least: int, part: float) -> int:
    """The smallest head whose turned part has two pairs at least, and no half of one."""
    turned = {size: int(size * part) for size in (8, 16, 32) if size >= least}
    return next((size for size, count in turned.items() if count >= 4 and count % 2 == 0), 16)


def _fractions(fields: dict[str, Any]) -> list[float]:
    rope = fields.get("rope_parameters") or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict)), fields]
    return [part["partial_rotary_factor"] for part in parts if part.get("partial_rotary_factor")]


def _rope(small: dict[str, Any], pairs: int) -> None:
    if not isinstance(small.get("rope_parameters"), dict):
        return
    rope = small["rope_parameters"]
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if part.get("original_max_position_embeddings"):
            part["original_max_position_embeddings"] = POSITIONS // 2
        for name in ("short_factor", "long_factor"):
            if part.get(name):
                part[name] = part[name][:pairs]
        if part.get("mrope_section"):
            part["mrope_section"] = [len(range(i, pairs, 3)) for i in range(3)]


def _layers(fields: dict[str, Any], small: dict[str, Any]) -> None:
    """As few layers as show every kind there is, in their order; lists and counts of layers follow."""
    counts = [fields[name] for name in LAYERS if _is_size(fields.get(name))]
    counts += [len(fields[name]) for name in ("layers_block_type", "layer_types") if fields.get(name)]
    if not counts:
        return
    count = counts[0]
    sequences = {k for k, v in fields.items() if isinstance(v, (list, tuple)) and len(v) == count}
    lists = sorted(sequences - {*OTHER_LISTS, *INDICES})
    kinds = [_kind(fields, lists, i, count) for i in range(count)]
    kept = _kept(kinds)
    for key in LAYERS:
        if _is_size(fields.get(key)):
            small[key] = len(kept) if fields[key] == count else min(fields[key], len(kept))
    if fields.get("per_layer_config"):
        special = _by_layer(fields)
        small["per_layer_config"] = {new: special[old] for new, old in enumerate(kept) if old in special}
    for key in lists:
        small[key] = [_entry(key, fields[key][i], small) for i in kept]
    for key in INDICES:
        if isinstance(fields.get(key), (list, tuple)):
            small[key] = [new for new, old in enumerate(kept) if old in fields[key]]
    for key in LEADING:
        if _is_size(fields.get(key)):
            small[key] = sum(old < fields[key] for old in kept)
    for key in TRAILING:
        if _is_size(fields.get(key)):
            small[key] = sum(old >= count - fields[key] for old in kept)


def _kind(fields: dict[str, Any], lists: list[str], i: int, count: int) -> tuple[Any, ...]:
    listed = [str(fields[key][i]) for key in lists]
    chosen = [i in fields[key] for key in INDICES if isinstance(fields.get(key), (list, tuple))]
    leading = [i < fields[key] for key in LEADING if _is_size(fields.get(key))]
    trailing = [i >= count - fields[key] for key in TRAILING if _is_size(fields.get(key))]
    return (*listed, *chosen, *leading, *trailing, str(_by_layer(fields).get(i)))


def _by_layer(fields: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {int(layer): values for layer, values in (fields.get("per_layer_config") or {}).items()}


def _kept(kinds: list[tuple[Any, ...]]) -> list[int]:
    """Indices of the layers kept: the first of each kind, then those that repeat the pattern, at least 4 and at most 8."""
    firsts = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())[:MOST_LAYERS]
    kept = list(firsts)
    wanted = min(max(4, len(firsts)), len(kinds))
    order = [kinds[i] for i in firsts]
    after = kept[-1] + 1
    while len(kept) < wanted:
        turn = order[len(kept) % len(order)]
        later = next((i for i in range(after, len(kinds)) if kinds[i] == turn), None)
        if later is None:
            spare = [i for i in range(len(kinds)) if i not in kept]
            kept += [i for i in spare if i > kept[-1]][: wanted - len(kept)] or spare[: wanted - len(kept)]
            break
        kept.append(later)
        after = later + 1
    return sorted(kept)


def _entry(key: str, value: Any, small: dict[str, Any]) -> Any:
    if not _is_size(value):
        return value
    return TINY.get(key, HEADS if key == "num_attention_heads_per_layer" else value)


def _relations(fields: dict[str, Any], small: dict[str, Any]) -> None:
    """Sizes that must agree with others, kept in the relation they had."""
    hidden = _hidden(fields)
    tiny = _hidden(small)
    for name in AS_HIDDEN:
        if _is_size(fields.get(name)):
            small[name] = max(16, fields[name] * tiny // hidden) if fields[name] % hidden == 0 else 16
    if fields.get("qk_rope_head_dim"):
        small["qk_rope_head_dim"] = ROPE_DIM
        if "qk_head_dim" in fields:
            small["qk_head_dim"] = small["qk_nope_head_dim"] + ROPE_DIM
        if fields.get("head_dim") == fields["qk_rope_head_dim"]:
            small["head_dim"] = ROPE_DIM
    if fields.get("query_pre_attn_scalar") and fields["query_pre_attn_scalar"] == fields.get("head_dim"):
        small["query_pre_attn_scalar"] = small["head_dim"]
    if fields.get("attention_head_dim"):
        small["attention_head_dim"] = fields["attention_head_dim"] * _n_heads(fields) * tiny // hidden // HEADS
    if fields.get("kv_channels"):
        small["kv_channels"] = small.get("head_dim") or tiny // HEADS
    if "linear_num_value_heads" in fields:
        grouped = fields["linear_num_value_heads"] > fields["linear_num_key_heads"]
        small.update(linear_num_value_heads=HEADS, linear_num_key_heads=2 if grouped else HEADS)
        small["linear_value_head_dim"] = 8 * max(1, fields["linear_value_head_dim"] // fields["linear_key_head_dim"])
    if _is_size(fields.get("dim_model_base")):
        small["dim_model_base"] = max(1, math.ceil(fields["dim_model_base"] * tiny / hidden))
    if _is_size(fields.get("mamba_d_head")):
        small["mamba_d_head"] = (small.get("mamba_d_ssm") or small["mamba_expand"] * tiny) // small["mamba_n_heads"]
    if _is_size(fields.get("attn_layer_offset")):
        small["attn_layer_offset"] = fields["attn_layer_offset"] % small["attn_layer_period"]
    if isinstance(fields.get("compress_rates"), dict):
        small["compress_rates"] = {name: 2 if rate <= 4 else 4 for name, rate in fields["compress_rates"].items()}


def _exceptions(fields: dict[str, Any], small: dict[str, Any]) -> None:
    """What single layers have of their own, as much larger or smaller than the others' as it was."""
    for layer, own in (small.get("per_layer_config") or {}).items():
        sizes = {
            name: value
            for name, value in own.items()
            if _is_size(value) and fields.get(name) and _is_size(small.get(name))
        }
        small["per_layer_config"][layer] = own | {k: max(1, small[k] * v // fields[k]) for k, v in sizes.items()}


def _tokens(fields: dict[str, Any], small: dict[str, Any]) -> None:
    """Ids outside the tiny vocabulary go to its last ones, each to its own."""
    free = iter(range(VOCAB - 1, 0, -1))
    for name, value in fields.items():
        if not name.endswith(("_token_id", "_token_index")):
            continue
        if _is_size(value) and value >= VOCAB:
            small[name] = next(free)
        elif isinstance(value, (list, tuple)):
            small[name] = [i if i < VOCAB else next(free) for i in value]
