"""Qwen 3 MoE: Qwen 3 with a mixture of experts for an MLP, in every layer."""

from by_hand._common import CONFIG, EXPERTS, NO_POST_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
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
        q_norm="self_attn.q_norm",
        k_norm="self_attn.k_norm",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="rms",
    norm_eps="variance_epsilon",
    sizes={**SIZES, "n_experts": "num_experts"},
    config={
        **CONFIG,
        "attention_bias": (),
        "decoder_sparse_step": (1,),
        "head_dim": (),
        "mlp_only_layers": ([], None),
        "moe_intermediate_size": (),
        "norm_topk_prob": (),
        "num_experts": (),
        "rms_norm_eps": (),
        "num_experts_per_tok": (),
        "num_local_experts": (),
        "output_router_logits": (),
        "router_aux_loss_coef": (),
        "layer_types": (),
        "max_window_layers": (),
        "sliding_window": (),
        "use_sliding_window": (),
    },
    reasons={
        "decoder_sparse_step": "dense layers among the sparse ones are not served yet",
        "mlp_only_layers": "dense layers among the sparse ones are not served yet",
    },
    absent={**ROTARY, **NO_POST_NORM, **EXPERTS},
)
