"""Norms known by what they do: y = (x - mean x) / sigma * g + b, or y = x / sigma * g."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residscope.engine.look.equal import same
from residscope.engine.parameters import in_memory


@dataclass(frozen=True)
class Found:
    """A norm's kind, what its module calls eps (or the number), and what is added to its weight."""

    kind: str
    eps: str | float
    offset: float

    @property
    def told(self) -> str:
        return f"{self.kind}, eps {self.eps}, gain weight{f' + {self.offset:g}' if self.offset else ''}"


def as_norm(module: nn.Module, x: Tensor | None, y: Tensor | None, close: float) -> Found | None:
    """What norm a module is, if it made y of x as one: [pos d] both. None for what is no norm."""
    if x is None or y is None or x.shape != y.shape or any(True for _ in module.children()):
        return None
    weight, bias = in_memory(module, "weight"), in_memory(module, "bias")
    if weight is not None and weight.numel() != x.shape[-1]:
        return None
    shift = 0.0 if bias is None else bias.double()
    named: list[tuple[float, Found]] = []
    unnamed: list[tuple[float, Found]] = []
    for kind in ("rms", "layer"):
        core = x - x.mean(-1, keepdim=True) if kind == "layer" else x
        for name, eps in _epsilons(module):
            unit = core / (core.pow(2).mean(-1, keepdim=True) + eps).sqrt()
            for offset in (0.0, 1.0) if weight is not None else (0.0,):
                gain = 1.0 if weight is None else weight.double().reshape(-1) + offset
                made = unit * gain + shift
                if not same(made, y, close):
                    continue
                fits = named if isinstance(name, str) else unnamed
                fits.append((float((made - y).norm()), Found(kind, name, offset)))
    return min(named or unnamed, key=lambda one: one[0])[1] if named or unnamed else None


def _epsilons(module: nn.Module) -> Iterator[tuple[str | float, float]]:
    """The small numbers a module has, those called eps first; and none at all."""
    own = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, float) and (0 <= value <= 1e-2 or ("eps" in name and value > 0))
    }
    yield from sorted(own.items(), key=lambda item: "eps" not in item[0])
    for value in (1e-6, 1e-5, 1e-12, float(torch.finfo(torch.float32).eps)):
        yield value, value


def epsilon(module: nn.Module, eps: str | float) -> float:
    return eps if isinstance(eps, float) else float(getattr(module, eps))
