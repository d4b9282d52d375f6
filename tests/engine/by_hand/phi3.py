"""Phi 3 and 4-mini: Llama's block with q, k, v in one matrix, and the MLP's gate and input in another."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up="mlp.gate_up_proj",
        mlp_gate="mlp.gate_up_proj",
        mlp_down="mlp.down_proj",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="variance_epsilon",
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (False,),
        "full_attn_mod": (1,),
        "interpolate_factor": (1,),
        "lm_head_bias": (False,),
        "mlp_bias": (False,),
        "embd_pdrop": (),
        "original_max_position_embeddings": (),
        "partial_rotary_factor": (),
        "resid_pdrop": (),
        "rms_norm_eps": (),
        "sliding_window": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE},
)
