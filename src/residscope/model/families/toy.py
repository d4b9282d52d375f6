"""TransformerLens' toys: LayerNorm, learned positions, plain MLP or none; residscope/model/toys.py is their class.

A file, for no forward shows why queries differ along positions: a shortformer's read the positions beside the stream, which
looks like turning. Nor has SoLU with a norm a name that looking could find.
"""

from residscope.model.families import Block, Family, Variant
from residscope.model.families._common import DENSE, NO_GATE, NO_MLP, NO_POST_NORM, NO_QK_NORM, SIZES

FAMILY = Family(
    name="toy",
    model_types=("residscope_toy",),
    embed="model.embed_tokens",
    pos_embed="model.embed_positions",
    blocks="model.layers",
    block=Block(
        attn="self_attn",
        attn_norm="input_layernorm",
        attn_proj="self_attn.o_proj",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up="mlp.up",
        mlp_down="mlp.down",
    ),
    final_norm="model.norm",
    unembed="lm_head",
    norm="layer",
    positions="added",
    sizes=SIZES,
    config={
        "attn_only": (True, False),
        "final_rms": (True, False),
        "head_dim": (),
        "hidden_act": (None, "gelu", "gelu_new", "relu", "solu", "solu_ln"),
        "hidden_size": (),
        "intermediate_size": (),
        "layer_norm_eps": (),
        "max_position_embeddings": (),
        "num_attention_heads": (),
        "num_hidden_layers": (),
        "shortformer": (True, False),
        "vocab_size": (),
    },
    absent=NO_QK_NORM | NO_POST_NORM | NO_GATE | DENSE,
    variants=(
        Variant(
            when={"attn_only": (True,)},
            block={"mlp": None, "mlp_norm": None, "mlp_up": None, "mlp_down": None},
            sizes={"d_mlp": 0},
            absent=NO_MLP,
        ),
        Variant(
            when={"shortformer": (True,)},
            positions="beside",
            absent={
                "pos_embed": "queries and keys read positions beside attn_in (shortformer); the stream never holds them"
            },
        ),
        Variant(when={"final_rms": (True,)}, final_kind="rms"),
    ),
)
