"""Edits as JSON and back, and as one file of their own."""

import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from residscope.edits.base import KINDS, WHERE, BaseEdit, indices
from residscope.errors import BadEdit
from residscope.plain import from_plain, to_plain

# kinds that a later room brings, imported when one is read
LATER = {"lrqp": "residscope.methods.lrqp", "set_concept": "residscope.methods.concepts"}


def to_json(edits: Sequence[BaseEdit], tensors: MutableMapping[str, Tensor] | None = None) -> str:
    """A list of edits as JSON; `from_json` gives edits that change runs in the same way.

    Tensors stand in it as base64. Given `tensors`, they go there instead, once each by the sha256 of their bytes.
    """
    return json.dumps([part.to_dict(tensors) for edit in edits for part in getattr(edit, "parts", (edit,))])


def from_json(text: str, tensors: Mapping[str, Tensor] | None = None) -> tuple[BaseEdit, ...]:
    """Edits from `to_json`. Raises BadEdit, naming the entry that does not parse, or the tensor missing or damaged."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadEdit(
            "the edits are not JSON", received=str(error), allowed="what residscope.edits.to_json writes"
        ) from None
    if not isinstance(entries, list):
        raise BadEdit("the edits are not a list", received=type(entries).__name__, allowed="a JSON list of edits")
    return tuple(from_dict(entry, tensors) for entry in entries)


def from_dict(entry: Any, tensors: Mapping[str, Tensor] | None = None) -> BaseEdit:
    """One edit from `to_dict`. Raises BadEdit where it does not parse, and what the edit itself refuses."""
    if isinstance(entry, Mapping) and entry.get("kind") in LATER:
        import_module(LATER[entry["kind"]])
    if not isinstance(entry, Mapping) or entry.get("kind") not in KINDS:
        kind = entry.get("kind") if isinstance(entry, Mapping) else entry
        raise BadEdit("no such kind of edit", received=repr(kind), allowed=", ".join(sorted(KINDS)))
    cls = KINDS[entry["kind"]]
    known = {f.name for f in fields(cls)}
    try:
        given = {name: _value(name, value, tensors) for name, value in entry.items() if name != "kind"}
        if extra := given.keys() - known:
            raise BadEdit(
                f"{cls.kind} does not take these", received=", ".join(sorted(extra)), allowed=", ".join(sorted(known))
            )
        if not isinstance(given.get("site"), str):
            raise BadEdit(f"{cls.kind} needs a site", received=repr(given.get("site")), allowed="such as resid_pre.6")
        given |= indices({name: given[name] for name in WHERE & given.keys()})
        return cls(**given)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadEdit(
            f"{cls.kind} does not parse", received=json.dumps(to_plain(dict(entry)))[:200], allowed=str(error)
        ) from None


def save(path: str | Path, edits: Sequence[BaseEdit]) -> None:
    """Edits as one safetensors file: the JSON in its metadata, each tensor once, by the sha256 of its bytes."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    text = to_json(edits, tensors)
    partial = Path(path).with_name(Path(path).name + f".{os.getpid()}.partial")
    try:
        save_file(tensors, str(partial), metadata={"edits": text})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path) -> tuple[BaseEdit, ...]:
    """Edits from `save`. Raises BadEdit, with the file's name, where it is damaged or holds no edits."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            text = (file.metadata() or {})["edits"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return from_json(text, tensors)
    except (OSError, SafetensorError, KeyError) as error:
        raise BadEdit(f"{path} holds no edits", received=str(error), allowed="a file from edits.save") from None
    except BadEdit as error:
        raise BadEdit(
            f"{path}: {error.failed}", received=error.received, allowed=error.allowed, fix=error.fix
        ) from None


def _value(name: str, value: Any, tensors: Mapping[str, Tensor] | None) -> Any:
    found = from_plain(value, tensors)
    if name == "align" and isinstance(found, Mapping):
        return {int(k) if k.isdecimal() else k: v for k, v in found.items()}
    if name == "align" and isinstance(found, list):
        return tuple(_value(name, one, tensors) for one in found)
    return tuple(found) if isinstance(found, list) else found
