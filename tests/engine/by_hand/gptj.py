"""GPT-J: attention and MLP side by side after one LayerNorm, part of each head rotary, a bias on the logits."""

from by_hand._common import (
    DENSE,
    GPT_CONFIG,
    GPT_SIZES,
    NO_GATE,
    NO_POST_NORM,
    NO_QK_NORM,
    ONE_NORM,
    PARALLEL,
    ROTARY,
)
from residscope.model.families import Block, Family

FAMILY = Family(
    name="gptj",
    model_types=("gptj",),
    embed="transformer.wte",
    blocks="transformer.h",
    block=Block(
        attn="attn",
        attn_norm="ln_1",
        attn_proj="attn.out_proj",
        mlp="mlp",
        mlp_norm=None,
        mlp_up="mlp.fc_in",
        mlp_down="mlp.fc_out",
    ),
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm="layer",
    scores_scale="1/scale_attn",
    activation="activation_function",
    attention="products",
    sizes=GPT_SIZES,
    config={**GPT_CONFIG, "rotary": (True,), "rotary_dim": ()},
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE, **PARALLEL, **ONE_NORM},
)
