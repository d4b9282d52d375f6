"""Dictionaries of a model in one small file: vectors in whole numbers of 8 bits, a scale for each row.

    row = scale * q,   q = round(row / scale),   scale = max |row| / 127

A row's error is at most half its scale in each entry. What is not a matrix is kept in float32.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from residscope.directions import EncoderDictionary
from residscope.directions.signatures import same_weights, signature
from residscope.engine.model import Model
from residscope.errors import DamagedFile, ResidscopeError, WrongModel
from residscope.files import AGAIN, read_tensors, write_tensors

KIND = "quantised-dictionaries"
MATRICES = ("read", "write", "skip")
VECTORS = ("mean", "bias", "base", "threshold", "gate_bias", "gate_scale")
FACTS = ("name", "site", "written", "activation", "k", "normalise", "provenance", "names")


def quantised(rows: Float[Tensor, "n d"]) -> tuple[Int8[Tensor, "n d"], Float[Tensor, " n"]]:
    """Whole numbers from -127 to 127, and each row's scale.

    >>> q, scale = quantised(torch.tensor([[127.0, -63.6]]))
    >>> q.tolist(), scale.tolist()
    ([[127, -64]], [1.0])
    """
    scale = rows.abs().amax(1).clamp_min(1e-30) / 127
    return (rows / scale[:, None]).round().to(torch.int8), scale


def restored(q: Int8[Tensor, "n d"], scale: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    return q.float() * scale[:, None]


def write(path: str | Path, dictionaries: Mapping[str, EncoderDictionary], model: Model) -> None:
    """One file of a model's dictionaries, by id. Raises WrongEnding, FileNotThere."""
    tensors: dict[str, Tensor] = {"signature": signature(model)}
    about: dict[str, Any] = {}
    for id, one in dictionaries.items():
        about[id] = {fact: getattr(one, fact) for fact in FACTS}
        about[id] |= {"provenance": dict(one.provenance), "names": None if one.names is None else [*one.names]}
        for part in MATRICES:
            if (rows := getattr(one, part)) is not None:
                tensors[f"{id}/{part}"], tensors[f"{id}/{part}.scale"] = quantised(rows.float().cpu())
        for part in VECTORS:
            if (x := getattr(one, part)) is not None:
                tensors[f"{id}/{part}"] = x.float().cpu()
    write_tensors(path, KIND, tensors, about)


def read(path: str | Path, model: Model) -> dict[str, EncoderDictionary]:
    """What `write` wrote, by id, in float32.

    Raises:
        WrongModel: of another model's weights. FileNotThere, DamagedFile: no file, or none that `write` wrote.
    """
    tensors, about = read_tensors(path, KIND)
    try:
        if not same_weights(tensors["signature"], signature(model)):
            raise WrongModel("these dictionaries are another model's", received=str(path), allowed=model.name)
        return {id: _one(id, facts, tensors, model.device) for id, facts in about.items()}
    except WrongModel:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ResidscopeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedFile(f"{Path(path).name} is damaged: {reason}", received=str(path), fix=AGAIN) from error


def _one(id: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> EncoderDictionary:
    parts: dict[str, Any] = {fact: facts[fact] for fact in FACTS}
    parts["names"] = None if parts["names"] is None else tuple(parts["names"])
    for part in MATRICES:
        if (q := tensors.get(f"{id}/{part}")) is not None:
            parts[part] = restored(q, tensors[f"{id}/{part}.scale"]).to(device)
    parts |= {part: tensors[f"{id}/{part}"].to(device) for part in VECTORS if f"{id}/{part}" in tensors}
    return EncoderDictionary(**parts)
