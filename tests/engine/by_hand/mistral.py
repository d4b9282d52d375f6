"""Mistral: Llama's block with a sliding attention window."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="mistral",
    model_types=("mistral",),
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
    norm_eps="variance_epsilon",
    sizes=SIZES,
    config={**CONFIG, "head_dim": (), "rms_norm_eps": (), "sliding_window": ()},
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE},
)
