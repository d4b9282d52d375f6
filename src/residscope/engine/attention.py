"""Attention as sites: a function registered with transformers under a private name.

The name is set on a model's configuration only while one of its runs needs a site inside attention. Any other call that
meets it (another thread's, in the middle of such a run) is handed on, mask and kernel both, to the implementation that
was there before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.engine.passes import Pass, attention_sites
from residscope.model.sites import Site

NAME = "residscope"
active: ContextVar[Pass | None] = ContextVar("residscope_pass", default=None)
_before: dict[int, str] = {}  # id of a configuration in use -> its own implementation


def register() -> None:
    """Make the private name known to transformers. Repeating it changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


@contextmanager
def switched(layout: Layout) -> Iterator[None]:
    """Attention through this room, and as it was again on leaving. The caller holds the model's lock.

    Every configuration that a part of the model reads is switched: a layer that came from another model has its own.
    """
    before = [(config, config._attn_implementation) for config in layout.configs]
    try:
        for config, name in before:
            _before[id(config)] = name
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name
            _before.pop(id(config), None)


def _mask(*args: Any, config: Any = None, **kwargs: Any) -> Tensor | None:
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    if active.get() is not None:
        return eager_mask(*args, config=config, **kwargs)
    before = _before.get(id(config), "sdpa")
    return AttentionMaskInterface._global_mapping[before](*args, config=config, **kwargs)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    now = active.get()
    layer = None if now is None else now.layer_of.get(id(module))
    if now is None or layer is None:
        return _stock(_before.get(id(module.config), "sdpa"), module)(module, query, key, value, mask, **kwargs)
    return attend(now, layer, query, key, value, mask, **kwargs)


def _stock(name: str, module: Any) -> Any:
    """The implementation a configuration named before; `eager` is each modeling file's own function."""
    from sys import modules

    from transformers import AttentionInterface

    eager = getattr(modules[type(module).__module__], "eager_attention_forward", None)
    return AttentionInterface().get_interface(name, eager)


def attend(
    now: Pass,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """One layer's attention, each step offered to the pass: scale, cap, mask, softmax, mix the values.

    s_aux: one more score per head (an attention sink), which takes its share of the softmax and gives nothing.
    query: [batch head pos d_head]; key, value: [batch kv_head key d_head]; returns z as [batch pos head d_head].
    """

    at_q, at_k, at_v, at_scores, at_pattern, at_z = attention_sites(layer)
    if now.touches(at_q):
        query = now.visit(at_q, query.transpose(1, 2)).transpose(1, 2)
    key, value = own_positions(now, at_k, key), own_positions(now, at_v, value)
    batch, heads, length = query.shape[:3]
    kv_heads, keys = key.shape[1:3]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # the query heads that share a KV head are so many more rows of one product: no key is copied
    grouped = (query * scale).reshape(batch, kv_heads, -1, query.shape[-1])
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, keys)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if mask is not None:
        scores = scores.add_(mask[..., :keys])
    now.hide(layer, scores)
    scores = now.visit(at_scores, scores)
    pattern = softmax(scores, s_aux, now.softmax_dtype).to(query.dtype)
    pattern = now.visit(at_pattern, pattern)
    z = (pattern.reshape(batch, kv_heads, -1, keys) @ value).view(batch, heads, length, -1).transpose(1, 2)
    return now.visit(at_z, z).contiguous(), pattern


def softmax(scores: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Softmax over the keys and, where there is one, the head's sink: rows then sum to less than one."""
    if sinks is None:
        return torch.softmax(scores, -1, dtype=dtype)
    column = sinks.view(1, -1, 1, 1).to(scores).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, column], -1), -1, dtype=dtype)[..., :-1]


def own_positions(now: Pass, site: Site, whole: Tensor) -> Tensor:
    """Offer the pass the keys or values of its own positions; those before come from the window's base, already edited."""
    if not now.touches(site):
        return whole
    own = whole[:, :, now.offset :]
    new = now.visit(site, own.transpose(1, 2)).transpose(1, 2)
    return whole if new is own else torch.cat([whole[:, :, : now.offset], new], 2)
