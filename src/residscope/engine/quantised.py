"""Quantised weights: what runs through them is the model's own; what would read them as numbers is refused.

A quantised layer multiplies by kernels of its own, and no matrix in memory is what it multiplies by. Sites, edits, lens,
sweeps and recordings are of the forward pass, and hold. A weight as a matrix, and gradients through it, do not. Weights that
the method leaves as they are (often the unembedding) are read as ever.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from residscope.errors import NoWeights, QuantisedModel

FIX = "load the model without its quantisation (a full-precision repository, or a dequantised copy)"


def method_of(config: Any) -> str | None:
    """The quantisation a model's configuration names (`torchao`, `bitsandbytes`, `gptq`, `awq` ...); None for none."""
    told = getattr(config, "quantization_config", None)
    if told is None:
        return None
    method = told.get("quant_method") if isinstance(told, dict) else getattr(told, "quant_method", None)
    return str(getattr(method, "value", method) or type(told).__name__)


def is_plain(module: Any) -> bool:
    """Whether a layer's weight is an ordinary tensor of floating-point numbers."""
    weight: Any = getattr(module, "weight", None)
    return type(weight) in (Tensor, nn.Parameter) and type(weight.data) is Tensor and weight.is_floating_point()


def plain_weight(module: Any) -> Tensor:
    """A layer's weight, to be read as numbers. Raises QuantisedModel, NoWeights."""
    if not is_plain(module):
        held = type(getattr(module, "weight", None)).__name__
        raise QuantisedModel(
            "this needs a weight as numbers, and the layer holds it quantised",
            received=f"{type(module).__name__} with {held}",
            allowed="capturing, the lens, and edits at sites: they are of the forward pass",
            fix=FIX,
        )
    if module.weight.is_meta:
        raise NoWeights(
            "this needs a weight that is not in memory now",
            received=f"{type(module).__name__} on the meta device",
            allowed="capturing and edits at sites: the layer fetches its weight when it runs",
            fix="load the model without offloading to read its weights",
        )
    return module.weight.detach()


def parts_of(weight: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors a weight is made of: itself, or a quantised one's numbers and scales."""
    if not hasattr(weight, "__tensor_flatten__"):
        yield weight
        return
    names, _ = weight.__tensor_flatten__()
    for name in names:
        yield from parts_of(getattr(weight, name))


def place_of(weight: Tensor) -> int:
    """Where a weight is, to tell whether it was replaced. A quantised one has no storage; an offloaded one comes and goes."""
    return 0 if weight.is_meta else weight.data_ptr() or id(weight)
