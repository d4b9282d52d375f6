"""Gemma: Llama's block; norms multiply by 1 + w, and the embedding comes out times sqrt(d_model)."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="gemma",
    model_types=("gemma",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up="mlp.up_proj",
        mlp_gate="mlp.gate_proj",
        mlp_down="mlp.down_proj",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="eps",
    norm_gain_offset=1.0,
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (),
        "head_dim": (),
        "hidden_activation": (),
        "rms_norm_eps": (),
        "use_bidirectional_attention": (None, False),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE},
)
