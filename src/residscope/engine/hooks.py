"""Hooks: how a pass reaches the sites of a stock model. The only place that registers any."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from residscope.engine.attention import active, switched
from residscope.engine.layout import BlockParts, Norm, weight_in_out
from residscope.engine.passes import INSIDE_ATTENTION, Pass
from residscope.engine.seams import AttentionProducts, RouterLogits
from residscope.model.sites import Site


class Stop(Exception):
    """Raised inside a forward when the last site that is needed has been visited."""


class Hooks:
    """The hooks of one pass, registered on enter and removed on leaving, whatever happens between.

    `start` skips the blocks below it: the stream there is `resume`. `stop` ends the forward after that block (-1: before
    the first; None: never; n_layers: after the final norm).
    """

    def __init__(self, now: Pass, *, start: int = 0, resume: Tensor | None = None, stop: int | None = None) -> None:
        self.now, self.start, self.resume, self.stop = now, start, resume, stop
        self._handles: list[Any] = []
        self._replaced: list[tuple[nn.Module, Any]] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            with _trained_off(self.now.layout.hf):
                self._register()
                token = active.set(self.now)
                try:
                    if self.now.inside_attention and self.now.layout.family.attention == "interface":
                        with switched(self.now.layout.hf):
                            yield
                    else:
                        yield
                finally:
                    active.reset(token)
        finally:
            for handle in self._handles:
                handle.remove()
            for module, own in reversed(self._replaced):
                if own is None:
                    del module.forward
                else:
                    module.forward = own

    def _register(self) -> None:
        layout = self.now.layout
        self._output(layout.embed_writer, Site("embed"), times=layout.factors.embed)
        if layout.pos_embed is not None:
            self._on(layout.pos_embed, after=self._position_embedding)
        for layer, parts in enumerate(layout.blocks):
            if layer < self.start:
                self._skip(parts.block, last=layer == self.start - 1)
            elif self.stop is None or layer <= max(self.stop, 0):
                self._block(layer, parts)
        self._scale(layout.final_norm, Site("final_scale"))
        self._output(layout.final_norm.module, Site("final_norm"))
        if self.stop == layout.sizes.n_layers:
            self._on(layout.final_norm.module, after=_stop)

    def _on(
        self, module: nn.Module, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
    ) -> None:
        """A hook that acts in this pass alone: another thread's call of the same module does not see it."""
        now = self.now
        if before is not None:

            def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return before(args, kwargs) if active.get() is now else None

            self._handles.append(module.register_forward_pre_hook(pre_hook, with_kwargs=True))
        if after is not None:

            def post_hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                return after(args, output) if active.get() is now else None

            self._handles.append(module.register_forward_hook(post_hook))

    def _around(self, module: nn.Module, run: Callable[..., Any]) -> None:
        """Let `run(stock forward, ...)` stand for a module's forward, in this pass alone."""
        stock, now = module.forward, self.now
        self._replaced.append((module, module.__dict__.get("forward")))

        def forward(*args: Any, **kwargs: Any) -> Any:
            return run(stock, *args, **kwargs) if active.get() is now else stock(*args, **kwargs)

        module.forward = forward

    def _see(self, site: Site, value: Tensor) -> Tensor:
        """Offer the pass a value at a site, also where a block folds its positions into the batch."""
        if value.ndim > 2:
            return self.now.visit(site, value)
        whole = value.unflatten(0, (-1, self.now.length))
        new = self.now.visit(site, whole)
        return value if new is whole else new.flatten(0, 1)

    def _input(self, module: nn.Module, site: Site) -> None:
        """Make a module's own input a site."""
        if not self.now.touches(site):
            return

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0] if args else kwargs["hidden_states"]
            return _with_input(args, kwargs, self._see(site, value), value)

        self._on(module, before=before)

    def _output(self, module: nn.Module, site: Site, *, times: float = 1.0, overwritten: bool = False) -> None:
        """Make a module's output (or the first of its outputs), `times` a constant of the model's, a site.

        `overwritten`: the block writes into that tensor afterwards, so it gets one of its own.
        """
        if not self.now.touches(site):
            return

        def after(args: tuple[Any, ...], output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            value = value if times == 1 else value * times
            new = self._see(site, value)
            if overwritten:
                return _with_output(output, new.clone())
            return None if new is value else _with_output(output, new if times == 1 else new / times)

        self._on(module, after=after)

    def _scale(self, norm: Norm | None, site: Site) -> None:
        """Make a norm's divisor a site. An edit rescales the norm's output, since no module holds the divisor."""
        if norm is None or not self.now.touches(site):
            return

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = norm.sigma(args[0])
            new = self._see(site, old)
            return None if new is old else norm.rescale(output, old, new)

        self._on(norm.module, after=after)

    def _head_scale(self, norm: Norm | None, site: Site) -> None:
        """Make the divisor of a norm of queries or keys a site, by head whatever way round the norm has them."""
        if norm is None or not self.now.touches(site):
            return
        axes, d_head = self.now.layout.family.block.qk_norm_axes, self.now.layout.sizes.d_head

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = norm.sigma(args[0])
            if axes == "pos all":
                output = output.unflatten(-1, (-1, d_head))
                old = old.unsqueeze(2).expand(*output.shape[:-1], 1)
            heads_first = axes == "head pos d_head"
            value = old.transpose(1, 2) if heads_first else old
            new = self.now.visit(site, value)
            if new is value:
                return None
            out = norm.rescale(output, old, new.transpose(1, 2) if heads_first else new)
            return out.flatten(2) if axes == "pos all" else out

        self._on(norm.module, after=after)

    def _block(self, layer: int, parts: BlockParts) -> None:
        now = self.now
        self._input(parts.block, Site("resid_pre", layer))
        if self.stop == -1:
            self._on(parts.block, before=_stop)
            return
        residual, aliases = now.layout.factors.residual, now.layout.table.aliases
        self._scale(parts.attn_norm, Site("attn_scale", layer))
        self._input(parts.attn, Site("attn_in", layer))
        self._head_scale(parts.q_norm, Site("q_scale", layer))
        self._head_scale(parts.k_norm, Site("k_scale", layer))
        self._products(layer, parts)
        self._result(layer, parts)
        if "attn_raw" not in aliases:
            self._output(parts.attn, Site("attn_raw", layer))
        self._scale(parts.attn_post_norm, Site("attn_post_scale", layer))
        self._output(parts.attn_writer, Site("attn_out", layer), times=residual)
        keep_write = self._resid_mid(layer, parts) if now.touches(Site("resid_mid", layer)) else None
        self._scale(parts.mlp_norm, Site("mlp_scale", layer))
        self._input(parts.mlp, Site("mlp_in", layer))
        self._router(layer, parts)
        self._neurons(layer, parts)
        if "mlp_raw" not in aliases:
            self._output(parts.mlp, Site("mlp_raw", layer))
        self._scale(parts.mlp_post_norm, Site("mlp_post_scale", layer))
        in_place = now.layout.family.block.mlp_added_in_place
        self._output(parts.mlp_writer, Site("mlp_out", layer), times=residual, overwritten=in_place)
        if keep_write is not None:
            self._on(parts.mlp_writer, after=keep_write)
        last = layer == now.layout.sizes.n_layers - 1
        if last:
            self._output(parts.block, Site("resid_post", layer))
        elif self.stop == layer:
            self._output(parts.block, Site("resid_pre", layer + 1))
        if self.stop == layer:
            self._on(parts.block, after=_stop)

    def _resid_mid(self, layer: int, parts: BlockParts) -> Callable[..., None]:
        """The stream between attention and MLP.

        The residual branch and the norm both read it, so an edit must reach both: the norm gets the new value, and the
        block's output is made from it and the MLP's write, which the function returned must be given.
        """
        site, edited, wrote = Site("resid_mid", layer), [], []
        times = self.now.layout.factors.residual

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0] if args else kwargs["hidden_states"]
            new = self._see(site, value)
            if new is not value:
                edited.append(new)
            return _with_input(args, kwargs, new, value)

        def write(args: tuple[Any, ...], output: Any) -> None:
            wrote.append(output[0] if isinstance(output, tuple) else output)

        def after(args: tuple[Any, ...], output: Any) -> Any:
            if not edited:
                return None
            old = output[0] if isinstance(output, tuple) else output
            return _with_output(output, (edited[0] + wrote[0] * times).view_as(old))

        self._on(parts.mlp if parts.mlp_norm is None else parts.mlp_norm.module, before=before)
        if site in self.now.edits:
            self._on(parts.block, after=after)
        return write

    def _result(self, layer: int, parts: BlockParts) -> None:
        """Each head's own write, z W_O. An edit's change is added to what the projection gives."""
        site = Site("result", layer)
        if not self.now.touches(site):
            return
        heads = self.now.layout.sizes.n_heads
        change: list[Tensor] = []

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            z = rearrange(args[0], "b p (h d) -> b p h d", h=heads)
            W_O = rearrange(weight_in_out(parts.attn_proj), "(h d) m -> h d m", h=heads)
            old = torch.einsum("bphd,hdm->bphm", z, W_O)
            new = self.now.visit(site, old)
            if new is not old:
                change.append((new - old).sum(2))

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            return output + change[0] if change else None

        self._on(parts.attn_proj, before=before, after=after)

    def _products(self, layer: int, parts: BlockParts) -> None:
        """Sites inside attention of a module that does not go through transformers' interface."""
        touched = any(self.now.touches(Site(name, layer)) for name in INSIDE_ATTENTION)
        if not touched or self.now.layout.family.attention != "products":
            return

        def run(stock: Any, *args: Any, **kwargs: Any) -> Any:
            with AttentionProducts(self.now, layer):
                return stock(*args, **kwargs)

        self._around(parts.attn, run)

    def _router(self, layer: int, parts: BlockParts) -> None:
        site = Site("router", layer)
        if parts.router is None or not self.now.touches(site):
            return

        def run(stock: Any, *args: Any, **kwargs: Any) -> Any:
            with RouterLogits(lambda logits: self._see(site, logits)):
                return stock(*args, **kwargs)

        self._around(parts.router, run)

    def _neurons(self, layer: int, parts: BlockParts) -> None:
        up, gate, down = parts.mlp_up, parts.mlp_gate, parts.mlp_down
        if up is not None and up is gate:
            self._halves(up, Site("mlp_gate", layer), Site("mlp_pre", layer))
        else:
            for module, site in ((up, Site("mlp_pre", layer)), (gate, Site("mlp_gate", layer))):
                if module is not None:
                    self._output(module, site)
        if down is not None:
            self._input(down, Site("mlp_post", layer))

    def _halves(self, module: nn.Module, *sites: Site) -> None:
        """Make the two halves of a module's output two sites."""
        if not any(map(self.now.touches, sites)):
            return

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = output.chunk(2, -1)
            new = [self._see(site, half) for site, half in zip(sites, old, strict=True)]
            return None if new[0] is old[0] and new[1] is old[1] else torch.cat(new, -1)

        self._on(module, after=after)

    def _position_embedding(self, args: tuple[Any, ...], output: Tensor) -> Any:
        site = Site("pos_embed")
        if not self.now.touches(site):
            return None
        return self.now.visit(site, output.expand(len(self.now.batch), -1, -1))

    def _skip(self, block: nn.Module, *, last: bool) -> None:
        """Let a block pass its input on, or, for the last one skipped, the stream the window starts from."""
        returns_tuple, resume = self.now.layout.family.block.returns_tuple, self.resume

        def run(stock: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            stream = resume if last else hidden_states
            return (stream, None) if returns_tuple else stream

        self._around(block, run)


def _stop(*_: Any) -> None:
    raise Stop


def _with_input(args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor, old: Tensor) -> Any:
    if new is old:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _with_output(output: Any, new: Tensor) -> Any:
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def _trained_off(hf: Any) -> Iterator[None]:
    """Dropout off for the run, and every module's own mode as it was afterwards."""
    training = [module for module in hf.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
