"""Qwen 3: Llama's block with a norm on each query and key."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="qwen3",
    model_types=("qwen3",),
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
        q_norm="self_attn.q_norm",
        k_norm="self_attn.k_norm",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="variance_epsilon",
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (),
        "head_dim": (),
        "rms_norm_eps": (),
        "layer_types": (),
        "max_window_layers": (),
        "sliding_window": (),
        "use_sliding_window": (),
    },
    absent={**ROTARY, **NO_POST_NORM, **DENSE},
)
