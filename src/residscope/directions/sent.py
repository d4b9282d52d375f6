"""The file that people hand one direction to each other in: whether it is whole, and which model's it is.

safetensors with `read`, perhaps `write`, perhaps the model's `signature`; in the metadata the direction's facts, perhaps a
`sha256` over all of it and, as JSON, what there is to say `about` it. Other programs write such files too, with less in them.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from residscope.directions.files import same_weights, signature
from residscope.engine.model import Model
from residscope.errors import DamagedFile, MalformedTensors, WrongModel
from residscope.files import digest

KIND = "direction"
UNCHECKED = "nothing in the file proves which model it was found in"


def seal(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """sha256 of the vectors and the facts: what `sha256` among them says."""
    said = {name: fact for name, fact in facts.items() if name != "sha256"}
    return digest(KIND, tensors, json.dumps(said, sort_keys=True))


def check_whole(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Raises DamagedFile where the file says a sha256 and has another."""
    if "sha256" in facts and facts["sha256"] != seal(tensors, facts):
        raise DamagedFile(
            "the file is damaged: its contents are not those that were saved (sha256)",
            received=str(facts.get("name"))[:80],
            fix="export it again, or take it from a backup",
        )


def said_about(facts: Mapping[str, str]) -> dict[str, Any]:
    """What the file says about its direction: a mapping; nothing where another program says it otherwise.

    Raises:
        MalformedTensors: a file of Residscope's own, with something else there.
    """
    try:
        about = json.loads(facts.get("about", "{}"))
        mappings = [about, about.get("provenance", {}), about.get("model", {})]
        if not all(isinstance(each, dict) for each in mappings):
            raise TypeError("it is no mapping, or its provenance or its model is none")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        if facts.get("residscope") != KIND:
            return {}
        raise MalformedTensors(
            f"what the file says about its direction does not parse: {error}",
            received=facts["about"][:80],
            allowed="a mapping with `provenance` and `model`, as JSON",
        ) from None
    return dict(about)


def check_model(name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any], model: Model) -> dict[str, str]:
    """What there is to add to the provenance of a direction taken into a model.

    Raises:
        WrongModel: the file's signature is another model's. MalformedTensors: it is no vector.
    """
    claimed = about.get("model", {})
    named = str(claimed.get("name", "another model"))[:400]
    if "signature" not in tensors:
        claim = f"; it names {named}" if "name" in claimed else ""
        return {"imported": name, "unchecked": UNCHECKED + claim}
    weights = tensors["signature"]
    if weights.ndim != 1 or not weights.is_floating_point():
        raise MalformedTensors(
            "the model's signature is no vector", received=f"{weights.dtype} {tuple(weights.shape)}", allowed="F32[n]"
        )
    if not same_weights(weights, signature(model)):
        raise WrongModel(
            f"{name} was found in another model",
            received=f"{named} ({str(claimed.get('hash', 'no hash'))[:12]})",
            allowed=f"{model.name} ({model.fingerprint()[:12]})",
            fix=f"load {named}" if "name" in claimed else "load the model that it was found in",
        )
    return {"imported": name}
