"""OPT: LayerNorm, learned positions, a plain MLP whose two matrices stand in the block itself."""

from residscope.model.families import Block, Family
from residscope.model.families._common import DENSE, NO_GATE, NO_POST_NORM, NO_QK_NORM, SIZES

FAMILY = Family(
    name="opt",
    model_types=("opt",),
    embed="model.decoder.embed_tokens",
    pos_embed="model.decoder.embed_positions",
    blocks="model.decoder.layers",
    block=Block(
        attn="self_attn",
        attn_norm="self_attn_layer_norm",
        attn_proj="self_attn.out_proj",
        mlp="fc1",
        mlp_norm="final_layer_norm",
        mlp_up="fc1",
        mlp_down="fc2",
        mlp_writer="fc2",
    ),
    final_norm="model.decoder.final_layer_norm",
    unembed="lm_head",
    norm="layer",
    sizes={**SIZES, "d_mlp": "ffn_dim"},
    config={
        "_remove_final_layer_norm": (False,),
        "activation_dropout": (),
        "activation_function": (),
        "attention_dropout": (),
        "do_layer_norm_before": (True,),
        "dropout": (),
        "enable_bias": (),
        "ffn_dim": (),
        "hidden_size": (),
        "init_std": (),
        "layer_norm_elementwise_affine": (True,),
        "layerdrop": (),
        "max_position_embeddings": (),
        "num_attention_heads": (),
        "num_hidden_layers": (),
        "vocab_size": (),
        "word_embed_proj_dim": (),
    },
    same={"word_embed_proj_dim": "hidden_size"},
    reasons={
        "do_layer_norm_before": "each block norms the stream itself, as in OPT-350m: no sum of components remains",
        "word_embed_proj_dim": "the embedding is projected into the stream, as in OPT-350m",
        "_remove_final_layer_norm": "the stream is unembedded without a final norm",
    },
    absent={**NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE},
)
