"""Hooks: how a pass reaches the sites of a stock model. The only place that registers any."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from residscope.engine.attention import active, switched
from residscope.engine.layout import BlockParts, Layout, Norm, weight_in_out
from residscope.engine.passes import Pass
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
        self._skipped: list[tuple[nn.Module, Any]] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            with _trained_off(self.now.layout):
                self._register()
                token = active.set(self.now)
                try:
                    if self.now.inside_attention:
                        with switched(self.now.layout.hf):
                            yield
                    else:
                        yield
                finally:
                    active.reset(token)
        finally:
            for handle in self._handles:
                handle.remove()
            for block, own in self._skipped:
                if own is None:
                    del block.forward
                else:
                    block.forward = own

    def _register(self) -> None:
        layout = self.now.layout
        self._output(layout.embed, Site("embed"))
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

    def _input(self, module: nn.Module, site: Site) -> None:
        """Make a module's own input a site."""
        if not self.now.touches(site):
            return

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0] if args else kwargs["hidden_states"]
            return _with_input(args, kwargs, self.now.visit(site, value), value)

        self._on(module, before=before)

    def _output(self, module: nn.Module, site: Site) -> None:
        """Make a module's output (or the first of its outputs) a site."""
        if not self.now.touches(site):
            return

        def after(args: tuple[Any, ...], output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            return _with_output(output, self.now.visit(site, value))

        self._on(module, after=after)

    def _scale(self, norm: Norm | None, site: Site) -> None:
        """Make a norm's divisor a site. An edit rescales the norm's output, since no module holds the divisor."""
        if norm is None or not self.now.touches(site):
            return

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = norm.sigma(args[0])
            new = self.now.visit(site, old)
            return None if new is old else norm.rescale(output, old, new)

        self._on(norm.module, after=after)

    def _block(self, layer: int, parts: BlockParts) -> None:
        now = self.now
        self._input(parts.block, Site("resid_pre", layer))
        if self.stop == -1:
            self._on(parts.block, before=_stop)
            return
        self._scale(parts.attn_norm, Site("attn_scale", layer))
        self._input(parts.attn, Site("attn_in", layer))
        self._result(layer, parts)
        if parts.attn_writer is not parts.attn:
            self._output(parts.attn, Site("attn_raw", layer))
        self._output(parts.attn_writer, Site("attn_out", layer))
        keep_write = self._resid_mid(layer, parts) if now.touches(Site("resid_mid", layer)) else None
        self._scale(parts.mlp_norm, Site("mlp_scale", layer))
        self._input(parts.mlp, Site("mlp_in", layer))
        self._output(parts.mlp_up, Site("mlp_pre", layer))
        if parts.mlp_gate is not None:
            self._output(parts.mlp_gate, Site("mlp_gate", layer))
        self._input(parts.mlp_down, Site("mlp_post", layer))
        if parts.mlp_writer is not parts.mlp:
            self._output(parts.mlp, Site("mlp_raw", layer))
        self._output(parts.mlp_writer, Site("mlp_out", layer))
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
        assert parts.mlp_norm is not None

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0] if args else kwargs["hidden_states"]
            new = self.now.visit(site, value)
            if new is not value:
                edited.append(new)
            return _with_input(args, kwargs, new, value)

        def write(args: tuple[Any, ...], output: Any) -> None:
            wrote.append(output[0] if isinstance(output, tuple) else output)

        def after(args: tuple[Any, ...], output: Any) -> Any:
            return _with_output(output, edited[0] + wrote[0]) if edited else None

        self._on(parts.mlp_norm.module, before=before)
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

    def _position_embedding(self, args: tuple[Any, ...], output: Tensor) -> Any:
        site = Site("pos_embed")
        if not self.now.touches(site):
            return None
        return self.now.visit(site, output.expand(len(self.now.batch), -1, -1))

    def _skip(self, block: nn.Module, *, last: bool) -> None:
        """Let a block pass its input on, or, for the last one skipped, the stream the window starts from."""
        stock, now, resume = block.forward, self.now, self.resume
        self._skipped.append((block, block.__dict__.get("forward")))

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if active.get() is not now:
                return stock(hidden_states, *args, **kwargs)
            return resume if last else hidden_states

        block.forward = forward


def _stop(*_: Any) -> None:
    raise Stop


def _with_input(args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor, old: Tensor) -> Any:
    if new is old:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _with_output(output: Any, new: Tensor) -> Any:
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def _trained_off(layout: Layout) -> Iterator[None]:
    """Dropout off for the run, and every module's own mode as it was afterwards."""
    training = [module for module in layout.modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
