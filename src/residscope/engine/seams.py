"""Seams: sites inside stock modules that no module's input or output shows, reached while the module's own forward runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from residscope.engine.attention import attend, own_positions
from residscope.engine.passes import Pass
from residscope.model.sites import Site

_SOFTMAX = {functional.softmax, torch.softmax, Tensor.softmax}
_PRODUCT = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
_ADDED_PRODUCT = {torch.baddbmm, Tensor.baddbmm}


class AttentionProducts(TorchFunctionMode):
    """Sites of an attention module that computes softmax(q k^T ...) v by itself, in whatever steps its file has.

    Up to the softmax the one product of two batched tensors is q k^T; after it, pattern @ v. A fused kernel is the whole.
    """

    def __init__(self, now: Pass, layer: int) -> None:
        super().__init__()
        self.now, self.layer = now, layer
        own = now.layout.sizes.at(layer)
        self.heads, self.d_qk = own.n_heads, own.d_qk
        self.after_softmax = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SOFTMAX:
            self.after_softmax = True
            return func(self._scores(args[0]), *args[1:], **kwargs)
        if func in _PRODUCT and args[0].ndim > 2 and args[1].ndim > 2:
            if not self.after_softmax and not self._of_heads(args[0]):
                return func(*args, **kwargs)
            if self.after_softmax:
                pattern, v = self._visit("pattern", args[0]), self._suffix("v", args[1])
                z = func(pattern, v)
                return z if self.layer in self.now.changed_z else self._by_position("z", z)
            return func(*self._queries_keys(args[0], args[1]))
        if func in _ADDED_PRODUCT:
            bias, q, k = args[0], kwargs.pop("batch1"), kwargs.pop("batch2")
            bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1)  # rows may have joined since it was built
            q, k = self._queries_keys(q, k)
            return func(bias, q, k, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        return func(*args, **kwargs)

    def _fused(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, torch.finfo(q.dtype).min)
        return attend(self.now, self.layer, q, k, v, attn_mask, scaling=scale)[0].transpose(1, 2)

    def _of_heads(self, q: Tensor) -> bool:
        """Whether the left of a product is the queries, and not those of another module within (an indexer of keys)."""
        count = q.shape[1] == self.heads if q.ndim > 3 else q.shape[0] % self.heads == 0
        return bool(count) and q.shape[-1] == self.d_qk

    def _queries_keys(self, q: Tensor, k_transposed: Tensor) -> tuple[Tensor, Tensor]:
        k = k_transposed.transpose(-1, -2)
        new = self._suffix("k", k)
        return self._by_position("q", q), k_transposed if new is k else new.transpose(-1, -2)

    def _by_head(self, name: str, x: Tensor, see: Callable[[Tensor], Tensor]) -> Tensor:
        """Show `see` x as [batch head ...], also where the module folds heads into the batch."""
        if not self.now.touches(Site(name, self.layer)):
            return x
        whole = x.view(-1, self.heads, *x.shape[1:]) if x.ndim == 3 else x
        new = see(whole)
        return x if new is whole else new.reshape(x.shape)

    def _scores(self, scores: Tensor) -> Tensor:
        self.now.hide(self.layer, scores if scores.ndim > 3 else scores.view(-1, self.heads, *scores.shape[1:]))
        return self._visit("scores", scores)

    def _visit(self, name: str, x: Tensor) -> Tensor:
        return self._by_head(name, x, lambda x: self.now.visit(Site(name, self.layer), x))

    def _by_position(self, name: str, x: Tensor) -> Tensor:
        def see(x: Tensor) -> Tensor:
            value = x.transpose(1, 2)
            new = self.now.visit(Site(name, self.layer), value)
            return x if new is value else new.transpose(1, 2)

        return self._by_head(name, x, see)

    def _suffix(self, name: str, x: Tensor) -> Tensor:
        return self._by_head(name, x, lambda x: own_positions(self.now, Site(name, self.layer), x))


class RouterLogits(TorchFunctionMode):
    """A router's logits where its own forward makes them, before it picks experts by them."""

    def __init__(self, visit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.visit: Callable[[Tensor], Tensor] | None = visit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is functional.linear and self.visit is not None:
            visit, self.visit = self.visit, None
            return visit(out)
        return out


@dataclass(frozen=True)
class LaidOverlay:
    """A change A B of one module's weight, for the length of a pass: y = x W becomes x W + (x A) B.

    rows: the rows of the pass whose weight it is; None: all.
    """

    module: Any
    weight: Tensor
    A: Float[Tensor, "d_in r"]
    B: Float[Tensor, "r d_out"]
    rows: range | None = None

    def among(self, standing: Sequence[int]) -> list[int]:
        """Which of some rows it is for."""
        return [i for i, row in enumerate(standing) if self.rows is None or row in self.rows]


class NotByRow(Exception):
    """Raised where a module's tokens do not say whose rows they are, so that those cannot have weights of their own."""


class Overlaid(TorchFunctionMode):
    """The products of one module's overlaid weight, wherever its own forward makes them; the weight is not touched.

    now: the pass it is called in, which knows its rows.
    """

    def __init__(self, overlays: Sequence[LaidOverlay], now: Pass) -> None:
        super().__init__()
        self.overlays, self.now = overlays, now
        self.weight = self.transposed = overlays[0].weight
        self.used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        weight = self.weight
        if func == Tensor.T.__get__ and args[0] is weight:  # type: ignore[attr-defined]
            self.transposed = out
        elif func is functional.embedding and args[1] is weight:
            return self._added(out, args[0], lambda ids, A: A.to(out)[ids])
        elif (func is functional.linear and args[1] is weight) or (func in _PRODUCT and args[1] is self.transposed):
            return self._added(out, args[0])
        elif func is torch.addmm and args[2] is weight:
            return self._added(out, args[1])
        return out

    def _added(self, out: Tensor, x: Tensor, times: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        self.used = True
        times = times or (lambda x, A: x @ A.to(x))
        for overlay in self.overlays:
            if overlay.rows is None:
                out = out + times(x, overlay.A) @ overlay.B.to(out)
        own = [overlay for overlay in self.overlays if overlay.rows is not None]
        return self._added_by_row(out, x, own, times) if own else out

    def _added_by_row(
        self, out: Tensor, x: Tensor, own: Sequence[LaidOverlay], times: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        lead, length = out.shape[:-1], self.now.length
        if lead.numel() % length:
            raise NotByRow
        standing = self.now.rows_of(lead.numel() // length)

        def by_row(t: Tensor) -> Tensor:
            t = t.reshape(-1, length, *t.shape[len(lead) :])
            return t.expand(len(standing), *t.shape[1:])

        read, new = by_row(x), by_row(out).clone()
        for overlay in own:
            if mine := overlay.among(standing):
                new[mine] += times(read[mine], overlay.A) @ overlay.B.to(out)
        return new.reshape(-1, *lead[1:], out.shape[-1])
