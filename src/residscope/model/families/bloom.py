"""BLOOM: a norm on the embedding, positions as slopes on the scores; each branch adds the stream inside its own module.

A file, for no forward shows how many tokens it was trained on: slopes go on for ever, and its configuration does not say.
"""

from residscope.model.families import Block, Family
from residscope.model.families._common import ALIBI, DENSE, NO_GATE, NO_POST_NORM, NO_QK_NORM

FAMILY = Family(
    name="bloom",
    model_types=("bloom",),
    embed="transformer.word_embeddings",
    embed_norm="transformer.word_embeddings_layernorm",
    blocks="transformer.h",
    block=Block(
        attn="self_attention",
        attn_norm="input_layernorm",
        attn_proj="self_attention.dense",
        attn_writer="self_attention.dense",
        mlp="mlp",
        mlp_norm="post_attention_layernorm",
        mlp_up="mlp.dense_h_to_4h",
        mlp_down="mlp.dense_4h_to_h",
        mlp_writer="mlp.dense_4h_to_h",
    ),
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm="layer",
    positions="slopes",
    scores_scale="inv_norm_factor",
    activation="gelu_pytorch_tanh",
    attention="products",
    sizes={
        "n_layers": "n_layer",
        "n_heads": "n_head",
        "d_model": "hidden_size",
        "d_vocab": "vocab_size",
        "context": 2048,
    },
    config={
        "apply_residual_connection_post_layernorm": (False,),
        "attention_dropout": (),
        "attention_softmax_in_fp32": (),
        "bias_dropout_fusion": (),
        "hidden_dropout": (),
        "hidden_size": (),
        "layer_norm_epsilon": (),
        "masked_softmax_fusion": (),
        "n_head": (),
        "n_inner": (),
        "n_layer": (),
        "num_attention_heads": (),
        "offset_alibi": (),
        "seq_length": (),
        "skip_bias_add": (),
        "skip_bias_add_qkv": (),
        "slow_but_exact": (False,),
        "vocab_size": (),
    },
    reasons={
        "apply_residual_connection_post_layernorm": "the normed stream is carried on instead of the stream",
        "slow_but_exact": "the projections are cut in slices that no module holds",
    },
    absent={**ALIBI, **NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE},
)
