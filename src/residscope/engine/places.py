"""Places: how a module's input, output or divisor becomes a site, for the length of one pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        self._when: Callable[[], bool] | None = None
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

    @contextmanager
    def _only(self, when: Callable[[], bool] | None) -> Iterator[None]:
        """Hooks registered within act only when this is so, as they are called."""
        self._when, before = when, self._when
        try:
            yield
        finally:
            self._when = before

    def _on(
        self, module: nn.Module, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
    ) -> None:
        """A hook that acts in this pass alone: another thread's call of the same module does not see it."""
        now, when = self.now, self._when

        def acts() -> bool:
            return active.get() is now and (when is None or when())

        if before is not None:

            def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return before(args, kwargs) if acts() else None

            pre_hook.__dict__[OURS] = None
            self._handles.append(module.register_forward_pre_hook(pre_hook, with_kwargs=True))
        if after is not None:

            def post_hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
                return after(args, output) if acts() else None

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

    def _input(self, module: nn.Module | None, site: Site, *, beside: nn.Module | None = None) -> None:
        """Make a module's own input a site; `beside` has run by then, or runs afterwards, and reads the same."""
        if module is None or not self.now.touches(site):
            return
        if beside is not None:
            self._shared_input((beside, module), site)
            return

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = first_input(args, kwargs)
            assert value is not None
            return with_input(args, kwargs, self._see(site, value), value)

        self._on(module, before=before)

    def _shared_input(self, modules: Sequence[nn.Module], site: Site) -> None:
        """Make what several modules read, one after another, a site: the first shows it, and all get what it became."""
        became: list[Tensor] = []

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = first_input(args, kwargs)
            assert value is not None
            if not became:
                became.append(self._see(site, value))
            new = became[0] if became[0].shape == value.shape else became[0].view_as(value)
            return with_input(args, kwargs, new, value)

        for module in modules:
            self._on(module, before=before)

    def _output(
        self,
        module: nn.Module | None,
        site: Site,
        *,
        times: float = 1.0,
        overwritten: bool = False,
        beside: nn.Module | None = None,
    ) -> None:
        """Make a module's output (or the first of its outputs), `times` a constant of the model's, a site.

        `overwritten`: the block writes into that tensor afterwards, so it gets one of its own. `beside`: a module that has run
        by then, whose output belongs to the site as well.
        """
        if module is None or not self.now.touches(site):
            return
        besides: list[Tensor] = []

        def seen(args: tuple[Any, ...], output: Any) -> None:
            besides.append(output[0] if isinstance(output, tuple) else output)

        def after(args: tuple[Any, ...], output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            value = own + besides[-1].view_as(own) if besides else own
            value = value if times == 1 else value * times
            new = self._see(site, value)
            if overwritten:
                return with_output(output, new.clone())
            if new is value:
                return None
            whole = new if times == 1 else new / times
            return with_output(output, whole - besides[-1].view_as(own) if besides else whole)

        if beside is not None:
            self._on(beside, after=seen)
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
        assert site.layer is not None
        axes, d_head = self.now.layout.blocks[site.layer].qk_axes, self.now.layout.sizes.at(site.layer).d_qk

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


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a module reads: its first argument, by place or by name, that is a tensor of floating-point numbers."""
    every = (*args, *([kwargs["hidden_states"]] if "hidden_states" in kwargs else ()), *kwargs.values())
    return next((x for x in every if isinstance(x, Tensor) and x.is_floating_point()), None)


def with_input(args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor, old: Tensor) -> Any:
    if new is old:
        return None
    return tuple(new if x is old else x for x in args), {k: new if x is old else x for k, x in kwargs.items()}


def with_output(output: Any, new: Tensor) -> Any:
    return (new, *output[1:]) if isinstance(output, tuple) else new
