"""Places: how a module's input, output or divisor becomes a site, for the length of one pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from residscope.engine.attention import active
from residscope.engine.layout import Norm
from residscope.engine.passes import Pass
from residscope.engine.structure import OURS
from residscope.model.sites import Site


class Places:
    """Hooks and stand-in forwards of one pass on modules, each acting in that pass alone; `undo` takes them all away."""

    def __init__(self, now: Pass) -> None:
        self.now = now
        self._handles: list[Any] = []
        self._replaced: list[tuple[nn.Module, Any]] = []

    def undo(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module, own in reversed(self._replaced):
            if own is None:
                del module.forward
            else:
                module.forward = own

    def _on(
        self, module: nn.Module, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
    ) -> None:
        """A hook that acts in this pass alone: another thread's call of the same module does not see it."""
        now = self.now
        if before is not None:

            def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return before(args, kwargs) if active.get() is now else None

            pre_hook.__dict__[OURS] = None
            self._handles.append(module.register_forward_pre_hook(pre_hook, with_kwargs=True))
        if after is not None:

            def post_hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                return after(args, output) if active.get() is now else None

            post_hook.__dict__[OURS] = None
            self._handles.append(module.register_forward_hook(post_hook))

    def _around(self, module: nn.Module, run: Callable[..., Any], *, again: bool = False) -> None:
        """Let `run(stock forward, ...)` stand for a module's forward, in this pass alone (`again`: and second readings)."""
        stock, now = module.forward, self.now
        own = module.__dict__.get("forward")
        self._replaced.append((module, own))

        def forward(*args: Any, **kwargs: Any) -> Any:
            here = active.get()
            mine = here is now or (again and here is not None and here.rereads is now)
            return run(stock, *args, **kwargs) if mine else stock(*args, **kwargs)

        forward.__dict__[OURS] = own
        module.forward = forward

    def _see(self, site: Site, value: Tensor) -> Tensor:
        """Offer the pass a value at a site, also where a block folds its positions into the batch."""
        whole = value if value.ndim > 2 else value.view(-1, self.now.length, *value.shape[1:])
        new = self.now.visit(site, whole)
        if new is whole:
            return value
        return new.contiguous() if value.ndim > 2 else new.flatten(0, 1)  # what comes after may ask for a view of it

    def _input(self, module: nn.Module | None, site: Site) -> None:
        """Make a module's own input a site."""
        if module is None or not self.now.touches(site):
            return

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0] if args else kwargs["hidden_states"]
            return with_input(args, kwargs, self._see(site, value), value)

        self._on(module, before=before)

    def _output(self, module: nn.Module | None, site: Site, *, times: float = 1.0, overwritten: bool = False) -> None:
        """Make a module's output (or the first of its outputs), `times` a constant of the model's, a site.

        `overwritten`: the block writes into that tensor afterwards, so it gets one of its own.
        """
        if module is None or not self.now.touches(site):
            return

        def after(args: tuple[Any, ...], output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            value = value if times == 1 else value * times
            new = self._see(site, value)
            if overwritten:
                return with_output(output, new.clone())
            return None if new is value else with_output(output, new if times == 1 else new / times)

        self._on(module, after=after)

    def _halves(self, module: nn.Module, *sites: Site) -> None:
        """Make the two halves of a module's output two sites."""
        if not any(map(self.now.touches, sites)):
            return

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = output.chunk(2, -1)
            new = [self._see(site, half) for site, half in zip(sites, old, strict=True)]
            return None if new[0] is old[0] and new[1] is old[1] else torch.cat(new, -1)

        self._on(module, after=after)

    def _scale(self, norm: Norm | None, site: Site) -> None:
        """Make a norm's divisor a site. An edit rescales the norm's output, since no module holds the divisor."""
        if norm is None or not self.now.touches(site):
            return

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = norm.sigma(args[0])
            new = self._see(site, old)
            return None if new is old else norm.rescale(output, old, new, args[0])

        self._on(norm.module, after=after)

    def _head_scale(self, norm: Norm | None, site: Site) -> None:
        """Make the divisor of a norm of queries or keys a site, by head whatever way round the norm has them."""
        if norm is None or not self.now.touches(site):
            return
        axes, d_head = self.now.layout.family.block.qk_norm_axes, self.now.layout.sizes.d_head

        def after(args: tuple[Any, ...], output: Tensor) -> Any:
            old = norm.sigma(args[0])
            if axes == "pos all":
                output = output.view(*output.shape[:-1], -1, d_head)
                old = old.unsqueeze(2).expand(*output.shape[:-1], 1)
            heads_first = axes == "head pos d_head"
            value = old.transpose(1, 2) if heads_first else old
            new = self.now.visit(site, value)
            if new is value:
                return None
            out = norm.rescale(output, old, new.transpose(1, 2) if heads_first else new)
            return out.flatten(2) if axes == "pos all" else out

        self._on(norm.module, after=after)


def with_input(args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor, old: Tensor) -> Any:
    if new is old:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def with_output(output: Any, new: Tensor) -> Any:
    return (new, *output[1:]) if isinstance(output, tuple) else new
