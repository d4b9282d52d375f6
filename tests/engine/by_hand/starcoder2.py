"""StarCoder 2: LayerNorm, rotary positions, a plain MLP, grouped KV heads, a sliding window."""

from by_hand._common import CONFIG, DENSE, NO_GATE, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up="mlp.c_fc",
        mlp_gate=None,
        mlp_down="mlp.c_proj",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="layer",
    norm_eps="eps",
    sizes=SIZES,
    config={
        **CONFIG,
        "activation_function": (),
        "embedding_dropout": (),
        "mlp_type": ("default",),
        "norm_epsilon": (),
        "norm_type": ("layer_norm",),
        "residual_dropout": (),
        "sliding_window": (),
        "use_bias": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE},
)
