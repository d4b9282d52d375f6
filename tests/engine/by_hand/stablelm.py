"""StableLM: Llama's block with LayerNorm and partly rotary heads; in some sizes attention and MLP side by side."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ONE_NORM, PARALLEL, ROTARY, SIZES
from residscope.model.families import Block, Family, Variant

FAMILY = Family(
    name="stablelm",
    model_types=("stablelm",),
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
    norm="layer",
    norm_eps="eps",
    sizes=SIZES,
    config={
        **CONFIG,
        "hidden_dropout": (),
        "layer_norm_eps": (),
        "qk_layernorm": (),
        "use_parallel_residual": (),
        "use_qkv_bias": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE},
    variants=(
        Variant(
            when={"qk_layernorm": (True,)},
            block={
                "q_norm": "self_attn.q_layernorm",
                "k_norm": "self_attn.k_layernorm",
                "qk_norm_axes": "head pos d_head",
            },
            absent={"q_scale": None, "k_scale": None},
        ),
        Variant(when={"use_parallel_residual": (True,)}, block={"mlp_norm": None}, absent={**PARALLEL, **ONE_NORM}),
    ),
)
