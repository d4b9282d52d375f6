"""Silent matrices given a voice: a matrix of zeros hides its branch, and all that the branch is made of, from every forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from residscope.engine.look.trace import mine


@contextmanager
def voiced(hf: nn.Module) -> Iterator[None]:
    """Let each matrix of zeros give x R instead, R random, to this thread alone; the weights are not touched.

    So a block whose W_O or W_out was zeroed, by hand or by the one who initialised it, is described as any other of its kind.
    The hooks go before any other, so that whatever watches sees what it gives now.
    """
    handles = []
    try:
        for path, module in hf.named_modules():
            if (width := _silent(module)) is not None:
                handles.append(module.register_forward_hook(_voice(path, width), prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silent(module: nn.Module) -> int | None:
    """How wide the output of a matrix of zeros is (0: as wide as what is read, of experts' matrices); None of other modules."""
    if isinstance(module, nn.Embedding) or any(True for child in module.children() for _ in child.parameters()):
        return None
    for name, weight in module.named_parameters(recurse=False):
        if weight.ndim not in (2, 3) or not weight.is_floating_point() or "bias" in name:
            continue
        if weight.is_meta or not _zeros(weight):
            continue
        return 0 if weight.ndim == 3 else weight.shape[0 if isinstance(module, nn.Linear) else 1]
    return None


def _zeros(weight: Tensor) -> bool:
    try:
        return not bool(weight.any())
    except (
        NotImplementedError
    ):  # numbers that a library keeps in a form of its own, which asks what it is only of those it knows
        return False


def _voice(path: str, width: int) -> Any:
    def give(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not isinstance(output, Tensor):
            return None
        if output.shape != (*x.shape[:-1], width or x.shape[-1]):
            return None
        generator = torch.Generator().manual_seed(crc32(path.encode()))
        matrix = torch.randn(x.shape[-1], output.shape[-1], generator=generator) / x.shape[-1] ** 0.5
        chosen = [other.to(x) for other in args[1:] if isinstance(other, Tensor) and other.shape[:-1] == x.shape[:-1]]
        made = x @ matrix.to(x)
        for other in chosen:  # which experts, and how much of each
            made = made * (1 + (other * torch.arange(1, other.shape[-1] + 1).to(x)).sum(-1, keepdim=True))
        return output + made

    return mine(give)
