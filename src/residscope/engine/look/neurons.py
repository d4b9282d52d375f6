"""Neurons: what of a branch that reads each token by itself can be seen; or the router of its experts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from residscope.engine.look.blocks import Branch
from residscope.engine.look.equal import same
from residscope.engine.look.trace import Call, Trace, first_tensor, mine


@dataclass(frozen=True)
class Neurons:
    """The matrices into neurons and out of them; `gate` may be `up` itself: its output is the gate's half and the other's."""

    up: str
    gate: str | None
    down: str
    d_mlp: int
    activation: str


@dataclass(frozen=True)
class Router:
    """The module that picks experts by logits, what runs those, and how many there are."""

    router: str
    experts: str | None
    count: int


def find_neurons(trace: Trace, branch: Branch, inside: list[Call], close: float) -> Neurons | str:
    """The neurons of a branch, or why they cannot be seen."""
    raw = branch.raw.wrote
    length = branch.read.shape[0]
    assert raw is not None
    written = [c for c in inside if c.matrix and c.wrote is not None and c.wrote.shape == raw.shape]
    downs = [c for c in written if same(_rows(c.wrote, length), _rows(raw, length), close)]
    if not downs or downs[0].read is None:
        return "what the branch writes is not one matrix of its neurons"
    down = downs[0]
    post = _rows(down.read, length)
    d_mlp = post.shape[-1]
    before = [c for c in inside if c.matrix and c.ended < down.began and c.wrote is not None]
    reading = [c for c in before if same(_rows(c.read, length), branch.read, close)]
    wide = {c.path: c.wrote.shape[-1] for c in reading if c.wrote is not None}
    alone = [c for c in reading if wide[c.path] == d_mlp]
    if len(alone) == 1 and len(reading) == 1:
        made = alone[0]
        return Neurons(made.path, None, down.path, d_mlp, _activation(trace, made.wrote, None, post, length, close))
    if len(alone) == 2 and len(reading) == 2:
        for up, gate in (alone, alone[::-1]):
            if _linear_in(branch, up, down, lambda out: out * -2, post, close):
                act = _activation(trace, gate.wrote, up.wrote, post, length, close)
                return Neurons(up.path, gate.path, down.path, d_mlp, act)
    if len(reading) == 1 and wide[reading[0].path] == 2 * d_mlp:
        one = reading[0]

        def second(out: Tensor) -> Tensor:
            first, last = out.chunk(2, -1)
            return torch.cat([first, last * -2], -1)

        if _linear_in(branch, one, down, second, post, close):
            assert one.wrote is not None
            first, last = one.wrote.chunk(2, -1)
            return Neurons(one.path, one.path, down.path, d_mlp, _activation(trace, first, last, post, length, close))
    return "no one or two matrices of what the branch reads give its neurons"


def _rows(value: Tensor | None, length: int) -> Tensor:
    return torch.zeros(0) if value is None else value.reshape(length, -1).double()


def _linear_in(branch: Branch, up: Call, down: Call, change: Any, post: Tensor, close: float) -> bool:
    """Whether the neurons are -2 times what they were, where a part of what makes them is."""
    seen: list[Tensor] = []

    def changed(module: nn.Module, args: Any, output: Any) -> Any:
        return change(output)

    def before(module: nn.Module, args: Any) -> None:
        seen.append(_rows(args[0], post.shape[0]))

    handles = [up.module.register_forward_hook(mine(changed)), down.module.register_forward_pre_hook(mine(before))]
    try:
        with torch.no_grad():
            branch.module.module(*branch.module.args, **branch.module.kwargs)
            if not seen:  # the matrices stand in the block itself
                return False
    finally:
        for handle in handles:
            handle.remove()
    return same(seen[0], post * -2, close)


def _activation(trace: Trace, pre: Tensor | None, times: Tensor | None, post: Tensor, length: int, close: float) -> str:
    """The configuration's field that names the nonlinearity, or a name of it."""
    from transformers.activations import ACT2FN

    x, factor = _rows(pre, length), 1.0 if times is None else _rows(times, length)
    config, text = trace.hf.config.to_dict(), trace.hf.config.get_text_config()
    fields = (
        config
        if text is trace.hf.config
        else {value: value for value in text.to_dict().values() if isinstance(value, str)}
    )
    named = {name: value for name, value in fields.items() if isinstance(value, str) and value in ACT2FN}

    def gives(name: str) -> bool:
        try:
            return same(ACT2FN[name](x) * factor, post, close)
        except (TypeError, ValueError, RuntimeError):
            return False

    for field, name in named.items():
        if gives(name):
            return field
    return next(
        (name for name in ("gelu", "silu", "relu", "gelu_pytorch_tanh", "relu2", "sigmoid", "tanh") if gives(name)),
        "act",
    )


class _FirstLinear(TorchFunctionMode):
    """What a module's first linear product gives."""

    def __init__(self) -> None:
        super().__init__()
        self.out: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is functional.linear and self.out is None:
            self.out = out
        return out


def find_router(trace: Trace, branch: Branch, inside: list[Call], close: float) -> Router | str:
    """The router of a branch made of experts, or why none can be seen."""
    length = branch.read.shape[0]
    for call in sorted(inside, key=lambda c: -c.path.count(".")):
        weights = [p for p in call.module.parameters() if p.ndim == 2 and p.shape[-1] == branch.read.shape[-1]]
        if not same(_rows(call.read, length), branch.read, close) or not weights or call.wrote is None:
            continue
        mode = _FirstLinear()
        with torch.no_grad(), mode:
            call.module(*call.args, **call.kwargs)
        if mode.out is None or mode.out.numel() % length or mode.out.shape[-1] != weights[0].shape[0]:
            continue
        count = mode.out.shape[-1]
        if (told := _experts(trace, branch, inside, count)) is not None and _chooses(branch, call):
            return Router(call.path, told[0], count)
    return "no router was found whose logits pick among experts"


def _experts(trace: Trace, branch: Branch, inside: list[Call], count: int) -> tuple[str | None] | None:
    """The module that holds so many experts' weights, where one does; None where nothing is there so many times."""
    many = [c.path for c in inside if any(p.ndim == 3 and len(p) == count for p in c.module.parameters(False))]
    if many:
        return (many[0],)
    listed = any(
        isinstance(module, nn.ModuleList) and len(module) == count for module in branch.module.module.modules()
    )
    return (None,) if listed or count in _numbers_of_experts(trace.hf.config.to_dict()) else None


def _numbers_of_experts(values: dict[str, Any]) -> set[int]:
    """The whole numbers in a configuration's fields that name experts, also in what it holds."""
    found: set[int] = set()
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _numbers_of_experts(value)
        elif isinstance(value, int) and "expert" in name:
            found.add(value)
    return found


def _chooses(branch: Branch, call: Call) -> bool:
    """Whether other logits of a module change which experts run, and so what the branch writes."""

    def other(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (args[0].flip(0) if args[0].ndim == 2 else args[0].flip(1), *args[1:]), kwargs

    if not call.args:
        return False
    handle = call.module.register_forward_pre_hook(mine(other), with_kwargs=True)
    try:
        with torch.no_grad():
            out = first_tensor(branch.module.module(*branch.module.args, **branch.module.kwargs))
    finally:
        handle.remove()
    before = branch.module.wrote
    return out is not None and before is not None and not torch.allclose(out, before)
