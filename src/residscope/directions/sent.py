"""The file that people hand one direction to each other in: whether it is whole, and which model's it is.

safetensors with `read`, perhaps `write`, perhaps the model's `signature`; in the metadata the direction's facts, perhaps a
`sha256` over all of it and, as JSON, what there is to say `about` it. Other programs write such files too, with less in them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from residscope.directions.signatures import same_weights, signature
from residscope.drafts import replace_whole
from residscope.endings import check_ending
from residscope.engine.model import Model
from residscope.errors import DamagedFile, MalformedTensors, ResidscopeError, WrongModel
from residscope.files import AGAIN, digest, kind_of, save_tensors, unshared
from residscope.incoming import parsed, tensors_at
from residscope.json_values import from_plain, to_plain

if TYPE_CHECKING:
    from residscope.directions.direction import Direction

KIND = "direction"
# the words of provenance that are read again, and what they are
PROVENANCE: dict[str, Any] = {
    "dictionary": str, "dictionary hash": str, "hash": str, "corpus": str, "before": str, "library": str, "imported": str,
    "unchecked": str, "moved": str, "index": int, "tokens": int, "standardised": bool, "corpora": dict, "mix": (list, dict),
    "sum": (list, dict),
}  # fmt: skip
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
        about = parsed(facts.get("about", "{}"), own=True)
        mappings = [about, about.get("provenance", {}), about.get("model", {})]
        if not all(isinstance(each, dict) for each in mappings):
            raise TypeError("it is no mapping, or its provenance or its model is none")
        check_provenance(about.get("provenance", {}))
    except (ValueError, TypeError, AttributeError) as error:
        if facts.get("residscope") != KIND:
            return {}
        raise MalformedTensors(
            f"what the file says about its direction does not parse: {error}",
            received=facts["about"][:80],
            allowed="a mapping with `provenance` and `model`, as JSON",
        ) from None
    return dict(about)


def check_provenance(told: Mapping[str, Any]) -> None:
    """Refuse provenance of which a word that is read here is of another type. Raises TypeError.

    >>> check_provenance({"dictionary": "pca", "index": 7, "anything": [None]})
    """
    left = [told]
    while left:
        one = left.pop()
        for name, kinds in PROVENANCE.items():
            value = one.get(name)
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool)):
                raise TypeError(f"in its provenance {name!r} is a {type(value).__name__}: {str(value)[:40]!r}")
        corpora = one.get("corpora")
        if isinstance(corpora, dict) and not all(isinstance(name, str) for name in corpora.values()):
            raise TypeError("in its provenance a corpus has no name")
        for name in ("mix", "sum", "of"):
            parts = one.get(name)
            left += [part for part in (parts if isinstance(parts, list) else [parts]) if isinstance(part, dict)]


def write_direction(direction: "Direction", path: str | Path) -> None:
    """A direction by itself, without a model's signature. Raises WrongEnding, FileNotThere, NotPlain."""
    check_ending(path, KIND)
    told = to_plain(dict(direction.provenance), name=f"the provenance of {direction.name}")
    tensors = unshared({"read": direction.read, "write": direction.write})
    facts = {"residscope": KIND, "name": direction.name, "site": direction.site, "space": direction.space}
    facts |= {"offset": repr(direction.offset), "about": json.dumps({"provenance": told}, allow_nan=False)}
    facts |= {} if direction.scale is None else {"scale": repr(direction.scale)}
    facts |= {} if direction.head is None else {"head": str(direction.head)}
    facts["sha256"] = seal(tensors, facts)
    replace_whole(path, lambda draft: save_tensors(tensors, draft, facts))


def read_direction(cls: "type[Direction]", path: str | Path) -> "Direction":
    """What `write_direction`, or an export of the library, wrote; the values go to the CPU.

    Raises:
        FileNotThere, DamagedFile: no file, or no such file.
    """
    path = Path(path).expanduser()
    if (said := kind_of(path)) != KIND:
        raise DamagedFile(f"{path.name} holds no {KIND}", received=said, allowed=f"a saved {KIND}")
    try:
        tensors, facts = tensors_at(path)
        check_whole(tensors, {"sha256": "none", **facts})
        scale, head = facts.get("scale"), facts.get("head")
        return cls(
            tensors["read"],
            tensors.get("write", tensors["read"]),
            facts["site"],
            offset=float(facts["offset"]),
            scale=None if scale is None else float(scale),
            name=facts["name"],
            space=facts["space"],
            provenance=from_plain(said_about(facts).get("provenance", {})),
            head=None if head is None else int(head),
        )
    except (ResidscopeError, ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
        raise DamagedFile(f"{path.name} is damaged: {error}", received=str(path), fix=AGAIN) from error


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
