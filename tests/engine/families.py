"""Tiny configurations of every family, in one or more variants each: what the family tests run on."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from residscope.model import toys
from tiny_models import VOCAB, shaken


@dataclass(frozen=True)
class Tiny:
    """A stock class's name stem and the fields of a tiny configuration; `absent`: sites that this variant lacks."""

    stem: str
    fields: dict[str, Any]
    absent: tuple[str, ...] = field(default=())

    def build(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        classes = toys if self.stem == "Toy" else transformers
        config = getattr(classes, f"{self.stem}Config")(bos_token_id=0, eos_token_id=1, pad_token_id=1, **self.fields)
        if "num_local_experts" in self.fields:
            config._experts_implementation = "eager"  # the default kernel takes no float64
        stem = {"Gemma3Text": "Gemma3"}.get(self.stem, self.stem)
        cls = getattr(classes, stem + ("LMHeadModel" if stem == "GPT2" else "ForCausalLM"))
        return shaken(cls(config))


MODERN = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
PLAIN = {k: v for k, v in MODERN.items() if k != "num_key_value_heads"}
GPT = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
MOE = {"num_experts_per_tok": 2, "num_local_experts": 4}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
PARTLY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
LOCAL = {"rope_type": "default", "rope_theta": 10000.0}
ROTARY, NORMED, POSTED, DENSE = (
    ("pos_embed",),
    ("q_scale", "k_scale"),
    ("attn_post_scale", "mlp_post_scale"),
    ("router",),
)
USUAL = (*ROTARY, *NORMED, *POSTED, *DENSE)
EXPERTS = ("mlp_pre", "mlp_gate", "mlp_post")
PARALLEL = (*USUAL, "resid_mid", "mlp_scale")
NEURONS = ("mlp_gate",)
FALCON = {**PLAIN, "ffn_hidden_size": 64}
FALCON.pop("intermediate_size")
BLOOM = {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4}
TOY = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8,
       "max_position_embeddings": 64}  # fmt: skip
TOY_MLP = {**TOY, "attn_only": False, "intermediate_size": 48}
ATTENTION_ONLY = ("resid_mid", "mlp_scale", "mlp_in", "mlp_raw", "mlp_out", *EXPERTS)

FAMILIES: dict[str, Tiny] = {
    "gpt2": Tiny("GPT2", GPT, (*NORMED, *POSTED, *DENSE, *NEURONS)),
    "llama": Tiny("Llama", MODERN, USUAL),
    "mistral": Tiny("Mistral", {**MODERN, "sliding_window": 4}, USUAL),
    "mistral, wide heads": Tiny("Mistral", {**MODERN, "head_dim": 12, "sliding_window": None}, USUAL),
    "mixtral": Tiny("Mixtral", {**MODERN, **MOE, "sliding_window": 4}, (*ROTARY, *NORMED, *POSTED, *EXPERTS)),
    "qwen2": Tiny("Qwen2", {**MODERN, "tie_word_embeddings": True}, USUAL),
    "qwen2, windows": Tiny("Qwen2", {**MODERN, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4}, USUAL),
    "qwen3": Tiny("Qwen3", {**MODERN, "head_dim": 12}, (*ROTARY, *POSTED, *DENSE)),
    "qwen3_moe": Tiny("Qwen3Moe", {**MODERN, **MOE, "head_dim": 8, "moe_intermediate_size": 24, "norm_topk_prob": True},
                      (*ROTARY, *POSTED, *EXPERTS)),
    "gemma": Tiny("Gemma", {**MODERN, "head_dim": 12, "num_key_value_heads": 1, "tie_word_embeddings": True}, USUAL),
    "gemma2": Tiny("Gemma2", {**MODERN, **SLIDING, "head_dim": 12, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0,
                              "final_logit_softcapping": 5.0}, (*ROTARY, *NORMED, *DENSE)),
    "gemma3": Tiny("Gemma3Text", {**MODERN, **SLIDING, "head_dim": 12, "query_pre_attn_scalar": 20,
                                  "rope_parameters": {"sliding_attention": LOCAL, "full_attention": LOCAL | {"rope_theta": 1e6}}},
                   (*ROTARY, *DENSE)),
    "phi": Tiny("Phi", {**MODERN, **PARTLY}, (*PARALLEL, *NEURONS)),
    "phi, normed heads": Tiny("Phi", {**MODERN, **PARTLY, "qk_layernorm": True},
                              tuple(s for s in (*PARALLEL, *NEURONS) if s not in NORMED)),
    "phi3": Tiny("Phi3", {**MODERN, "sliding_window": 4}, USUAL),
    "olmo2": Tiny("Olmo2", MODERN, (*ROTARY, *DENSE, "attn_scale", "mlp_scale")),
    "smollm3": Tiny("SmolLM3", {**MODERN, "no_rope_layers": [1, 0, 1], "attention_bias": True}, USUAL),
    "stablelm": Tiny("StableLm", {**MODERN, **PARTLY, "use_qkv_bias": True}, USUAL),
    "stablelm, parallel": Tiny("StableLm", {**MODERN, **PARTLY, "use_parallel_residual": True}, PARALLEL),
    "stablelm, normed heads": Tiny("StableLm", {**MODERN, **PARTLY, "use_parallel_residual": True, "qk_layernorm": True},
                                   tuple(s for s in PARALLEL if s not in NORMED)),
    "gpt_bigcode": Tiny("GPTBigCode", GPT, (*NORMED, *POSTED, *DENSE, *NEURONS)),
    "gpt_bigcode, all heads": Tiny("GPTBigCode", {**GPT, "multi_query": False}, (*NORMED, *POSTED, *DENSE, *NEURONS)),
    "starcoder2": Tiny("Starcoder2", {**MODERN, "sliding_window": 4}, (*USUAL, *NEURONS)),
    "cohere": Tiny("Cohere", {**MODERN, "logit_scale": 0.3, "tie_word_embeddings": True}, PARALLEL),
    "cohere, normed heads": Tiny("Cohere", {**MODERN, "use_qk_norm": True}, tuple(s for s in PARALLEL if s not in NORMED)),
    "granite": Tiny("Granite", {**MODERN, "embedding_multiplier": 3.0, "residual_multiplier": 0.22, "logits_scaling": 4.0,
                                "attention_multiplier": 0.1}, USUAL),
    "gpt_oss": Tiny("GptOss", {**MODERN, **MOE, **SLIDING, "head_dim": 12}, (*ROTARY, *NORMED, *POSTED, *EXPERTS)),
    "gpt_neox": Tiny("GPTNeoX", {**PLAIN, **PARTLY}, (*USUAL, *NEURONS, "resid_mid")),
    "gpt_neox, one by one": Tiny("GPTNeoX", {**PLAIN, **PARTLY, "use_parallel_residual": False}, (*USUAL, *NEURONS)),
    "opt": Tiny("OPT", {"vocab_size": VOCAB, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                        "max_position_embeddings": 64, "word_embed_proj_dim": 32}, (*NORMED, *POSTED, *DENSE, *NEURONS)),
    "gpt_neo": Tiny("GPTNeo", {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4,
                               "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64},
                    (*NORMED, *POSTED, *DENSE, *NEURONS)),
    "gptj": Tiny("GPTJ", {**GPT, "rotary_dim": 4, "tie_word_embeddings": False}, (*PARALLEL, *NEURONS)),
    "bloom": Tiny("Bloom", BLOOM, (*USUAL, *NEURONS)),
    "falcon": Tiny("Falcon", FALCON, (*PARALLEL, *NEURONS)),
    "falcon, two norms": Tiny("Falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
                              (*USUAL, *NEURONS, "resid_mid")),
    "falcon, slopes": Tiny("Falcon", {**FALCON, "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
                           (*USUAL, *NEURONS)),
    "mpt": Tiny("Mpt", {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64}, (*USUAL, *NEURONS)),
    "toy, attention only": Tiny("Toy", TOY, (*NORMED, *POSTED, *DENSE, *ATTENTION_ONLY)),
    "toy, shortformer": Tiny("Toy", {**TOY, "shortformer": True}, (*USUAL, *ATTENTION_ONLY)),
    "toy, gelu": Tiny("Toy", {**TOY_MLP, "hidden_act": "gelu_new", "head_dim": 6}, (*NORMED, *POSTED, *DENSE, *NEURONS)),
    "toy, solu": Tiny("Toy", {**TOY_MLP, "hidden_act": "solu_ln", "final_rms": True}, (*NORMED, *POSTED, *DENSE, *NEURONS)),
}  # fmt: skip
