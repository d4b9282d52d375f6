"""GPT-BigCode (SantaCoder, StarCoder): GPT-2's block with one key and value for all heads."""

from by_hand._common import DENSE, GPT_CONFIG, GPT_SIZES, NO_GATE, NO_POST_NORM, NO_QK_NORM
from residscope.model.families import Block, Family, Variant

FAMILY = Family(
    name="gpt_bigcode",
    model_types=("gpt_bigcode",),
    embed="transformer.wte",
    pos_embed="transformer.wpe",
    blocks="transformer.h",
    block=Block(
        attn="attn",
        attn_norm="ln_1",
        attn_proj="attn.c_proj",
        mlp="mlp",
        mlp_norm="ln_2",
        mlp_up="mlp.c_fc",
        mlp_down="mlp.c_proj",
    ),
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm="layer",
    positions="added",
    activation="activation_function",
    sizes=GPT_SIZES,
    config={
        **GPT_CONFIG,
        "add_cross_attention": (False,),
        "attention_softmax_in_fp32": (),
        "inference_runner": (),
        "multi_query": (),
        "num_key_value_heads": (),
        "scale_attention_softmax_in_fp32": (),
        "validate_runner_input": (),
        "pad_key_length": (),
        "pre_allocate_kv_cache": (),
        "runner_max_sequence_length": (),
        "max_batch_size": (),
        "max_sequence_length": (),
    },
    absent={**NO_QK_NORM, **NO_POST_NORM, **DENSE, **NO_GATE},
    variants=(Variant(when={"multi_query": (True,)}, sizes={"n_kv_heads": 1}),),
)
