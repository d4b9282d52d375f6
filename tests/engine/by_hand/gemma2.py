"""Gemma 2: norms before and after each branch, caps on scores and logits, a sliding window in every other layer."""

from by_hand._common import CONFIG, DENSE, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="gemma2",
    model_types=("gemma2",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm="pre_feedforward_layernorm",
        mlp_up="mlp.up_proj",
        mlp_gate="mlp.gate_proj",
        mlp_down="mlp.down_proj",
        attn_post_norm="post_attention_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    activation="hidden_activation",
    norm_eps="eps",
    norm_gain_offset=1.0,
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (),
        "attn_logit_softcapping": (),
        "cache_implementation": (),
        "final_logit_softcapping": (),
        "head_dim": (),
        "hidden_activation": (),
        "layer_types": (),
        "query_pre_attn_scalar": (),
        "rms_norm_eps": (),
        "sliding_window": (),
        "use_bidirectional_attention": (None, False),
    },
    factors={"scores_cap": "attn_logit_softcapping", "logits_cap": "final_logit_softcapping"},
    absent={**ROTARY, **NO_QK_NORM, **DENSE},
)
