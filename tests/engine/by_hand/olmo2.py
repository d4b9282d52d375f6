"""OLMo 2: branches read the stream as it is and are normed before they are added; queries and keys are normed whole."""

from by_hand._common import CONFIG, DENSE, NO_PRE_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="olmo2",
    model_types=("olmo2",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm=None,
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm=None,
        mlp_up="mlp.up_proj",
        mlp_gate="mlp.gate_proj",
        mlp_down="mlp.down_proj",
        attn_post_norm="post_attention_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
        q_norm="self_attn.q_norm",
        k_norm="self_attn.k_norm",
        qk_norm_axes="pos all",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="variance_epsilon",
    sizes=SIZES,
    config={**CONFIG, "attention_bias": (), "rms_norm_eps": ()},
    absent={**ROTARY, **NO_PRE_NORM, **DENSE},
)
