"""Mixtral: Mistral with a mixture of experts for an MLP."""

from by_hand._common import CONFIG, EXPERTS, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="mixtral",
    model_types=("mixtral",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up=None,
        mlp_gate=None,
        mlp_down=None,
        router="mlp.gate",
        experts="mlp.experts",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="variance_epsilon",
    sizes={**SIZES, "n_experts": "num_local_experts"},
    config={
        **CONFIG,
        "head_dim": (),
        "rms_norm_eps": (),
        "sliding_window": (),
        "num_experts_per_tok": (),
        "num_local_experts": (),
        "output_router_logits": (),
        "router_aux_loss_coef": (),
        "router_jitter_noise": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **EXPERTS},
)
