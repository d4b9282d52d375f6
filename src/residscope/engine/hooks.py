"""Hooks: which module of a stock model holds which site, and how a pass reaches them all."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residscope.engine.attention import active, by_head, switched, unswitched
from residscope.engine.branches import Branches
from residscope.engine.layout import BlockParts, Layout, weight_in_out
from residscope.engine.memory import give_back, pages_apart
from residscope.engine.passes import INSIDE_ATTENTION, LONG, Pass, Stop
from residscope.engine.places import Places, first_input, with_input, with_output
from residscope.engine.seams import AttentionProducts, LaidOverlay, Overlaid, RouterLogits
from residscope.engine.stock import block_returns
from residscope.engine.structure import uncompiled
from residscope.errors import BadEdit
from residscope.model.sites import Site
from residscope.progress import ask_within, asked


class Hooks(Places):
    """The hooks of one pass, registered on enter and removed on leaving, whatever happens between.

    `start` skips the blocks below it: the stream there is `resume`. `stop` ends the forward after that block (-1: before
    the first; None: never; n_layers: after the final norm).
    """

    def __init__(self, now: Pass, *, start: int = 0, resume: Tensor | None = None, stop: int | None = None) -> None:
        super().__init__(now)
        self.start, self.resume, self.stop = start, resume, stop
        rereading = now.rereading()
        self.branches = Branches(now) if rereading else None
        self.reread_layers = {site.layer for site in rereading if site.name in ("q", "k", "v")}
        now.reread = self.branches

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            with trained_off(self.now.layout), uncompiled(), pages_apart() if self.now.long else nullcontext():
                self._register()
                token = active.set(self.now)
                try:
                    with self._attention():
                        yield
                finally:
                    active.reset(token)
        finally:
            self.undo()

    def _attention(self) -> AbstractContextManager[None]:
        """How attention is computed: as it is, unless sites stand inside it, or the pass is long and somebody may stop it."""
        now = self.now
        if now.layout.family.attention != "interface":
            return nullcontext()
        if now.inside_attention:
            return switched(now.layout)
        return by_head(now.layout) if now.long and asked() is not None else unswitched(now.layout)

    def _register(self) -> None:
        layout = self.now.layout
        early, late = self._both_ends()
        with self._only(early):
            self._output(layout.embed_writer, Site("embed"), times=layout.factors.embed)
            if layout.pos_embed is None and layout.factors.embed == 1:
                self._on(layout.embed_writer, after=self._begin)
        if layout.pos_embed is not None:
            self._on(layout.pos_embed, after=self._position_embedding)
        for layer, parts in enumerate(layout.blocks):
            if layer < self.start:
                self._skip(layer, parts.block)
            elif self.stop is None or layer <= max(self.stop, 0):
                self._block(layer, parts)
        with self._only(late):
            self._end()
            self._scale(layout.final_norm, Site("final_scale"))
            self._output(layout.final_norm.module, Site("final_norm"))
            if self.stop == layout.sizes.n_layers:
                self._on(layout.final_norm.module, after=_stop)
        laid: dict[int, list[LaidOverlay]] = {}
        for overlay in self.now.overlays:
            laid.setdefault(id(overlay.module), []).append(overlay)
        for overlays in laid.values():  # last, so that what other stand-ins see is overlaid already
            self._overlay(overlays)

    def _both_ends(self) -> tuple[Callable[[], bool] | None, Callable[[], bool] | None]:
        """Of a norm that stands both behind the embedding and in front of the unembedding: which of its calls is which."""
        layout, entered = self.now.layout, [False]
        if layout.embed_writer is not layout.final_norm.module:
            return None, None

        def set_to(value: bool) -> Callable[..., None]:
            return lambda args, kwargs: entered.__setitem__(0, value)

        self._on(layout.embed, before=set_to(False))
        self._on(layout.blocks[0].block, before=set_to(True))
        return lambda: not entered[0], lambda: entered[0]

    def _block(self, layer: int, parts: BlockParts) -> None:
        now = self.now
        if asked() is not None:
            self._on(parts.block, before=_ask)
        self._entry(layer, parts)
        if self.stop == -1:
            self._on(parts.block, before=_stop)
            return
        residual, aliases = now.layout.factors.residual, now.layout.table.aliases
        self._scale(parts.attn_norm, Site("attn_scale", layer))
        self._input(parts.attn, Site("attn_in", layer), beside=parts.attn_beside)
        self._head_scale(parts.q_norm, Site("q_scale", layer))
        self._head_scale(parts.k_norm, Site("k_scale", layer))
        if self.branches is not None and layer in self.reread_layers and parts.attn is not None:
            self._around(parts.attn, self.branches.keep(layer))
        self._products(layer, parts)
        if parts.z_changed:
            self._changed_z(layer, parts)
        self._result(layer, parts)
        if "attn_raw" not in aliases:
            self._output(parts.attn, Site("attn_raw", layer), beside=parts.attn_beside)
        self._scale(parts.attn_post_norm, Site("attn_post_scale", layer))
        self._output(parts.attn_writer, Site("attn_out", layer), times=residual, beside=parts.attn_beside)
        keep_write = self._resid_mid(layer, parts) if now.touches(Site("resid_mid", layer)) else None
        self._scale(parts.mlp_norm, Site("mlp_scale", layer))
        self._input(parts.mlp, Site("mlp_in", layer), beside=parts.mlp_beside)
        self._router(layer, parts)
        self._neurons(layer, parts)
        self._in_pieces(layer, parts)
        if "mlp_raw" not in aliases:
            self._output(parts.mlp, Site("mlp_raw", layer), beside=parts.mlp_beside)
        self._scale(parts.mlp_post_norm, Site("mlp_post_scale", layer))
        self._output(parts.mlp_writer, Site("mlp_out", layer), times=residual, overwritten=parts.mlp_in_place,
                     beside=parts.mlp_beside)  # fmt: skip
        for module in (parts.mlp_writer, parts.mlp_beside):
            if keep_write is not None and module is not None:
                self._on(module, after=keep_write(module))
        last = layer == now.layout.sizes.n_layers - 1
        if last:
            self._output(parts.block, Site("resid_post", layer))
        elif self.stop == layer:
            self._output(parts.block, Site("resid_pre", layer + 1))
        if self.stop == layer:
            self._on(parts.block, after=_stop)

    def _entry(self, layer: int, parts: BlockParts) -> None:
        self._input(parts.block, Site("resid_pre", layer))

    def _end(self) -> None:
        """What is to be done in front of the final norm."""

    def _resid_mid(self, layer: int, parts: BlockParts) -> Callable[[nn.Module], Callable[..., None]]:
        """The stream between attention and MLP.

        The residual branch and the norm both read it, so an edit must reach both: the norm gets the new value, and the
        block's output is made from it and the MLP's write: what is returned makes a hook for each module that writes it.
        """
        site, edited, wrote = Site("resid_mid", layer), [], {}
        times = self.now.layout.factors.residual

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = first_input(args, kwargs)
            assert value is not None
            new = self._see(site, value)
            if new is not value:
                edited.append(new)
            return with_input(args, kwargs, new, value)

        def write(module: nn.Module) -> Callable[..., None]:
            def keep(args: tuple[Any, ...], output: Any) -> None:
                if edited:
                    wrote[module] = output[0] if isinstance(output, tuple) else output

            return keep

        def after(args: tuple[Any, ...], output: Any) -> Any:
            if not edited:
                return None
            old = output[0] if isinstance(output, tuple) else output
            total = sum(value.reshape(old.shape) for value in wrote.values())
            wrote.clear()
            return with_output(output, edited.pop().reshape(old.shape) + total * times)

        reader = parts.mlp if parts.mlp_norm is None else parts.mlp_norm.module
        assert reader is not None
        self._on(reader, before=before)
        if self.now.edits_at(site):
            self._on(parts.block, after=after)
        return write

    def _changed_z(self, layer: int, parts: BlockParts) -> None:
        """What the output projection reads, where a gate has changed what the heads mixed."""
        site, heads = Site("z", layer), self.now.layout.sizes.at(layer).n_heads
        if parts.attn_proj is None or not self.now.touches(site):
            return

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0].view(*self._shape(args[0]), heads, -1)
            new = self.now.visit(site, value)
            return None if new is value else ((new.reshape(args[0].shape), *args[1:]), kwargs)

        self._on(parts.attn_proj, before=before)

    def _shape(self, value: Tensor) -> tuple[int, int]:
        """Rows and positions of a tensor that may have them folded."""
        return (value.numel() // value.shape[-1] // self.now.length, self.now.length)

    def _result(self, layer: int, parts: BlockParts) -> None:
        """Each head's own write, z W_O. An edit's change is added to what the projection gives."""
        site = Site("result", layer)
        if parts.attn_proj is None or not self.now.touches(site):
            return
        heads = self.now.layout.sizes.at(layer).n_heads
        change: list[Tensor] = []

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            z = rearrange(args[0], "b p (h d) -> b p h d", h=heads)
            W_O = weight_in_out(parts.attn_proj)
            overlays = [laid for laid in self.now.overlays if laid.module is parts.attn_proj]
            for laid in overlays:
                W_O = W_O + (laid.A @ laid.B).to(W_O) if laid.rows is None else W_O
            old = _by_head(z, W_O)
            for laid in overlays:
                if laid.rows is not None and (mine := laid.among(range(len(z)))):
                    old[mine] += _by_head(z[mine], (laid.A @ laid.B).to(W_O))
            new = self.now.visit(site, old)
            if new is not old:
                change.append((new - old).sum(2))

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            return output + change.pop() if change else None

        self._on(parts.attn_proj, before=before, after=after)

    def _overlay(self, overlays: Sequence[LaidOverlay]) -> None:
        """The changes of one module's weight, added to what it makes of it."""
        module = overlays[0].module

        def run(stock: Any, *args: Any, **kwargs: Any) -> Any:
            with Overlaid(overlays, active.get() or self.now) as mode:
                out = stock(*args, **kwargs)
            if not mode.used:
                raise BadEdit(
                    "the module does not use its weight in one product, so it cannot be overlaid",
                    received=type(module).__name__,
                    allowed="a linear layer, a convolution of width one, or an embedding",
                )
            return out

        self._around(module, run, again=True)

    def _products(self, layer: int, parts: BlockParts) -> None:
        """Sites inside attention of a module that does not go through transformers' interface."""
        touched = any(self.now.touches(Site(name, layer)) for name in INSIDE_ATTENTION)
        if not touched or parts.attn is None or self.now.layout.family.attention != "products":
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

    def _in_pieces(self, layer: int, parts: BlockParts) -> None:
        """The MLP of a long prompt a piece at a time: it reads each token by itself, and its neurons are its largest values."""
        mlp, now = parts.mlp, self.now
        tokens = now.batch.ids.shape[0] * now.length
        if tokens < LONG:
            return
        if now.layout.device.type == "cpu":
            self._on(parts.block, after=lambda args, output: give_back())
            for part in (parts.attn, mlp) if tokens >= 2 * LONG else ():
                if part is not None:
                    self._on(part, before=lambda args, kwargs: give_back())
        inside = any(now.touches(Site(name, layer)) for name in ("mlp_pre", "mlp_gate", "mlp_post"))
        if mlp is None or parts.router is not None or inside:
            return
        if any(m._forward_hooks or m._forward_pre_hooks for m in mlp.modules() if m is not mlp):
            return  # somebody looks at its parts

        def run(stock: Any, *args: Any, **kwargs: Any) -> Any:
            if len(args) != 1 or kwargs or args[0].ndim != 3 or args[0].requires_grad:
                return stock(*args, **kwargs)
            size = max(1, LONG // 4 // args[0].shape[0])
            pieces = []
            for piece in args[0].split(size, 1):
                ask_within()
                pieces.append(stock(piece))
            return torch.cat(pieces, 1)

        self._around(mlp, run)

    def _begin(self, args: tuple[Any, ...], output: Any) -> Any:
        new = self.now.begin(output) if isinstance(output, Tensor) else output
        return None if new is output else new

    def _position_embedding(self, args: tuple[Any, ...], output: Tensor) -> Any:
        site = Site("pos_embed")
        if not self.now.touches(site):
            return None
        return self.now.visit(site, output.expand(len(self.now.batch), -1, -1))

    def _skip(self, layer: int, block: nn.Module) -> None:
        """Let a block pass its input on, or, for the last one skipped, the stream the window starts from."""
        length = block_returns(
            self.now.layout, cached=self.now.offset > 0 and self.start < self.now.layout.sizes.n_layers
        )[layer]

        def run(stock: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            stream = self.resume if layer == self.start - 1 else hidden_states
            return stream if length is None else (stream, *[None] * (length - 1))

        self._around(block, run)


def _by_head(z: Float[Tensor, "batch pos head d_head"], W_O: Float[Tensor, "d_in d_model"]) -> Tensor:
    return torch.einsum("bphd,hdm->bphm", z, rearrange(W_O, "(h d) m -> h d m", h=z.shape[2]))


def _ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Ask in front of a block, and where gradients go through it again, behind it on the way back."""
    if (ask := asked()) is not None:
        ask()
    stream = first_input(args, kwargs)
    if stream is not None and stream.requires_grad:
        stream.register_hook(lambda grad: ask_within())  # type: ignore[no-untyped-call]


def _stop(*_: Any) -> None:
    raise Stop


@contextmanager
def trained_off(layout: Layout) -> Iterator[None]:
    """Dropout off for the run, and every module's own mode as it was afterwards."""
    training = [module for module in layout.modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
