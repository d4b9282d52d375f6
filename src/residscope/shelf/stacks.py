"""Stacks of edits by name, in one JSON file that survives `kill -9` at any moment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residscope.errors import NotWritten
from residscope.shelf.whole import set_aside, write_whole

VERSION = 1


@dataclass(frozen=True)
class NamedStack:
    """A stack as it was saved: its edits as JSON with what each was called, and the model that it was made for."""

    name: str
    model: str
    hash: str
    edits: tuple[Mapping[str, Any], ...]
    labels: tuple[str, ...]


class SavedStacks:
    """The file is replaced whole, never written in place; a damaged one is moved aside and named."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "stacks.json"

    def load(self) -> tuple[tuple[NamedStack, ...], str | None]:
        """The stacks, and a notice where the file could not be read."""
        try:
            return _parse(self.path.read_bytes()), None
        except FileNotFoundError:
            return (), None
        except (OSError, ValueError) as error:
            return (), set_aside(self.path, "The saved stacks of edits", error)

    def save(self, stacks: tuple[NamedStack, ...]) -> None:
        """Raises NotWritten where the folder cannot be written."""
        rows = [
            {"name": s.name, "model": s.model, "hash": s.hash, "edits": [*s.edits], "labels": [*s.labels]}
            for s in stacks
        ]
        text = json.dumps({"version": VERSION, "stacks": rows}, ensure_ascii=False, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text.encode())
        except OSError as error:
            raise NotWritten(
                f"the stacks could not be saved: {error}",
                received=self.path,
                fix="free the disk, or set RESIDSCOPE_DATA",
            ) from None


def _parse(data: bytes) -> tuple[NamedStack, ...]:
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"not a file of stacks of version {VERSION}")
    rows = content.get("stacks")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("stacks is not a list of objects")
    return tuple(_stack(row) for row in rows)


def _stack(row: Mapping[str, Any]) -> NamedStack:
    words = {key: row.get(key) for key in ("name", "model", "hash")}
    edits, labels = row.get("edits"), row.get("labels")
    if not all(isinstance(word, str) for word in words.values()) or not isinstance(edits, list):
        raise ValueError(f"a stack has no name, model, hash or edits: {sorted(row)}")
    if not all(isinstance(edit, dict) for edit in edits) or not isinstance(labels, list):
        raise ValueError(f"the edits of {words['name']!r} are no objects")
    return NamedStack(**words, edits=tuple(edits), labels=tuple(map(str, labels)))  # type: ignore[arg-type]
