"""Cohere (Command R): attention and MLP side by side after one LayerNorm without bias, logits scaled."""

from by_hand._common import CONFIG, DENSE, NO_POST_NORM, NO_QK_NORM, ONE_NORM, PARALLEL, ROTARY, SIZES
from residscope.model.families import Block, Family, Variant

FAMILY = Family(
    name="cohere",
    model_types=("cohere",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm=None,
        mlp_up="mlp.up_proj",
        mlp_gate="mlp.gate_proj",
        mlp_down="mlp.down_proj",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="layer",
    norm_eps="variance_epsilon",
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (),
        "layer_norm_eps": (),
        "logit_scale": (),
        "model_max_length": (),
        "use_qk_norm": (),
    },
    factors={"logits": "logit_scale"},
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE, **PARALLEL, **ONE_NORM},
    variants=(
        Variant(
            when={"use_qk_norm": (True,)},
            block={"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"},
            absent={"q_scale": None, "k_scale": None},
        ),
    ),
)
