"""One plain whole forward of a stock model, one prompt at a time, in which every site is offered to a function `tap`.

    tap(site, value) -> the value to go on with

No windows, caches or batches: each row of a batch is a forward of its own, so padding is never seen. Values have the
documented shapes, with a batch of one. What `tap` returns goes on, at the module's boundary or in the place of the module.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from attack import attention
from attack.wiring import Wiring, matrix_of, sigma_of

Tap = Callable[[str, Tensor], Tensor]


@torch.no_grad()
def forward(wiring: Wiring, ids: list[int], tap: Tap, *, reader: tuple[Any, Tensor] | None = None) -> Tensor:
    """The logits. `reader`: a module that is to read this tensor in the place of its own input."""
    with Plain(wiring, tap, reader).hooked():
        logits = wiring.hf(input_ids=torch.tensor([ids]), use_cache=False).logits
        return tap("logits", logits)


class Plain:
    """The hooks of one forward."""

    def __init__(self, wiring: Wiring, tap: Tap, reader: tuple[Any, Tensor] | None) -> None:
        self.wiring, self.tap, self.reader = wiring, tap, reader
        self._undo: list[Callable[[], None]] = []
        self._stream: Tensor | None = None

    @contextmanager
    def hooked(self) -> Iterator[None]:
        try:
            self._hook()
            yield
        finally:
            for undo in reversed(self._undo):
                undo()

    def _hook(self) -> None:
        w, tap = self.wiring, self.tap
        if self.reader is not None:
            module, given = self.reader
            self._before(module, lambda x: given.view_as(x))
        self._after(w.module(w.family.embed_norm or w.family.embed), lambda x: self._times("embed", x, w.factors.embed))
        if w.family.pos_embed:
            self._after(w.module(w.family.pos_embed), self._positions)
        for layer, parts in enumerate(w.blocks):
            self._block(layer, parts)
        final = w.module(w.family.final_norm)
        self._norm(final, "final_scale", w.family.final_kind or w.family.norm)
        self._after(final, lambda x: tap("final_norm", x))

    def _block(self, layer: int, parts: Any) -> None:
        w, at = self.wiring, f".{layer}"
        self._before(parts.block, lambda x: self._entered(f"resid_pre{at}", x))
        self._norm(parts.attn_norm, f"attn_scale{at}", w.family.norm)
        self._before(parts.attn, lambda x: self.tap(f"attn_in{at}", x))
        self._head_norm(parts.q_norm, f"q_scale{at}")
        self._head_norm(parts.k_norm, f"k_scale{at}")
        self._attention(layer, parts)
        self._replace(parts.attn_proj, "forward", lambda stock: self._by_head(f"result{at}", parts.attn_proj, stock))
        if "attn_raw" not in w.aliases:
            self._after(parts.attn, lambda x: self.tap(f"attn_raw{at}", x))
        self._norm(parts.attn_post_norm, f"attn_post_scale{at}", w.family.norm)
        self._after(parts.attn_writer, lambda x: self._attention_written(layer, x))
        if parts.mlp is not None:
            self._mlp(layer, parts)
        if layer == w.n_layers - 1:
            self._after(parts.block, lambda x: self.tap(f"resid_post{at}", x))

    def _mlp(self, layer: int, parts: Any) -> None:
        w, at = self.wiring, f".{layer}"
        self._norm(parts.mlp_norm, f"mlp_scale{at}", w.family.norm)
        self._before(parts.mlp, lambda x: self._flat(f"mlp_in{at}", x))
        if parts.router is not None:
            self._replace(parts.router, "forward", lambda stock: self._routed(f"router{at}", stock))
        if parts.mlp_up is not None and parts.mlp_up is parts.mlp_gate:
            self._after(parts.mlp_up, lambda x: self._halves(layer, x))
        else:
            for name, module in (("mlp_pre", parts.mlp_up), ("mlp_gate", parts.mlp_gate)):
                if module is not None:
                    self._after(module, lambda x, name=name: self._flat(f"{name}{at}", x))
        if parts.mlp_down is not None:
            self._before(parts.mlp_down, lambda x: self._flat(f"mlp_post{at}", x))
        if "mlp_raw" not in w.aliases:
            self._after(parts.mlp, lambda x: self._flat(f"mlp_raw{at}", x))
        self._norm(parts.mlp_post_norm, f"mlp_post_scale{at}", w.family.norm)
        self._after(parts.mlp_writer, lambda x: self._times(f"mlp_out{at}", x, w.factors.residual))

    # ── what stands at a boundary ───────────────────────────────────────────────────────────────────────────

    def _entered(self, site: str, x: Tensor) -> Tensor:
        self._stream = self.tap(site, x).clone()
        return self._stream

    def _attention_written(self, layer: int, x: Tensor) -> Tensor:
        """attn_out, and the stream after it, which is made to be what `tap` says by what attention adds."""
        factor = self.wiring.factors.residual
        added = self.tap(f"attn_out.{layer}", x * factor)
        if "resid_mid" in self.wiring.names:
            assert self._stream is not None
            stream = self._stream + added
            new = self.tap(f"resid_mid.{layer}", stream)
            if new is not stream:
                added = new - self._stream
        return added / factor

    def _times(self, site: str, x: Tensor, factor: float) -> Tensor:
        shape = x.shape
        x = x.view(1, -1, shape[-1])
        return (self.tap(site, x * factor) / factor).view(shape).clone()

    def _flat(self, site: str, x: Tensor) -> Tensor:
        """A value whose positions may be folded into its batch."""
        return self.tap(site, x.view(1, -1, x.shape[-1])).reshape(x.shape)

    def _positions(self, x: Tensor) -> Tensor:
        return self.tap("pos_embed", x.view(1, -1, x.shape[-1])).reshape(x.shape)

    def _halves(self, layer: int, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return torch.cat([self.tap(f"mlp_gate.{layer}", gate), self.tap(f"mlp_pre.{layer}", up)], -1)

    # ── what stands inside a module ─────────────────────────────────────────────────────────────────────────

    def _norm(self, module: Any, site: str, kind: str) -> None:
        """A norm, redone with another divisor where `tap` gives one: its bias is what it makes of zero."""
        if module is None:
            return

        def redone(stock: Any) -> Any:
            def run(x: Tensor) -> Tensor:
                y, sigma = stock(x), sigma_of(self.wiring, module, x, kind)
                shown = sigma.view(1, -1, 1)
                new = self.tap(site, shown)
                if new is shown:
                    return y
                bias = stock(torch.zeros_like(x))
                return (y - bias) * (shown / new).view(sigma.shape) + bias

            return run

        self._replace(module, "forward", redone)

    def _head_norm(self, module: Any, site: str) -> None:
        if module is None:
            return
        axes, d_head = self.wiring.family.block.qk_norm_axes, self.wiring.sizes.d_head

        def redone(stock: Any) -> Any:
            def run(x: Tensor) -> Tensor:
                y, sigma = stock(x), sigma_of(self.wiring, module, x, self.wiring.family.norm)
                if axes == "pos all":
                    heads = x.shape[-1] // d_head
                    shown = sigma[:, :, None].expand(-1, -1, heads, -1)
                else:
                    shown = sigma.transpose(1, 2) if axes == "head pos d_head" else sigma
                new = self.tap(site, shown)
                if new is shown:
                    return y
                ratio = shown / new
                if axes == "pos all":
                    ratio = ratio.expand(-1, -1, -1, d_head).flatten(2)
                elif axes == "head pos d_head":
                    ratio = ratio.transpose(1, 2)
                bias = stock(torch.zeros_like(x))
                return (y - bias) * ratio + bias

            return run

        self._replace(module, "forward", redone)

    def _attention(self, layer: int, parts: Any) -> None:
        if self.wiring.interface:
            parts.attn.attack_tap, parts.attn.attack_layer = self.tap, layer
            config, before = self.wiring.hf.config, self.wiring.hf.config._attn_implementation
            if before != attention.NAME:
                config._attn_implementation = attention.NAME
                self._undo.append(lambda: setattr(config, "_attn_implementation", before))
            self._undo.append(lambda: delattr(parts.attn, "attack_tap"))
        else:
            name, own = attention.stand_in(self.wiring, self.tap, layer, parts.attn)
            self._replace(parts.attn, name, lambda stock: own)

    def _by_head(self, site: str, module: Any, stock: Any) -> Any:
        """The output projection as a sum over heads of z W_O, each tapped."""

        def run(x: Tensor) -> Tensor:
            z = x.unflatten(-1, (self.wiring.sizes.n_heads, -1))
            W = matrix_of(module).unflatten(0, (self.wiring.sizes.n_heads, -1))
            writes = torch.einsum("bphd,hdm->bphm", z, W)
            new = self.tap(site, writes)
            if new is writes:
                return stock(x)
            bias = getattr(module, "bias", None)
            return new.sum(2) if bias is None else new.sum(2) + bias

        return run

    def _routed(self, site: str, stock: Any) -> Any:
        """A router whose first product is its logits."""

        def run(x: Tensor) -> Any:
            linear, calls = torch.nn.functional.linear, []

            def tapped(*args: Any, **named: Any) -> Tensor:
                out = linear(*args, **named)
                calls.append(out)
                return self._flat(site, out) if len(calls) == 1 else out

            torch.nn.functional.linear = tapped
            try:
                return stock(x)
            finally:
                torch.nn.functional.linear = linear

        return run

    # ── hooks ───────────────────────────────────────────────────────────────────────────────────────────────

    def _before(self, module: Any, change: Callable[[Tensor], Tensor]) -> None:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        self._undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _after(self, module: Any, change: Callable[[Tensor], Tensor]) -> None:
        def hook(_: Any, args: tuple[Any, ...], output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        self._undo.append(module.register_forward_hook(hook).remove)

    def _replace(self, module: Any, name: str, make: Callable[[Any], Any]) -> None:
        setattr(module, name, make(getattr(module, name)))
        self._undo.append(lambda: delattr(module, name))


attention.register()
