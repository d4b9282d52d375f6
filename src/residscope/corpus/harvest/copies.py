"""A model in another process: its weights as files, and the same model made of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import HarvestError
from residscope.files import unshared

PROBE = 16  # tokens that a copy of the model is compared on
ALIGNED = 64  # bytes
BUFFERS = "buffers.safetensors"


def _restore(hf: Any, buffers: Mapping[str, Tensor], places: Mapping[str, int]) -> None:
    """Buffers as they were, also those that no state holds; weights where they lay in memory, to a line of the cache.

    A product in float64 is summed in another order where a factor begins elsewhere in its line (measured, MKL 2024.2).
    """
    for name, x in buffers.items():
        module, _, own = name.rpartition(".")
        held = hf.get_submodule(module)._buffers
        held[own] = x.to(held[own].device)
    for name, weight in hf.named_parameters():
        if weight.device.type == "cpu":
            weight.data = _placed(weight.data, places[name])


def _placed(x: Tensor, place: int) -> Tensor:
    """The same values, `place` bytes behind the beginning of a line of the cache."""
    room = torch.empty(x.nbytes + 2 * ALIGNED, dtype=torch.uint8)
    first = (place - room.data_ptr()) % ALIGNED
    copy = room[first : first + x.nbytes].view(x.dtype).view(x.shape)
    return copy.copy_(x)


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without its bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_model(model: Model, folder: Path) -> dict[str, Any]:
    """The model's weights as files, and what it takes to make the same model of them elsewhere: see `open_model`."""
    hf = model.hf
    deepcopy(hf.config).save_pretrained(str(folder))  # which writes into the configuration
    save_file(unshared(hf.state_dict()), str(folder / "model.safetensors"), metadata={"format": "pt"})
    save_file(unshared(dict(hf.named_buffers())), str(folder / BUFFERS))
    ids = torch.linspace(0, model.d_vocab - 1, min(PROBE, model.context, model.d_vocab)).long().tolist()
    last = f"resid_post.{model.n_layers - 1}"
    return {
        "class": [type(hf).__module__, type(hf).__qualname__],
        "attention": getattr(hf.config, "_attn_implementation", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "places": {name: x.data_ptr() % ALIGNED for name, x in hf.named_parameters()},
        "name": model.name,
        "hash": model.hash,
        "ids": ids,
        "values": model.run([ids], [last])[last][0].double().norm(dim=-1).tolist(),
    }


def open_model(folder: Path, told: dict[str, Any]) -> Model:
    """The copy of a model that `save_model` wrote. Raises HarvestError where it does not compute what the model does."""
    module, name = told["class"]
    kind = getattr(import_module(module), name)
    more = {} if told["attention"] is None else {"attn_implementation": told["attention"]}
    with quiet():
        hf = kind.from_pretrained(str(folder), dtype=getattr(torch, told["dtype"]), local_files_only=True, **more)
    hf = hf.to(told["device"]).eval().requires_grad_(False)
    _restore(hf, load_file(str(folder / BUFFERS)), told["places"])
    model = Model(hf, None, name=told["name"], hash=told["hash"], bos=False)
    last = f"resid_post.{model.n_layers - 1}"
    values = model.run([told["ids"]], [last])[last][0].double().norm(dim=-1).cpu()
    wanted = torch.tensor(told["values"], dtype=torch.float64)
    if not torch.allclose(values, wanted, rtol=1e-2 if model.dtype.itemsize < 4 else 1e-4):
        raise HarvestError(
            "a copy of the model in another process computes something else",
            received=f"lengths of the stream {values[:3].tolist()}",
            allowed=f"{wanted[:3].tolist()}",
            fix="harvest in this process: processes=1",
        )
    return model
