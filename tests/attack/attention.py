"""Attention step by step, in the place of each stock module's own kernel, so that every value inside it can be tapped."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from attack.wiring import Wiring

NAME = "attack_plain"
Tap = Callable[[str, Tensor], Tensor]


def mixed(
    tap: Tap,
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score: Callable[[Tensor, Tensor], Tensor],
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(score(q, k)) v with every step tapped. q, k, v: [1 head pos d_head]; gives z [1 pos head d_head], pattern."""

    def tapped(name: str, x: Tensor) -> Tensor:
        return tap(f"{name}.{layer}", x.transpose(1, 2)).transpose(1, 2)

    q, k, v = tapped("q", q), tapped("k", k), tapped("v", v)
    times = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(times, 1) for x in (k, v))
    scores = tap(f"scores.{layer}", score(q, k))
    wide = scores.double()
    if sinks is not None:
        wide = torch.cat([wide, sinks.double().view(1, -1, 1, 1).expand(*wide.shape[:-1], 1)], -1)
    pattern = torch.softmax(wide, -1)[..., : scores.shape[-1]].to(v.dtype)
    pattern = tap(f"pattern.{layer}", pattern)
    z = torch.einsum("bhqk,bhkd->bqhd", pattern, v)
    return tap(f"z.{layer}", z), pattern


def register() -> None:
    """The tests' own name for attention; each module carries the tap of the run under way."""

    def kernel(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scaling: float | None = None,
        softcap: float | None = None, s_aux: Tensor | None = None, **_: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        def score(q: Tensor, k: Tensor) -> Tensor:
            s = torch.einsum("bhqd,bhkd->bhqk", q, k) * (scaling or 1 / math.sqrt(q.shape[-1]))
            s = s if softcap is None else torch.tanh(s / softcap) * softcap
            return s if mask is None else s + mask[..., : k.shape[-2]]

        return mixed(module.attack_tap, module.attack_layer, q, k, v, score, s_aux)

    AttentionInterface.register(NAME, kernel)
    AttentionMaskInterface.register(NAME, eager_mask)


def stand_in(wiring: Wiring, tap: Tap, layer: int, module: Any) -> tuple[str, Callable[..., Any]] | None:
    """For a module that does not ask the interface: which method to replace, and by what."""
    kind = type(module).__name__
    if kind in ("GPTJAttention", "GPTNeoSelfAttention"):
        return "_attn", _of_attn(tap, layer, module)
    return "forward", {"BloomAttention": _bloom, "MptAttention": _mpt, "FalconAttention": _falcon}[kind](
        tap, layer, module
    )


def _of_attn(tap: Tap, layer: int, module: Any) -> Callable[..., Any]:
    def attn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        def score(q: Tensor, k: Tensor) -> Tensor:
            s = torch.einsum("bhqd,bhkd->bhqk", q, k) / float(getattr(module, "scale_attn", 1.0))
            least = torch.finfo(s.dtype).min
            if hasattr(module, "bias"):  # GPT-Neo's own causal, or local, mask
                s = torch.where(module.bias[:, :, : s.shape[-2], : s.shape[-1]], s, least)
            return s if mask is None else (s + mask).clamp(min=least)

        z, pattern = mixed(tap, layer, q, k, v, score)
        return z.transpose(1, 2), pattern

    return attn


def _bloom(tap: Tap, layer: int, module: Any) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, residual: Tensor, alibi: Tensor, attention_mask: Tensor | None, **_: Any) -> Any:
        q, k, v = module._reshape(module.query_key_value(hidden_states))

        def score(q: Tensor, k: Tensor) -> Tensor:
            s = torch.einsum("bhqd,bhkd->bhqk", q, k) * module.inv_norm_factor + alibi.view(1, q.shape[1], 1, -1)
            return s if attention_mask is None else s + attention_mask

        z, pattern = mixed(tap, layer, q, k, v, score)
        return module.dense(z.flatten(2)) + residual, pattern

    return forward


def _mpt(tap: Tap, layer: int, module: Any) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, position_bias: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        q, k, v = (
            x.unflatten(-1, (module.n_heads, -1)).transpose(1, 2) for x in module.Wqkv(hidden_states).chunk(3, -1)
        )

        def score(q: Tensor, k: Tensor) -> Tensor:
            s = torch.einsum("bhqd,bhkd->bhqk", q, k) * module.softmax_scale + position_bias[:, :, -k.shape[2] :]
            return s if attention_mask is None else s.masked_fill(attention_mask, torch.finfo(s.dtype).min)

        z, pattern = mixed(tap, layer, q, k, v, score)
        return module.out_proj(z.flatten(2)), pattern

    return forward


def _falcon(tap: Tap, layer: int, module: Any) -> Callable[..., Any]:
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    def forward(hidden_states: Tensor, alibi: Tensor | None, attention_mask: Tensor | None, **named: Any) -> Any:
        q, k, v = (x.transpose(1, 2) for x in module._split_heads(module.query_key_value(hidden_states)))
        if alibi is None:
            q, k = apply_rotary_pos_emb(q, k, *named["position_embeddings"])

        def score(q: Tensor, k: Tensor) -> Tensor:
            s = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(module.head_dim)
            if attention_mask is None:
                ahead = torch.ones(s.shape[-2:], dtype=torch.bool).triu(1)
                return s.masked_fill(ahead, torch.finfo(s.dtype).min)
            if attention_mask.dtype == torch.bool:
                return s.masked_fill(~attention_mask, torch.finfo(s.dtype).min)
            return s + attention_mask  # the slopes are in it already

        z, pattern = mixed(tap, layer, q, k, v, score)
        return module.dense(z.flatten(2)), pattern

    return forward
