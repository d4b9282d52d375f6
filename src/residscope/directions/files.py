"""Dictionaries in files, and those that come with Residscope."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residscope.directions.dictionary import Dictionary
from residscope.directions.direction import Direction
from residscope.directions.encoder import MORE, PARTS, EncoderDictionary
from residscope.directions.linear import LinearDictionary
from residscope.directions.signatures import same_weights, signature
from residscope.endings import check_ending
from residscope.engine.model import Model
from residscope.errors import DamagedFile, DirectionError, SiteError, WrongModel
from residscope.files import AGAIN, read_tensors, warn_unsealed, write_tensors
from residscope.incoming import Unreadable, parsed, tensors_at
from residscope.json_values import FORMS, Form, from_plain, refusal, to_plain
from residscope.model.sites import Site

KIND = "dictionaries"
TENSORS = ("read", "write", "mean", "sd", "variance", "offset")
FACTS = ("name", "site", "head", "space", "names", "provenance")
ENCODER = "encoder"
ENCODER_TENSORS = (*PARTS, *MORE)
ENCODER_FACTS = ("name", "site", "names", "provenance", "activation", "written", "k", "normalise")


def new_id(dictionary: Dictionary, taken: Container[str] = ()) -> str:
    """What a dictionary goes by: its kind and place, and a number where another of the same kind and place was first.

    >>> import torch
    >>> heads = Dictionary("pca", "result.9", torch.eye(4), torch.eye(4), torch.zeros(4), head=3)
    >>> new_id(heads), new_id(heads, {"pca@result.9.h3"})
    ('pca@result.9.h3', 'pca@result.9.h3#2')
    """
    first = f"{dictionary.name}@{dictionary.site}" + ("" if dictionary.head is None else f".h{dictionary.head}")
    found, number = first, 1
    while found in taken:
        number += 1
        found = f"{first}#{number}"
    return found


def by_id(dictionaries: Iterable[Dictionary]) -> dict[str, Dictionary]:
    """Dictionaries by their ids, in order."""
    found: dict[str, Dictionary] = {}
    for dictionary in dictionaries:
        found[new_id(dictionary, found)] = dictionary
    return found


def save(
    path: str | Path,
    dictionaries: Mapping[str, Dictionary] | Iterable[Dictionary] | Dictionary,
    model: Model,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Dictionaries of one model, by id, in one safetensors file, with enough of its weights to know it again.

    dtype: of the vectors; everything else is kept in float32. The file is written whole or not at all.

    Raises:
        WrongEnding, FileNotThere: a name of another kind of file; no such folder. NotPlain: provenance that has no form in JSON.
    """
    check_ending(path, KIND)
    if isinstance(dictionaries, Dictionary):
        dictionaries = [dictionaries]
    named = dictionaries if isinstance(dictionaries, Mapping) else by_id(dictionaries)
    tensors, about = {"signature": signature(model)}, {}
    for id, d in named.items():
        names = None if d.names is None else [*d.names]
        encoder = isinstance(d, EncoderDictionary)
        about[id] = {fact: getattr(d, fact) for fact in (ENCODER_FACTS if encoder else FACTS)}
        about[id] |= {"provenance": dict(d.provenance), "names": names} | ({"class": ENCODER} if encoder else {})
        for part in ENCODER_TENSORS if encoder else TENSORS:
            x = getattr(d, part)
            same = part == "write" and not encoder and torch.equal(d.read, d.write)
            if x is not None and not same:
                tensors[f"{id}/{part}"] = x.to(dtype if part in ("read", "write", "skip") else torch.float32)
    write_tensors(path, KIND, tensors, about)


def read(path: str | Path, model: Model) -> dict[str, Dictionary]:
    """What `save` wrote, by id.

    Raises:
        WrongModel: it was made on another model's weights. FileNotThere, DamagedFile: no file, or none that `save` wrote.
    """
    found = _read(path, model)
    if _old(Path(path).expanduser()) is not None:
        warn_unsealed(path, "dictionaries")
    return found


def _read(path: str | Path, model: Model) -> dict[str, Dictionary]:
    path = Path(path).expanduser()
    tensors, about = _old(path) or read_tensors(path, KIND)
    try:
        if not same_weights(tensors["signature"], signature(model)):
            raise WrongModel(
                "these directions were made on another model's weights", received=str(path), allowed=model.name
            )
        return {id: _dictionary(id, facts, tensors, model.device) for id, facts in about.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, DirectionError, SiteError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedFile(f"{path.name} is damaged: {reason}", received=str(path), fix=AGAIN) from error


def shipped(model: Model) -> dict[str, Dictionary]:
    """The PCA dictionaries that come with Residscope for this model, by site; none for models other than the default."""
    for file in sorted((Path(__file__).parent.parent / "data").glob("*.safetensors")):
        try:
            return {d.site: d for d in _read(file, model).values()}
        except WrongModel:
            continue
    return {}


def _dictionary(id: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> Dictionary:
    if facts.get("class") == ENCODER:
        own: dict[str, Any] = {fact: facts[fact] for fact in ENCODER_FACTS if fact != "normalise" or fact in facts}
        own["names"] = None if own["names"] is None else tuple(own["names"])
        held = {part: tensors.get(f"{id}/{part}") for part in ENCODER_TENSORS}
        return EncoderDictionary(**own | {part: x.to(device).float() for part, x in held.items() if x is not None})
    parts = {part: tensors[f"{id}/{part}"].to(device) for part in TENSORS if f"{id}/{part}" in tensors}
    rounded = parts["read"].dtype != torch.float32
    parts = {part: x.float() for part, x in parts.items()}
    space, names = facts.get("space", "centred"), facts.get("names")
    if rounded and "write" not in parts and space != "lens":
        parts["read"] = parts["read"] / parts["read"].norm(dim=1, keepdim=True)
    return LinearDictionary(
        name=facts["name"],
        site=str(Site.parse(facts.get("site", id))),
        provenance={**facts["provenance"]},
        head=facts.get("head"),
        space=space,
        names=None if names is None else tuple(names),
        **({"write": parts["read"]} | parts),
    )


def _old(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """A file of before dictionaries had ids: PCA alone, by site. None for any other."""
    try:
        tensors, facts = tensors_at(path)
    except (FileNotFoundError, Unreadable):
        return None
    try:
        return (tensors, parsed(facts["dictionaries"])) if facts.get("dictionaries") else None
    except Unreadable as error:
        raise DamagedFile(f"{path.name} is damaged: {error}", received=str(path), fix=AGAIN) from None


# ── as parts of edits ───────────────────────────────────────────────────────────────────────────────────────────


def _out(value: Any, tensors: Any, name: str) -> dict[str, Any]:
    if type(value) not in (Direction, LinearDictionary, EncoderDictionary):
        raise refusal(name, f"{type(value).__qualname__}, which would come back as a class above it")
    return {f.name: to_plain(getattr(value, f.name), tensors, name=f"{name}.{f.name}") for f in fields(value)}


def _back(cls: type[Any], parts: Any, tensors: Mapping[str, Tensor] | None) -> Any:
    given = {name: from_plain(part, tensors) for name, part in parts.items()}
    if isinstance(given.get("names"), list):  # as files of before tuples were marked have them
        given["names"] = tuple(given["names"])
    return cls(**given)


FORMS["$direction"] = Form(Direction, _out, partial(_back, Direction))
FORMS["$dictionary"] = Form(LinearDictionary, _out, partial(_back, LinearDictionary))
FORMS["$encoder"] = Form(EncoderDictionary, _out, partial(_back, EncoderDictionary))
