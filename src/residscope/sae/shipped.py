"""The sparse autoencoders and transcoders that come with Residscope for the default model: recipes/dictionaries.py made them."""

from pathlib import Path

from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.errors import FileNotThere, NotFound, WrongModel
from residscope.model.planted import NAME, D
from residscope.sae import quantised
from residscope.sae.planted import planted_dictionaries

SHIPPED = "shipped"
FOLDER = Path(__file__).parent.parent / "data" / "dictionaries"


def shipped(model: Model, id: str = "") -> dict[str, EncoderDictionary]:
    """Those of a model, by id; or one of them. Raises FileNotThere: none come for this model. NotFound: no such one."""
    if model.name == NAME and model.d_model == D:
        return _chosen(planted_dictionaries(), id)
    for file in sorted(FOLDER.glob("*.safetensors")):
        try:
            found = quantised.read(file, model)
        except WrongModel:
            continue
        return _chosen(found, id)
    raise FileNotThere(
        "no dictionaries come with Residscope for this model",
        received=model.name,
        allowed=f"smollm2-135m, {NAME}",
        fix="train some (rs.sae.train), or load others' (rs.sae.load)",
    )


def _chosen(found: dict[str, EncoderDictionary], id: str) -> dict[str, EncoderDictionary]:
    if id and id not in found:
        raise NotFound("no such dictionary is shipped", received=id, allowed=", ".join(found))
    return {id: found[id]} if id else found
