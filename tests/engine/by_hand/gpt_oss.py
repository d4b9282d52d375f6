"""gpt-oss: Llama's attention with a sink per head and a sliding window in every other layer; a mixture of experts."""

from by_hand._common import CONFIG, EXPERTS, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
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
        router="mlp.router",
        experts="mlp.experts",
        sinks="self_attn.sinks",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="variance_epsilon",
    softmax_dtype="own",
    sizes={**SIZES, "n_experts": "num_local_experts"},
    config={
        **CONFIG,
        "attention_bias": (),
        "experts_per_token": (),
        "head_dim": (),
        "initial_context_length": (),
        "layer_types": (),
        "rms_norm_eps": (),
        "rope_scaling": (),
        "sliding_window": (),
        "swiglu_alpha": (),
        "swiglu_limit": (),
        "num_experts_per_tok": (),
        "num_local_experts": (),
        "output_router_logits": (),
        "router_aux_loss_coef": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **EXPERTS},
)
