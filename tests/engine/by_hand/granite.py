"""Granite: Llama's block with constants on the embedding, the scores, each branch's write and the logits."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="granite",
    model_types=("granite",),
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
    config={
        **CONFIG,
        "attention_bias": (),
        "attention_multiplier": (),
        "embedding_multiplier": (),
        "logits_scaling": (),
        "mlp_bias": (),
        "residual_multiplier": (),
        "rms_norm_eps": (),
    },
    factors={"embed": "embedding_multiplier", "residual": "residual_multiplier", "1/logits": "logits_scaling"},
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE},
)
