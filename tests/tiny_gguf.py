"""GGUF files of tiny models, written by llama.cpp's own package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Pack = Callable[[np.ndarray], tuple[np.ndarray, Any]]


def gguf_of(
    hf: Any,
    path: Path,
    pack: Pack | None = None,
    *,
    tokenizer: bool = True,
    architecture: str = "llama",
    without: str = "-",
) -> None:
    """A GGUF file of a tiny Llama, with a byte-level tokenizer that has one merge. pack: how its blocks' matrices are kept."""
    from gguf import GGUFWriter, TokenType
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "Ġ1"]
    tokens += [f"<{i}>" for i in range(300 - len(tokens))]
    c, writer = hf.config, GGUFWriter(path, architecture)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(300)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([TokenType.NORMAL] * 299 + [TokenType.CONTROL])
        writer.add_token_merges(["Ġ 1"])
        for name in ("bos", "eos", "unk", "pad"):
            getattr(writer, f"add_{name}_token_id")(299)
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate"}
    names |= {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.o_proj": "attn_output"}
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for key, tensor in hf.state_dict().items():
        x, stem = tensor.numpy(), key.removesuffix(".weight")
        if "layers" in stem:
            _, _, layer, part = stem.split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):  # GGUF pairs the rotary halves
                heads = c.num_attention_heads if "q_proj" in part else c.num_key_value_heads
                x = x.reshape(heads, 2, len(x) // heads // 2, c.hidden_size).swapaxes(1, 2).reshape(x.shape)
            name, x = f"blk.{layer}.{names[part]}.weight", np.ascontiguousarray(x)
            if pack is not None and x.ndim == 2:
                raw, kind = pack(x)
                writer.add_tensor(name, raw, raw_dtype=kind)
            elif without not in name:
                writer.add_tensor(name, x)
        else:
            writer.add_tensor(f"{outer[stem]}.weight", x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
