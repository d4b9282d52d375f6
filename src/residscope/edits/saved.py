"""Edits as JSON and back, and as one file of their own."""

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from residscope.edits.base import KINDS, WHERE, BaseEdit, whole_numbers
from residscope.endings import check_ending
from residscope.engine.protocols import LeastEdit, whole
from residscope.errors import BadEdit, NotPlain, ResidscopeError
from residscope.files import read_told, warn_unsealed, write_told
from residscope.incoming import Unreadable, parsed, tensors_at
from residscope.json_values import FORMS, Form, field_from_plain

# kinds that a later room brings, imported when one is read
LATER = {
    "as_far": "residscope.methods._lib.controls",
    "lrqp": "residscope.probes.lrqp",
    "set_concept": "residscope.probes.concepts",
}
KIND = "edits"
INDICES = WHERE | {"sender_head", "feature", "index", "lengths"}


def to_json(edits: Sequence[LeastEdit] | LeastEdit, tensors: MutableMapping[str, Tensor] | None = None) -> str:
    """A list of edits, or one, as JSON; `from_json` gives edits that change runs in the same way.

    Tensors stand in it as base64. Given `tensors`, they go there instead, once each by the sha256 of their bytes.

    Raises:
        BadEdit: an edit, or a field of one, that has no form in JSON; it is named.
    """
    entries = []
    for edit in edits if isinstance(edits, Sequence) else [edits]:
        for part in whole(edit).parts or (whole(edit),):
            if not isinstance(part, BaseEdit):  # the engine takes any object that acts as an edit
                raise BadEdit(
                    "an edit of this run cannot be written down",
                    received=repr(part),
                    allowed="edits of residscope.edits",
                )
            entries.append(part.to_dict(tensors))
    try:
        return json.dumps(entries, allow_nan=False)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        raise BadEdit("the edits have no form in JSON", received=str(error), allowed="plain values") from None


def from_json(text: str, tensors: Mapping[str, Tensor] | None = None) -> tuple[BaseEdit, ...]:
    """Edits from `to_json`. Raises BadEdit, naming the entry that does not parse, or the tensor missing or damaged."""
    try:
        entries = parsed(text, own=True)
    except Unreadable as error:
        raise BadEdit(
            "the edits are not JSON", received=str(error), allowed="what residscope.edits.to_json writes"
        ) from None
    if not isinstance(entries, list):
        raise BadEdit("the edits are not a list", received=type(entries).__name__, allowed="a JSON list of edits")
    return tuple(from_dict(entry, tensors) for entry in entries)


def from_dict(entry: Any, tensors: Mapping[str, Tensor] | None = None) -> BaseEdit:
    """One edit from `to_dict`. Raises BadEdit where it does not parse, and what the edit itself refuses."""
    kind = entry.get("kind") if isinstance(entry, Mapping) else entry
    if not isinstance(entry, Mapping) or not isinstance(kind, str) or kind not in {*KINDS, *LATER}:
        allowed = ", ".join(sorted({*KINDS, *LATER}))
        raise BadEdit("no such kind of edit", received=repr(kind)[:200], allowed=allowed)
    if kind in LATER:
        import_module(LATER[kind])
    cls = KINDS[kind]
    known = {f.name for f in fields(cls)}
    try:
        if extra := entry.keys() - known - {"kind"}:
            raise BadEdit(
                f"{cls.kind} does not take these", received=", ".join(sorted(extra)), allowed=", ".join(sorted(known))
            )
        given = {name: _value(name, value, tensors) for name, value in entry.items() if name != "kind"}
        if not isinstance(given.get("site"), str):
            raise BadEdit(f"{cls.kind} needs a site", received=repr(given.get("site")), allowed="such as resid_pre.6")
        given |= {name: whole_numbers(given[name], name) for name in INDICES & given.keys()}
        return cls(**given)
    except NotPlain as error:
        raise BadEdit(f"{cls.kind}: {error.failed}", received=error.received, allowed=error.allowed) from None
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        received = repr(dict(entry))[:200]
        raise BadEdit(f"{cls.kind} does not parse", received=received, allowed=str(error)) from None


def save(path: str | Path, edits: Sequence[LeastEdit] | LeastEdit) -> None:
    """Edits as one sealed safetensors file: the JSON in its metadata, each tensor once, by the sha256 of its bytes.

    Raises:
        BadEdit: as `to_json`. WrongEnding, FileNotThere: a name of another kind of file; no such folder.
    """
    check_ending(path, KIND)
    tensors: dict[str, Tensor] = {}
    text = to_json(edits, tensors)
    write_told(path, KIND, tensors, text)


def load(path: str | Path) -> tuple[BaseEdit, ...]:
    """Edits from `save`. Raises BadEdit, with the file's name, where it is damaged, was changed since, or holds no edits.

    A file of before files of edits were sealed is opened with a warning, `Unsealed`.
    """
    try:
        if (old := _unsealed(path)) is None:
            tensors, text = read_told(path, KIND)
            return from_json(text, tensors)
        edits = from_json(old[1], old[0])
    except ResidscopeError as error:  # also of the parts: a site, a direction
        raise BadEdit(
            f"{path}: {error.failed}", received=error.received, allowed=error.allowed, fix=error.fix
        ) from None
    warn_unsealed(path, "edits")
    return edits


def _unsealed(path: str | Path) -> tuple[dict[str, Tensor], str] | None:
    """What a file of before edits were sealed holds; None for any other."""
    try:
        tensors, facts = tensors_at(Path(path).expanduser())
    except (FileNotFoundError, Unreadable):
        return None
    return (tensors, facts["edits"]) if facts.get("edits") else None


def _value(name: str, value: Any, tensors: Mapping[str, Tensor] | None) -> Any:
    read = field_from_plain(value, tensors)
    if name == "align":  # as files of before keys were kept have it: {"9": 2}
        return tuple(map(_whole_keys, read)) if isinstance(read, tuple) else _whole_keys(read)
    return read


def _whole_keys(align: Any) -> Any:
    if not isinstance(align, Mapping):
        return align
    return {int(k) if isinstance(k, str) and k.isdecimal() else k: v for k, v in align.items()}


FORMS["$edit"] = Form(BaseEdit, lambda edit, tensors, name: edit.to_dict(tensors), from_dict)
