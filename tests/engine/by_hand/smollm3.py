"""SmolLM 3: Llama's block, without rotary positions in every fourth layer."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ROTARY, SIZES
from residscope.model.families import Block, Family

FAMILY = Family(
    name="smollm3",
    model_types=("smollm3",),
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
    rotary_switch="use_rope",
    norm_eps="variance_epsilon",
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (),
        "mlp_bias": (),
        "no_rope_layer_interval": (),
        "no_rope_layers": (),
        "rms_norm_eps": (),
        "layer_types": (),
        "max_window_layers": (),
        "sliding_window": (),
        "use_sliding_window": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE},
)
