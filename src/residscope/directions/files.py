"""Dictionaries in files, and those that come with Residscope."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions.dictionary import Dictionary
from residscope.engine.model import Model
from residscope.engine.parameters import plain_weight
from residscope.errors import WrongModel


def save(
    path: str | Path, dictionaries: Mapping[str, Dictionary], model: Model, *, dtype: torch.dtype = torch.float32
) -> None:
    """Dictionaries of one model in one safetensors file, with enough of its weights to know it again."""
    from safetensors.torch import save_file

    tensors = {"signature": signature(model)}
    for site, d in dictionaries.items():
        tensors |= {f"{site}/read": d.read.to(dtype), f"{site}/mean": d.mean}
        tensors |= {f"{site}/{name}": x for name in ("sd", "variance") if (x := getattr(d, name)) is not None}
    about = {site: {"name": d.name, "provenance": dict(d.provenance)} for site, d in dictionaries.items()}
    save_file(
        {k: v.contiguous().cpu() for k, v in tensors.items()}, str(path), metadata={"dictionaries": json.dumps(about)}
    )


def read(path: str | Path, model: Model) -> dict[str, Dictionary]:
    """What `save` wrote, by site. Raises WrongModel where it was made on another model's weights."""
    from safetensors import safe_open

    with safe_open(str(path), "pt", device=str(model.device)) as file:
        found = file.get_tensor("signature")
        if found.shape != signature(model).shape or not torch.allclose(found, signature(model), rtol=1e-2, atol=1e-3):
            raise WrongModel(
                "these directions were made on another model's weights", received=str(path), allowed=model.name
            )
        about = json.loads(file.metadata()["dictionaries"])
        held = set(file.keys())

        def tensor(key: str) -> Tensor | None:
            return file.get_tensor(key).float() if key in held else None

        dictionaries = {}
        for site, entry in about.items():
            vectors, mean = tensor(f"{site}/read"), tensor(f"{site}/mean")
            assert vectors is not None
            assert mean is not None
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
            dictionaries[site] = Dictionary(
                name=entry["name"],
                site=site,
                read=vectors,
                write=vectors,
                mean=mean,
                sd=tensor(f"{site}/sd"),
                variance=tensor(f"{site}/variance"),
                provenance=entry["provenance"],
            )
    return dictionaries


def shipped(model: Model) -> dict[str, Dictionary]:
    """The PCA dictionaries that come with Residscope for this model, by site; none for models other than the default."""
    for file in sorted((Path(__file__).parent.parent / "data").glob("*.safetensors")):
        try:
            return read(file, model)
        except WrongModel:
            continue
    return {}


def signature(model: Model) -> Float[Tensor, "n"]:
    """A few of the model's weights: the same to rounding in any dtype, different for any other model."""
    gain = model.layout.final_norm.gain.float()
    embed = plain_weight(model.layout.embed).to(gain.device)
    return torch.cat([gain, embed[:2].float().flatten()])
