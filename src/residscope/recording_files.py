"""Recordings in files: what a run left, and what it takes to recompute the rest of it later, on the same weights."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residscope.edits import from_json, to_json
from residscope.endings import check_ending
from residscope.engine.model import Model
from residscope.engine.preparing import join
from residscope.engine.recording import Recording
from residscope.engine.windows import Window
from residscope.errors import DamagedFile, EditError, SiteError, WeightsChanged, WrongModel
from residscope.files import read_tensors, write_tensors
from residscope.model.prompts import Batch
from residscope.model.rows import mark
from residscope.model.sites import Site

KIND = "recording"


def save_recording(recording: Recording, path: str | Path) -> None:
    """A recording in one safetensors file: tokens, the values it holds now, the run's edits, window and model.

    What it does not hold is not computed for it: it stays as small as it is, and `load_recording` recomputes the rest.

    Raises:
        WeightsChanged: the model's weights are no longer those of the run. BadEdit: an edit that has no form in JSON.
        WrongEnding, FileNotThere: a name of another kind of file; no such folder.
    """
    check_ending(path, KIND)
    if recording.stale:
        raise WeightsChanged(
            "the model's weights have changed since this run, so nothing would say whose values these are",
            received=recording.model.name,
            fix="run the prompt again",
        )
    model = recording.model
    about = {
        "model": model.name,
        "hash": model.fingerprint(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "versions": {name: version(name) for name in ("residscope", "torch", "transformers")},
    }
    tensors: dict[str, Tensor] = {}
    about["run"] = _put(recording, tensors, "")
    write_tensors(path, KIND, tensors, about)


def load_recording(path: str | Path, model: Model) -> Recording:
    """What `save_recording` wrote, on a model with the same weights in the same dtype; its values go to the model's device.

    Raises:
        WrongModel: it was recorded on other weights, or in another dtype. FileNotThere, DamagedFile.
    """
    tensors, about = read_tensors(path, KIND)
    name = Path(path).name
    try:
        recorded, dtype, run = about["hash"], about["dtype"], about["run"]
        if recorded != model.fingerprint():
            raise WrongModel(
                f"{name} was recorded on other weights",
                received=f"{about['model']}, hash {recorded}",
                allowed=f"{model.name}, hash {model.fingerprint()}",
                fix="load the model it names, in the revision it had then",
            )
        if dtype != str(model.dtype).removeprefix("torch."):
            raise WrongModel(
                f"{name} was recorded in another dtype",
                received=dtype,
                allowed=str(model.dtype).removeprefix("torch."),
                fix=f"load the model with dtype=torch.{dtype}",
            )
        return _take(run, tensors, "", model)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        EditError,
        SiteError,
    ) as error:  # written by another version, or by hand
        raise DamagedFile(f"{name} holds no recording that can be read", received=repr(error)) from error


def _put(recording: Recording, tensors: dict[str, Tensor], under: str) -> dict[str, Any]:
    """A run's tensors, named `under` something, and the rest of it as plain values; a window's base lies within."""
    tensors[f"{under}tokens"] = recording.tokens
    for part, values in (("held", recording.held), ("unedited", recording.unedited)):
        tensors |= {f"{under}{part}/{site}": x for site, x in values.items()}
    if recording.readout is not None:
        tensors[f"{under}readout"] = recording.readout
    text = to_json(recording.edits)  # not among the plain values: a header takes 100 MB at most
    tensors[f"{under}edits"] = _text(text)
    window = recording.window
    found: dict[str, Any] = {"lengths": list(recording.lengths), "window": None}
    found |= {"rows": recording.batch.rows, "answers": recording.batch.answers}
    if window is not None:
        base = _put(window.base, tensors, f"{under}base/")
        found["window"] = {"start": window.start, "stop": window.stop, "pos": window.pos, "base": base}
    return found


def _take(run: Mapping[str, Any], tensors: Mapping[str, Tensor], under: str, model: Model) -> Recording:
    def here(part: str) -> dict[Site, Tensor]:
        start = f"{under}{part}/"
        return {
            model.sites.canonical(name.removeprefix(start)): x.to(model.device)
            for name, x in tensors.items()
            if name.startswith(start)
        }

    window = None
    if (told := run["window"]) is not None:
        base = _take(told["base"], tensors, f"{under}base/", model)
        window = Window(base, told["start"], told["stop"], told["pos"])
    lengths = tuple(run["lengths"])
    edits = from_json(tensors[f"{under}edits"].numpy().tobytes().decode())
    found = Recording(
        model,
        Batch(mark(tensors[f"{under}tokens"].to(model.device), lengths), lengths, run.get("rows"), run.get("answers")),
        here("held"),
        edits=join(edits, model.sites, lengths),  # those that a run had joined are written one by one
        window=window,
        unedited=here("unedited"),
        weights=model.weights_version(),
    )
    if (readout := tensors.get(f"{under}readout")) is not None:
        found.readout = readout.to(model.device)
    return found


def _text(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
