"""Structure: what decides a model's numbers beside its weights, and whether that is still as it was.

Modules, their own settings, hooks and forwards that somebody put on them, code compiled for them, and the configuration.
A model may be changed between two runs: a layer replaced, a hook registered, an adapter added, `hf.compile()` called.
"""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from inspect import unwrap
from typing import Any

from torch import nn

OURS = "_residscope_stock"
"""What a hook or a forward of a run's own carries: the module's own forward before it, or None."""
_PLAIN = (int, float, bool, str, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PASSING = {"training", "max_seq_len_cached"}  # what runs set, ours or the model's own


class Structure:
    """A model's modules and settings as they were when this was made."""

    def __init__(self, hf: nn.Module) -> None:
        self.hf = hf
        self._names = {module: name for name, module in hf.named_modules()}
        self._modules = [_Seen(module) for module in self._names]
        self._forwards = {cls: cls.forward for cls in {type(module) for module in self._names}}
        self._everywhere = _everywhere()
        self._config = deepcopy(_settings(hf))

    def unchanged(self) -> bool:
        """Whether the model is as it was."""
        return (
            all(seen.unchanged() for seen in self._modules)
            and all(cls.forward is forward for cls, forward in self._forwards.items())
            and _everywhere() == self._everywhere
            and _settings(self.hf) == self._config
        )

    def attached(self) -> list[str]:
        """What somebody put on the modules, in words: hooks, forwards, compiled code."""
        return ["a forward hook on every module" for _ in self._everywhere] + [
            f"{what} on {self._names[seen.module] or type(seen.module).__name__}"
            for seen in self._modules
            for what in seen.attached()
        ]

    def digest(self) -> str:
        """A hash of the classes, of the code of their methods, and of their settings: equal in every process."""
        digest = hashlib.sha256()
        for seen in self._modules:
            digest.update(f"{type(seen.module).__module__}.{type(seen.module).__qualname__} {seen.settings}\n".encode())
        for cls in sorted(self._forwards, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}"):
            digest.update(_written(self._forwards[cls]))
            for name, own in sorted(vars(cls).items()):
                digest.update(name.encode() + _written(own) if callable(own) else b"")
        return digest.hexdigest()


def _written(function: Any) -> bytes:
    """A function's code: its steps, and the names and plain constants in them."""
    code = getattr(unwrap(function), "__code__", None)
    if code is None:
        return b""
    return code.co_code + repr((code.co_names, [x for x in code.co_consts if type(x) in _PLAIN])).encode()


class _Seen:
    """One module: its parts, its plain settings, and what was put on it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self._class = module, type(module)
        own = module.__dict__
        self._own, self._parts = own, own["_modules"]
        self._children = tuple(self._parts.values())
        self._keys = tuple(
            key for key, value in own.items() if type(value) in _PLAIN and key not in _PASSING and key[:2] != "__"
        )
        self._values = [own[key] for key in self._keys]
        self._hooks = self._put_on()

    @property
    def settings(self) -> str:
        return repr(
            [(key, value) for key, value in zip(self._keys, self._values, strict=True) if key != "_compiled_call_impl"]
        )

    def unchanged(self) -> bool:
        own = self._own
        children = self._parts.values()
        return (
            type(self.module) is self._class
            and len(children) == len(self._children)
            and all(a is b for a, b in zip(children, self._children, strict=True))
            and [own.get(key) for key in self._keys] == self._values
            and self._put_on() == self._hooks
        )

    def attached(self) -> list[str]:
        hooks, forward, compiled = self._hooks
        placed = hasattr(self.module, "_hf_hook")  # accelerate's, which brings weights and moves nothing else
        attached = ["a forward hook"] * len(hooks) + (["another forward"] if forward is not None and not placed else [])
        return attached + (["compiled code"] if compiled is not None else [])

    def _put_on(self) -> tuple[tuple[Any, ...], Any, Any]:
        own = self._own
        hooks = tuple(h for name in _HOOKS if own[name] for h in own[name].values() if not hasattr(h, OURS))
        forward = own.get("forward")
        while hasattr(forward, OURS):
            forward = getattr(forward, OURS)
        return hooks, forward, own.get("_compiled_call_impl")


def _everywhere() -> tuple[Any, ...]:
    """Hooks on every module of the process."""
    from torch.nn.modules import module

    return (*module._global_forward_pre_hooks.values(), *module._global_forward_hooks.values())


def _settings(hf: Any) -> dict[str, Any]:
    """The configuration's values, but for the attention's implementation, which runs switch."""
    own = getattr(hf, "config", None)
    return _values(own) if own is not None else {}


def _values(config: Any) -> dict[str, Any]:
    """A configuration's values; those of one that it holds (a text model's) as a table, since it may refuse to be compared."""
    return {
        key: _values(value) if hasattr(type(value), "to_diff_dict") else value
        for key, value in vars(config).items()
        if not key.startswith("_attn")
    }


def original(hf: Any) -> Any:
    """The module itself, where `torch.compile(module)` was given."""
    return getattr(hf, "_orig_mod", hf)


def has_adapters(hf: nn.Module) -> bool:
    """Whether a part of the model is an adapter of PEFT's, beside the weights and not merged into them."""
    return any(cls.__module__.split(".")[0] == "peft" for cls in {type(module) for module in hf.modules()})


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled modules and forwards as the Python they were made from: hooks are not seen inside compiled code."""
    if "torch._dynamo" not in sys.modules:  # nothing in this process was compiled
        yield
        return
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield
