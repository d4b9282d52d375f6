"""A trace: what every module of a model read and wrote in one short forward, and each attention that was computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import inf
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from residscope.engine.attention import watched
from residscope.engine.layout import configs_of
from residscope.engine.places import first_input
from residscope.engine.stock import call as stock_call
from residscope.engine.structure import OURS, uncompiled

LENGTH = 7  # tokens; a prime, so that no axis of a model is as long by chance
_SOFTMAX = {functional.softmax, torch.softmax, Tensor.softmax}
_PRODUCT = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
_ADDED = {torch.baddbmm, Tensor.baddbmm}


@dataclass
class Call:
    """One call of a module. read, wrote: its first tensor in and out, as they were then; `out` is the tensor itself."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    read: Tensor | None
    began: int
    ended: int = 0
    wrote: Tensor | None = None
    out: Tensor | None = None

    @property
    def overwritten(self) -> bool:
        """Whether somebody wrote into its output afterwards."""
        return self.wrote is not None and self.out is not None and not torch.equal(self.wrote, self.out)

    @property
    def weights(self) -> int:
        """How many tensors it has, packed ones too."""
        return sum(1 for _ in self.module.parameters()) + sum(1 for _ in self.module.buffers())

    @property
    def matrix(self) -> bool:
        """Whether it is one matrix, which may be packed: in whole numbers and scales that are no `weight`, or in one that is."""
        if isinstance(self.module, nn.Embedding) or any(True for _ in self.module.children()):
            return False
        weight = getattr(self.module, "weight", None)
        own = [weight] if isinstance(weight, Tensor) else [*self.module.parameters(), *self.module.buffers()]
        return any(tensor.ndim == 2 for tensor in own)


@dataclass
class Attended:
    """One attention: queries, keys, values and mix as [head pos d], by transformers' interface or by two products."""

    module: nn.Module
    way: str
    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    wide: bool = True
    sloped: bool = False


@dataclass
class Trace:
    """Everything one forward showed. calls: by path; most modules have one."""

    hf: Any
    ids: Tensor
    calls: dict[str, list[Call]] = field(default_factory=dict)
    attended: list[Attended] = field(default_factory=list)
    logits: Tensor | None = None

    def once(self) -> Iterator[Call]:
        """The calls of the modules that were called once."""
        return (calls[0] for calls in self.calls.values() if len(calls) == 1)

    def alone(self, *, begin: int = -1, end: float = inf) -> list[Call]:
        """The calls between two moments of the modules that were called once there, in the order that they ended."""
        within = [[c for c in calls if begin < c.began and c.ended < end] for calls in self.calls.values()]
        return sorted((calls[0] for calls in within if len(calls) == 1), key=lambda c: c.ended)

    def call(self, path: str) -> Call | None:
        calls = self.calls.get(path, ())
        return calls[0] if len(calls) == 1 else None

    def inside(self, path: str) -> list[Call]:
        """The calls within a module, in the order that they ended; modules called more than once left out."""
        return sorted((c for c in self.once() if c.path.startswith(f"{path}.")), key=lambda c: c.ended)


def trace(hf: Any, ids: Tensor) -> Trace:
    """Run the model over `ids` and keep what its modules read and wrote. The model is as it was afterwards.

    Attention is watched through transformers' interface; where the model does not ask that, or does not bear another name
    in its configuration, the products of its own modules are watched alone.
    """
    with torch.no_grad(), uncompiled():
        stock = stock_call(hf, ids).logits
        seen = _traced(hf, ids, interface=True)
        told = seen.logits is not None and torch.allclose(
            seen.logits, stock, rtol=1e-3, atol=1e-3 * float(stock.abs().max())
        )
        if not told or not any(one.way == "interface" for one in seen.attended):
            seen = _traced(hf, ids, interface=False)
    return seen


def _traced(hf: Any, ids: Tensor, *, interface: bool) -> Trace:
    seen = Trace(hf, ids)
    watch = _Watch(seen)
    with watch.hooks(hf), watch.through(hf, interface), _Products(watch):
        seen.logits = stock_call(hf, ids).logits.detach()
    return seen


def mine(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for calls by this thread alone, and known as ours: other threads' calls of the model are as they were."""
    thread = get_ident()

    def guarded(*args: Any) -> Any:
        return hook(*args) if get_ident() == thread else None

    guarded.__dict__[OURS] = None
    return guarded


class _Watch:
    """The hooks of a trace, and which module is running."""

    def __init__(self, seen: Trace) -> None:
        self.seen, self.clock = seen, 0
        self.running: list[nn.Module] = []
        self.by_interface: set[int] = set()
        self.thread = get_ident()

    @contextmanager
    def hooks(self, root: nn.Module) -> Iterator[None]:
        handles = []
        try:
            for path, module in root.named_modules():
                if path:
                    before, after = self._hooks(path)
                    handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                    handles.append(module.register_forward_hook(after))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def through(self, hf: Any, interface: bool) -> Any:
        """Transformers' interface watched, or left alone."""
        return watched(configs_of(hf), self.attention) if interface else nullcontext()

    def _hooks(self, path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        open_calls: list[Call] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.clock += 1
            self.running.append(module)
            read = first_input(args, kwargs)
            call = Call(path, module, args, kwargs, None if read is None else read.detach().clone(), self.clock)
            open_calls.append(call)
            self.seen.calls.setdefault(path, []).append(call)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.clock += 1
            self.running.pop()
            call = open_calls.pop()
            out = first_tensor(output)
            call.ended, call.out = self.clock, out
            call.wrote = None if out is None else out.detach().clone()

        return mine(before), mine(after)

    def attention(self, module: Any, q: Tensor, k: Tensor, v: Tensor, out: Tensor, named: dict[str, Any]) -> None:
        """What transformers' interface was asked, and what it answered ([batch pos head d])."""
        if get_ident() != self.thread:
            return
        self.by_interface.add(id(module))
        self.seen.attended = [a for a in self.seen.attended if a.module is not module or a.way == "interface"]
        self.seen.attended.append(
            Attended(
                module, "interface", q[0].clone(), k[0].clone(), v[0].clone(), out[0].transpose(0, 1).clone(),
                named.get("scaling"), named.get("softcap"), named.get("s_aux"),
            )
        )  # fmt: skip


class _Products(TorchFunctionMode):
    """Attention as modules compute it by themselves: one batched product, a softmax, another product; or a fused kernel."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch
        self.open: dict[int, dict[str, Any]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        module = self.watch.running[-1] if self.watch.running else None
        if module is None or id(module) in self.watch.by_interface:
            return out
        here = self.open.setdefault(id(module), {})
        if func is functional.scaled_dot_product_attention and args and args[0].ndim == 4:
            named = kwargs or {}
            mask = named.get("attn_mask", args[3] if len(args) > 3 else None)
            self._attended(module, args[0], args[1], args[2], out, True, _slopes(mask), named.get("scale"))
        elif func in _SOFTMAX:
            here["softmax"] = args[0]
            here["wide"] = widened(args[0], kwargs or {})
        elif func in _PRODUCT and isinstance(args[1], Tensor) and args[0].ndim > 2 and args[1].ndim > 2:
            self._product(module, here, args[0], args[1], out)
        elif func in _ADDED:
            q, k = (kwargs or {}).get("batch1"), (kwargs or {}).get("batch2")
            if q is not None and k is not None:
                self._product(module, here, q, k, out)
        return out

    def _product(self, module: nn.Module, here: dict[str, Any], left: Tensor, right: Tensor, out: Tensor) -> None:
        if "softmax" not in here:
            here["q"], here["k"] = left, right.transpose(-1, -2)
            here["products"] = here.get("products", 0) + 1
        elif "q" in here and left.shape[-2:] == here["softmax"].shape[-2:]:
            if here["products"] == 1:
                factor, sloped = scored(here["softmax"], here["q"], here["k"])
                self._attended(module, here["q"], here["k"], right, out, here["wide"], sloped, factor)
            self.open.pop(id(module))

    def _attended(
        self,
        module: nn.Module,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        z: Tensor,
        wide: bool,
        sloped: bool,
        scale: float | None,
    ) -> None:
        q, k, v, z = (x[0] if x.ndim == 4 else x for x in (q, k, v, z))
        if q.ndim == 3 and q.shape[1] == self.watch.seen.ids.shape[1]:
            q, k, v, z = (x.detach().clone() for x in (q, k, v, z))
            self.watch.seen.attended.append(Attended(module, "products", q, k, v, z, scale, wide=wide, sloped=sloped))


def scored(scores: Tensor, q: Tensor, k: Tensor) -> tuple[float, bool]:
    """The factor of q k^T in scores, and whether a slope over the keys is added to it: read off the last query of each head."""
    product = (q @ k.transpose(-1, -2)).reshape(-1, *scores.shape[-2:]).double()[:, -1]
    seen = scores.reshape(-1, *scores.shape[-2:]).double()[:, -1]
    kept = seen > -1e4
    alone = float((product[kept] @ seen[kept]) / (product[kept] @ product[kept]).clamp_min(1e-30))
    if (seen[kept] - alone * product[kept]).norm() <= 1e-3 * seen[kept].norm():
        return alone, False
    places = torch.arange(seen.shape[-1], device=seen.device, dtype=seen.dtype)
    columns = torch.stack([product, places.expand_as(product), torch.ones_like(product)], -1)
    return float(torch.linalg.lstsq(columns, seen[..., None]).solution[:, 0].median()), True


def _slopes(mask: Tensor | None) -> bool:
    """Whether a mask does more than to keep keys out."""
    return mask is not None and mask.is_floating_point() and bool(((mask != 0) & (mask > -1e4)).any())


def widened(scores: Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether a softmax is in float32 at least."""
    return scores.dtype.itemsize >= 4 or kwargs.get("dtype") == torch.float32


class SoftmaxDtype(TorchFunctionMode):
    """Whether what runs under it takes its softmax in float32 at least; None: it takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.wide: bool | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SOFTMAX:
            self.wide = torch.float32 in (args[0].dtype, (kwargs or {}).get("dtype"))
        return func(*args, **(kwargs or {}))


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first of its outputs, where that is a tensor of floating-point numbers."""
    value = output[0] if isinstance(output, tuple | list) and output else output
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def again(
    hf: Any, call: Call, way: str, *, scaled: nn.Module | None = None, read: Tensor | None = None
) -> Attended | None:
    """The attention of a module called once more as it was, one module's output doubled or another value read."""
    old = first_input(call.args, call.kwargs)

    def put(value: Any) -> Any:
        return read if read is not None and value is old else value

    def double(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return output * 2

    seen = Trace(hf, call.read[..., 0] if call.read is not None and call.read.ndim == 3 else torch.zeros(1, LENGTH))
    watch = _Watch(seen)
    watch.running.append(call.module)
    handle = None if scaled is None else scaled.register_forward_hook(mine(double))
    try:
        with (
            torch.no_grad(),
            uncompiled(),
            watch.hooks(call.module),
            watch.through(hf, way == "interface"),
            _Products(watch),
        ):
            call.module(*map(put, call.args), **{name: put(value) for name, value in call.kwargs.items()})
    finally:
        if handle is not None:
            handle.remove()
    return next((one for one in seen.attended if one.way == way), None)
