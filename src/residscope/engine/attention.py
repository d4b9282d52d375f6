"""Attention as sites: a function registered with transformers under a private name.

The name is set on a model's configuration only while one of its runs needs a site inside attention. Any other call that
meets it (another thread's, in the middle of such a run) is handed on, mask and kernel both, to the implementation that
was there before.

A long run's attention goes through a second name of ours: the same kernel, called once for each key-value head, so that the
run can be stopped between two of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.engine.passes import Pass, attention_sites
from residscope.model.sites import Site
from residscope.progress import ask_within

NAME = "residscope"
WATCHED = "residscope_look"
BY_HEAD = "residscope_by_head"
active: ContextVar[Pass | None] = ContextVar("residscope_pass", default=None)
_before: dict[int, str] = {}  # id of a configuration in use -> its own implementation


def register() -> None:
    """Make the private name known to transformers. Repeating it changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    AttentionInterface.register(WATCHED, _watched)
    AttentionMaskInterface.register(WATCHED, stock_mask)
    AttentionInterface.register(BY_HEAD, _by_head)
    AttentionMaskInterface.register(BY_HEAD, stock_mask)


@contextmanager
def switched(layout: Layout) -> Iterator[None]:
    """Attention through this room, and as it was again on leaving. The caller holds the model's lock.

    Every configuration that a part of the model reads is switched: a layer that came from another model has its own.
    """
    with _named(layout.configs, NAME):
        yield


@contextmanager
def by_head(layout: Layout) -> Iterator[None]:
    """Attention as it is, one key-value head after another. The caller holds the model's lock."""
    with _named(layout.configs, BY_HEAD):
        yield


@contextmanager
def unswitched(layout: Layout) -> Iterator[None]:
    """Attention as it is, also while a pass stands aside that has switched it. The caller holds the model's lock."""
    with _named(layout.configs, None):
        yield


_watching: ContextVar[Callable[..., None] | None] = ContextVar("residscope_watching", default=None)


@contextmanager
def watched(configs: Sequence[Any], see: Callable[..., None]) -> Iterator[None]:
    """Attention as it is, each call shown to `see(module, query, key, value, out, the rest by name)`."""
    token = _watching.set(see)
    try:
        with _named(configs, WATCHED):
            yield
    finally:
        _watching.reset(token)


def _watched(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    out = stock_attention(_before.get(id(module.config), "sdpa"), module)(module, query, key, value, *args, **kwargs)
    if (see := _watching.get()) is not None:
        see(module, query, key, value, out[0], kwargs)
    return out


def _by_head(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    name = _before.get(id(module.config), "sdpa")
    stock, heads, groups = stock_attention(name, module), query.shape[1], key.shape[1]
    apart = name == "sdpa" and groups > 1 and heads % groups == 0
    if active.get() is None or not apart or kwargs.get("position_bias") is not None:
        return stock(module, query, key, value, attention_mask, **kwargs)
    size, parts = heads // groups, []
    for group in range(groups):
        ask_within()
        own = slice(group * size, (group + 1) * size)
        by_mask = attention_mask is not None and attention_mask.shape[1] == heads
        mask = attention_mask[:, own] if attention_mask is not None and by_mask else attention_mask
        part = slice(group, group + 1)
        parts.append(stock(module, query[:, own], key[:, part], value[:, part], mask, **kwargs)[0])
    return torch.cat(parts, 2), None


@contextmanager
def _named(configs: Sequence[Any], own: str | None) -> Iterator[None]:
    """own: what attention is called inside; None: as each configuration calls it, whatever a pass aside has switched."""
    before = [(config, config._attn_implementation, _before.get(id(config))) for config in configs]
    try:
        for config, name, stock in before:
            _before[id(config)] = stock or name
            config._attn_implementation = own or stock or name
        yield
    finally:
        for config, name, stock in before:
            config._attn_implementation = name
            if stock is None:
                _before.pop(id(config), None)
            else:
                _before[id(config)] = stock


def _mask(*args: Any, config: Any = None, **kwargs: Any) -> Tensor | None:
    from transformers.masking_utils import eager_mask

    if active.get() is not None:
        return eager_mask(*args, config=config, **kwargs)
    return stock_mask(*args, config=config, **kwargs)


def stock_mask(*args: Any, config: Any = None, **kwargs: Any) -> Tensor | None:
    from transformers.masking_utils import AttentionMaskInterface

    before = _before.get(id(config), "sdpa")
    return AttentionMaskInterface._global_mapping[before](*args, config=config, **kwargs)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    now = active.get()
    layer = None if now is None else now.layer_of.get(id(module))
    if now is None or layer is None:
        return stock_attention(_before.get(id(module.config), "sdpa"), module)(
            module, query, key, value, *args, **kwargs
        )
    mask = args[0] if args else kwargs.pop("attention_mask", None)
    return attend(now, layer, query, key, value, mask, **kwargs)


def stock_attention(name: str, module: Any) -> Any:
    """The implementation a configuration named before; `eager` is each modeling file's own, or that of a class it extends."""
    from sys import modules

    from transformers import AttentionInterface

    files = (modules.get(cls.__module__) for cls in type(module).__mro__)
    eager = next((own for file in files if (own := getattr(file, "eager_attention_forward", None)) is not None), None)
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
    ask = ask_within if now.long else _go_on
    ask()
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
    ask()
    scores = now.visit(at_scores, scores)
    pattern = softmax(scores, s_aux, now.softmax_dtype).to(query.dtype)
    ask()
    pattern = now.visit(at_pattern, pattern)
    z = (pattern.reshape(batch, kv_heads, -1, keys) @ value).view(batch, heads, length, -1).transpose(1, 2)
    return (z if layer in now.changed_z else now.visit(at_z, z)).contiguous(), pattern


def _go_on() -> None:
    """What a pass is asked whose blocks take no time."""


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
