"""Edits as JSON and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from residscope.edits.base import KINDS, WHERE, BaseEdit, indices
from residscope.errors import BadEdit
from residscope.plain import from_plain, to_plain


def to_json(edits: Sequence[BaseEdit]) -> str:
    """A list of edits as JSON; `from_json` gives edits that change runs in the same way."""
    return json.dumps([edit.to_dict() for edit in edits])


def from_json(text: str) -> tuple[BaseEdit, ...]:
    """Edits from `to_json`. Raises BadEdit, naming the entry that does not parse."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadEdit(
            "the edits are not JSON", received=str(error), allowed="what residscope.edits.to_json writes"
        ) from None
    if not isinstance(entries, list):
        raise BadEdit("the edits are not a list", received=type(entries).__name__, allowed="a JSON list of edits")
    return tuple(from_dict(entry) for entry in entries)


def from_dict(entry: Any) -> BaseEdit:
    """One edit from `to_dict`. Raises BadEdit where it does not parse, and what the edit itself refuses."""
    if not isinstance(entry, Mapping) or entry.get("kind") not in KINDS:
        kind = entry.get("kind") if isinstance(entry, Mapping) else entry
        raise BadEdit("no such kind of edit", received=repr(kind), allowed=", ".join(sorted(KINDS)))
    cls = KINDS[entry["kind"]]
    known = {f.name for f in fields(cls)}
    given = {name: from_plain(value) for name, value in entry.items() if name != "kind"}
    if extra := given.keys() - known:
        raise BadEdit(
            f"{cls.kind} does not take these", received=", ".join(sorted(extra)), allowed=", ".join(sorted(known))
        )
    if not isinstance(given.get("site"), str):
        raise BadEdit(f"{cls.kind} needs a site", received=repr(given.get("site")), allowed="such as resid_pre.6")
    if isinstance(given.get("directions"), list):
        given["directions"] = tuple(given["directions"])
    given |= indices({name: given[name] for name in WHERE & given.keys()})
    if isinstance(given.get("align"), Mapping):
        given["align"] = {int(k): int(v) for k, v in given["align"].items()}
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise BadEdit(
            f"{cls.kind} does not parse", received=json.dumps(to_plain(dict(entry)))[:200], allowed=str(error)
        ) from None
