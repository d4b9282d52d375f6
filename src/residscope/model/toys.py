"""TransformerLens' toy decoders (attention-only, GELU, SoLU) as a Hugging Face class, since transformers has none for them.

A block, with LayerNorms and biases everywhere, is

    x += W_O attn(ln1(x) + p, ln1(x) + p, ln1(x)),    x += W_out act(ln2(x) W_in)

where p is zero and the positions are added to the stream at its start, or, "shortformer" (Press et al. 2021,
https://arxiv.org/abs/2012.15832), p is the positions, which queries and keys read and the stream never holds.
Attention-only blocks end after the first line. act is a GELU, or SoLU (Elhage et al. 2022,
https://transformer-circuits.pub/2022/solu): x softmax(x) over the neurons, then a LayerNorm of them (`solu_ln`).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import NewGELUActivation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast

# transformers took its cache as past_key_values, then as cache: a toy takes both, and its output has what theirs has
OUTPUT_CACHE = next(
    name for name in ("cache", "past_key_values") if name in CausalLMOutputWithPast.__dataclass_fields__
)


class ToyConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a toy, by transformers' names, and the three ways in which toys differ.

    attn_only: blocks without an MLP. shortformer: positions are read by queries and keys alone. final_rms: the last norm
    is an RMSNorm, as in the first SoLU models.
    """

    model_type = "residscope_toy"
    keys_to_ignore_at_inference = (OUTPUT_CACHE,)

    def __init__(
        self,
        *,
        vocab_size: int = 48262,
        hidden_size: int = 512,
        intermediate_size: int = 2048,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 8,
        head_dim: int = 64,
        max_position_embeddings: int = 1024,
        hidden_act: str | None = None,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        attn_only: bool = True,
        shortformer: bool = False,
        final_rms: bool = False,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.attn_only = attn_only
        self.shortformer = shortformer
        self.final_rms = final_rms
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


def solu(x: Float[Tensor, "*batch d_mlp"]) -> Float[Tensor, "*batch d_mlp"]:
    """x softmax(x), the softmax over the neurons."""
    return x * x.softmax(-1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": NewGELUActivation(),
    "relu": functional.relu,
    "solu": solu,
    "solu_ln": solu,
}


def eager_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attention in three plain steps, what the configuration calls `eager`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    pattern = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


class ToyAttention(nn.Module):
    def __init__(self, config: ToyConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim, self.is_causal = config.head_dim, True
        self.scaling = config.head_dim**-0.5
        d_model, d_heads = config.hidden_size, config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(d_model, d_heads)
        self.k_proj = nn.Linear(d_model, d_heads)
        self.v_proj = nn.Linear(d_model, d_heads)
        self.o_proj = nn.Linear(d_heads, d_model)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos d_model"],
        positions: Float[Tensor, "_ pos d_model"] | None = None,
        attention_mask: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Float[Tensor, "batch pos d_model"]:
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        placed = hidden_states if positions is None else hidden_states + positions
        q = self.q_proj(placed).view(shape).transpose(1, 2)  # [batch head pos d_head]
        k = self.k_proj(placed).view(shape).transpose(1, 2)
        v = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = AttentionInterface().get_interface(self.config._attn_implementation, eager_attention_forward)
        z, _ = attend(self, q, k, v, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.o_proj(z.flatten(2))


class ToyMLP(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        assert config.hidden_act is not None
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACTIVATIONS[config.hidden_act]
        normed = config.hidden_act.endswith("_ln")
        self.norm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps) if normed else nn.Identity()
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.down(self.norm(self.act(self.up(x))))


class ToyBlock(nn.Module):
    def __init__(self, config: ToyConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ToyAttention(config, layer_idx)
        self.mlp: ToyMLP | None = None
        if not config.attn_only:
            self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.mlp = ToyMLP(config)

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"], **kwargs: Any
    ) -> Float[Tensor, "batch pos d_model"]:
        x = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        return x if self.mlp is None else x + self.mlp(self.post_attention_layernorm(x))


class ToyPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    config_class = ToyConfig
    base_model_prefix = "model"
    _no_split_modules = ("ToyBlock",)
    _supports_sdpa = True
    _supports_attention_backend = True


class ToyModel(ToyPreTrainedModel):
    """Embedding, positions, blocks and the last norm."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        d_model, eps = config.hidden_size, config.layer_norm_eps
        self.embed_tokens = nn.Embedding(config.vocab_size, d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, d_model)
        self.layers = nn.ModuleList([ToyBlock(config, i) for i in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(d_model, eps=eps) if config.final_rms else nn.LayerNorm(d_model, eps=eps)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        cache: Any = None,
        inputs_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        **kwargs: Any,
    ) -> Float[Tensor, "batch pos d_model"]:
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            seen = 0 if cache is None else cache.get_seq_length()
            position_ids = torch.arange(seen, seen + x.shape[1], device=x.device).unsqueeze(0)
        positions = self.embed_positions(position_ids)
        mask = create_causal_mask(self.config, x, attention_mask, cache, position_ids)
        if not self.config.shortformer:
            x, positions = x + positions, None
        for block in self.layers:
            x = block(x, positions=positions, attention_mask=mask, cache=cache, **kwargs)
        return self.norm(x)


class ToyForCausalLM(ToyPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A toy with its unembedding, which has a bias."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.model = ToyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        past_key_values: Any = None,
        inputs_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        use_cache = getattr(self.config, "use_cache", True) if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        x = self.model(input_ids, attention_mask, position_ids, cache, inputs_embeds)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{OUTPUT_CACHE: cache if use_cache else None})


def register() -> None:
    """Make transformers' Auto classes know `residscope_toy` folders. Repeating it changes nothing."""
    AutoConfig.register(ToyConfig.model_type, ToyConfig, exist_ok=True)
    AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM, exist_ok=True)
