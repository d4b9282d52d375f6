"""A tuned lens read from files: of the package `tuned-lens`, or saved here."""

from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import DamagedFile, FileNotThere
from residscope.incoming import Unreadable, content, mapping, parsed, path_of, torch_values
from residscope.methods._lib.tuned import TunedLens
from residscope.progress import Cancel, Progress, stage

CONFIG, PARAMS, LINEAR = "config.json", "params.pt", "linear_tuned_lens"
ALLOWED = f"a folder with {CONFIG} and {PARAMS} as tuned-lens saves one, or a .safetensors file that a tuned lens was saved to"


@method("tuned-lens-load", title="Load a tuned lens", group="reading")
def load_tuned_lens(
    model: Model,
    source: Annotated[str, fields.place(title="folder of tuned-lens, or a saved file")],
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> TunedLens:
    """A tuned lens from a folder of the package `tuned-lens`, or from a file that one was saved to here.

    Of the folder, `config.json` says the model and its sizes, and `params.pt` is a state dict of a linear translator for the
    stream before each block, `LAYER.weight` and `LAYER.bias`, whose output is added to the stream. It is opened by torch's reader
    of plain tensors alone (`weights_only`), which runs no code.

        lens = rs.load_tuned_lens(model, "lens/gpt2")

    Raises:
        FileNotThere: no such folder or file. DamagedFile: it is no tuned lens, or one of another kind. WrongModel: it is of a
        model of other sizes. Cancelled.
    """
    path = path_of(source)
    with stage("Reading the lens", 2, progress, cancel) as tell:
        if path.is_file():
            lens = TunedLens.load(path)
        elif (path / CONFIG).is_file() and (path / PARAMS).is_file():
            lens = _of_folder(path)
        else:
            raise FileNotThere("there is no tuned lens", received=str(source), allowed=ALLOWED)
        tell(1)
        lens.check(model)
    return lens


def _of_folder(path: Path) -> TunedLens:
    try:
        config = mapping(parsed(content(path / CONFIG), constants=True), CONFIG)
        layers, d, kind = config["num_hidden_layers"], config["d_model"], config.get("lens_type", LINEAR)
        if kind != LINEAR:
            raise ValueError(f"its lens_type is {kind!r}, not {LINEAR!r}")
        weight, bias = _translators(_state(path / PARAMS), int(layers), int(d))
    except (ArithmeticError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedFile(f"{path.name} holds no linear tuned lens", received=reason[:300], allowed=ALLOWED) from error
    told = {name: config[name] for name in ("base_model_name_or_path", "base_model_revision") if config.get(name)}
    return TunedLens(weight, bias, provenance={"read from": path.name, **told})


def _state(path: Path) -> dict[str, Any]:
    try:
        state = torch_values(path)
    except Unreadable as error:
        raise ValueError(f"{path.name} is no state dict: {error}") from error
    if not isinstance(state, dict):
        raise TypeError(f"{path.name} holds a {type(state).__name__}, not tensors by name")
    return state


def _translators(state: dict[str, Any], layers: int, d: int) -> tuple[Tensor, Tensor]:
    """The weights and biases of every layer, biases zero where there are none. Raises ValueError, by name."""
    if layers > len(state):
        raise ValueError(f"{layers} layers have more translators than its {len(state)} tensors")
    if strange := sorted({*map(str, state)} - {f"{n}.{part}" for n in range(layers) for part in ("weight", "bias")}):
        raise ValueError(f"{strange[0]!r} is no translator of {layers} layers")
    weights = [_real(state, f"{layer}.weight", (d, d)) for layer in range(layers)]
    if any(name.endswith("bias") for name in state):
        return torch.stack(weights), torch.stack([_real(state, f"{layer}.bias", (d,)) for layer in range(layers)])
    return torch.stack(weights), torch.zeros(layers, d)


def _real(state: dict[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    x = state[name]
    if not isinstance(x, Tensor) or x.is_complex() or tuple(x.shape) != shape or not bool(torch.isfinite(x).all()):
        received = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} is {received}, not finite numbers of shape {shape}")
    return x.detach().float()
