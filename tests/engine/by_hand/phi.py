"""Phi 1, 1.5 and 2: attention and MLP side by side after one LayerNorm, part of each head rotary, a bias on the logits."""

from by_hand._common import (
    CONFIG,
    DENSE,
    NO_GATE,
    NO_POST_NORM,
    NO_QK_NORM,
    ONE_NORM,
    PARALLEL,
    ROTARY,
    SIZES,
)
from residscope.model.families import Block, Family, Variant

FAMILY = Family(
    name="phi",
    model_types=("phi",),
    embed="model.embed_tokens",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.dense",
        mlp="mlp",
        mlp_norm=None,
        mlp_up="mlp.fc1",
        mlp_down="mlp.fc2",
    ),
    final_norm="model.final_layernorm",
    unembed="lm_head",
    norm="layer",
    sizes=SIZES,
    config={**CONFIG, "embd_pdrop": (), "layer_norm_eps": (), "qk_layernorm": (), "resid_pdrop": ()},
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE, **PARALLEL, **ONE_NORM},
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
    ),
)
