"""GPT-NeoX and Pythia: attention and MLP side by side, each after its own LayerNorm; part of each head rotary."""

from by_hand._common import CONFIG, DENSE, NO_GATE, NO_POST_NORM, NO_QK_NORM, PARALLEL, ROTARY, SIZES
from residscope.model.families import Block, Family, Variant

FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    embed="gpt_neox.embed_in",
    blocks="gpt_neox.layers",
    block=Block(
        attn="attention",
        attn_norm="input_layernorm",
        attn_proj="attention.dense",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up="mlp.dense_h_to_4h",
        mlp_down="mlp.dense_4h_to_h",
    ),
    final_norm="gpt_neox.final_layer_norm",
    unembed="lm_head",
    norm="layer",
    sizes=SIZES,
    config={
        **CONFIG,
        "attention_bias": (),
        "attention_probs_dropout_prob": (),
        "classifier_dropout": (),
        "hidden_dropout": (),
        "hidden_dropout_prob": (),
        "is_decoder": (),
        "layer_norm_eps": (),
        "rope_scaling": (None,),
        "rotary_emb_base": (),
        "rotary_pct": (),
        "use_parallel_residual": (),
    },
    absent={**ROTARY, **NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE, **PARALLEL},
    variants=(Variant(when={"use_parallel_residual": (False,)}, absent={"resid_mid": None}),),
)
