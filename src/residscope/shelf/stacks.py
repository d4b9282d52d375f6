"""Stacks of edits by name, in one JSON file."""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from residscope.shelf.whole import KeptList


@dataclass(frozen=True)
class NamedStack:
    """A stack as it was saved: its edits as JSON with what each was called, and the model that it was made for."""

    name: str
    model: str
    hash: str
    edits: tuple[Mapping[str, Any], ...]
    labels: tuple[str, ...]


class SavedStacks(KeptList[NamedStack]):
    """The stacks that were named."""

    NAME, WHAT = "stacks", "saved stacks of edits"

    @staticmethod
    def parse(row: Any) -> NamedStack:
        if not isinstance(row, dict):
            raise ValueError("stacks is not a list of objects")
        words = {key: row.get(key) for key in ("name", "model", "hash")}
        edits, labels = row.get("edits"), row.get("labels")
        if not all(isinstance(word, str) for word in words.values()) or not isinstance(edits, list):
            raise ValueError(f"a stack has no name, model, hash or edits: {sorted(row)}")
        if not all(isinstance(edit, dict) for edit in edits) or not isinstance(labels, list):
            raise ValueError(f"the edits of {words['name']!r} are no objects")
        return NamedStack(**words, edits=tuple(edits), labels=tuple(map(str, labels)))  # type: ignore[arg-type]

    @staticmethod
    def told(one: NamedStack) -> dict[str, Any]:
        return {"name": one.name, "model": one.model, "hash": one.hash, "edits": [*one.edits], "labels": [*one.labels]}

    @staticmethod
    def key(one: NamedStack) -> str:
        return one.name

    @staticmethod
    def apart(one: NamedStack, taken: Collection[Hashable]) -> NamedStack:
        return replace(one, name=next(name for i in count(2) if (name := f"{one.name} ({i})") not in taken))
