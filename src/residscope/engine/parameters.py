"""Parameters as numbers: those in memory, those kept elsewhere until their layer runs, and those that are quantised.

A quantised layer multiplies by kernels of its own, and no matrix in memory is what it multiplies by. Sites, edits, lens,
sweeps and recordings are of the forward pass, and hold. A weight as a matrix, and gradients through it, do not. Weights that
the method leaves as they are (often the unembedding) are read as ever.
"""

from collections.abc import Iterator
from ctypes import c_uint32
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from residscope.errors import NoWeights, QuantisedModel

FIX = "load the model without its quantisation (a full-precision repository, or a dequantised copy)"


def method_of(config: Any) -> str | None:
    """The quantisation a model's configuration names (`torchao`, `bitsandbytes`, `gptq`, `awq` ...); None for none."""
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is None:
        return None
    method = (
        quantisation.get("quant_method")
        if isinstance(quantisation, dict)
        else getattr(quantisation, "quant_method", None)
    )
    return str(getattr(method, "value", method) or type(quantisation).__name__)


def ranks_of(hf: nn.Module) -> int:
    """Over how many processes a model's weights are spread (tensor parallel); 1 for one that is whole in each."""
    meshes = (weight.device_mesh.size() for weight in hf.parameters() if isinstance(weight, DTensor))
    return next(meshes, 1)


def is_plain(module: Any) -> bool:
    """Whether a layer's weight is an ordinary tensor of floating-point numbers."""
    weight: Any = getattr(module, "weight", None)
    return type(weight) in (Tensor, nn.Parameter) and type(weight.data) is Tensor and weight.is_floating_point()


def plain_weight(module: Any) -> Tensor:
    """A layer's weight, to be read as numbers. Raises QuantisedModel, NoWeights."""
    if isinstance(getattr(module, "weight", None), DTensor):
        raise NoWeights(
            "this needs a whole weight, and each process holds a part of it",
            received=f"{type(module).__name__}, spread over {ranks_of(module)} ranks",
            allowed="capturing and edits at the stream's and the branches' sites: they are of the forward pass",
            fix="load the model in one process, with device_map where it is large",
        )
    if not is_plain(module):
        kind = type(getattr(module, "weight", None)).__name__
        raise QuantisedModel(
            "this needs a weight as numbers, and the layer holds it quantised",
            received=f"{type(module).__name__} with {kind}",
            allowed="capturing, the lens, and edits at sites: they are of the forward pass",
            fix=FIX,
        )
    weight = in_memory(module, "weight")
    assert weight is not None
    return weight


def in_memory(module: Any, name: str) -> Tensor | None:
    """A parameter of a module, fetched from where accelerate keeps it if it is offloaded; None for none.

    Raises:
        NoWeights: it is on the meta device, and nothing knows its values.
    """
    parameter = getattr(module, name, None)
    if parameter is None or not parameter.is_meta:
        return None if parameter is None else parameter.detach()
    from accelerate.utils import align_module_device

    with align_module_device(module):
        fetched = getattr(module, name).detach().clone()
    if fetched.is_meta:
        raise NoWeights(
            "a weight of the model is not in memory",
            received=f"the {name} of a {type(module).__name__} on the meta device",
            allowed="models whose weights are loaded, or offloaded by accelerate",
            fix="load it with rs.load(name, device_map=...), or fill its weights first",
        )
    return fetched


def device_of(module: Any) -> torch.device:
    """Where a module computes: where its weight is, or where accelerate brings it. Raises NoWeights."""
    if not module.weight.is_meta:
        return module.weight.device
    hook = getattr(module, "_hf_hook", None)
    for inner in getattr(hook, "hooks", (hook,)):
        if (place := getattr(inner, "execution_device", None)) is not None:
            return torch.device(place)
    in_memory(module, "weight")
    raise AssertionError("accelerate's hook has no device")


def parts_of(weight: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors a weight is made of: itself, all of one spread over ranks, a quantised one's numbers and scales."""
    if isinstance(weight, DTensor):
        yield weight.full_tensor()
        return
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    names, _ = weight.__tensor_flatten__()
    for name in names:
        yield from parts_of(getattr(weight, name))


def kept(hf: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model keeps, by its name in `state_dict`, and the scales that lie on a quantised weight.

    Not asked of `state_dict` itself: bitsandbytes' four-bit layers change their own numbers when they are.
    """
    for path, module in hf.named_modules(remove_duplicate=False):
        passing = module._non_persistent_buffers_set
        own = [*module._parameters.items(), *((n, b) for n, b in module._buffers.items() if n not in passing)]
        for name, tensor in own:
            if tensor is None:
                continue
            yield f"{path}.{name}" if path else name, tensor
            for holder in (tensor, getattr(tensor, "quant_state", None)):
                for scale, value in sorted(getattr(holder, "__dict__", {}).items()):
                    if isinstance(value, Tensor):
                        yield f"{path}.{name}.{scale}", value


class Watch:
    """The versions of a model's weights and buffers, read often and cheaply.

    torch counts what is written in place, but not through `.data`: so a few words of each weight on the CPU are looked at too.
    """

    def __init__(self, hf: nn.Module) -> None:
        self._modules = list(hf.modules())
        self._words: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def version(self) -> tuple[int, ...]:
        """Changes when a weight is replaced or written in place. One that is offloaded comes and goes, which is no change."""
        version: list[int] = []
        for module in self._modules:
            for weight in module._parameters.values():
                if weight is not None:
                    self._add(weight, version)
            if module._buffers and not _moving(module):
                for buffer in module._buffers.values():
                    if buffer is not None:
                        self._add(buffer, version)
        return tuple(version)

    def _add(self, weight: Tensor, version: list[int]) -> None:
        if weight.is_meta:
            return
        weight = weight.to_local() if isinstance(weight, DTensor) else weight
        place = weight.data_ptr()
        version.append(weight._version)
        version.append(place or id(weight))  # quantised: no storage
        key = (place, weight.numel(), weight.dtype)
        words = self._words.get(key)
        if words is None:
            words = self._words[key] = _words(weight, place)
        version += [word.value for word in words]


def _words(weight: Tensor, place: int) -> tuple[Any, ...]:
    """Four words spread over a weight in the CPU's memory, to be read anew each time."""
    count = weight.numel() * weight.element_size() // 4
    if not place or not count or weight.device.type != "cpu" or not weight.is_contiguous():
        return ()
    return tuple(c_uint32.from_address(place + 4 * (count * (2 * i + 1) // 8)) for i in range(4))


def _moving(module: nn.Module) -> bool:
    """Whether a module's buffers are frequencies that its own forward rewrites, as the prompt's length asks."""
    rotary = str(getattr(module, "rope_type", ""))
    return "dynamic" in rotary or "longrope" in rotary
