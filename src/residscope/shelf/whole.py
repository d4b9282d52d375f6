"""Saved prompts in one JSON file that survives `kill -9` at any moment."""

import json
import os
import time
from pathlib import Path

from residscope.errors import ResidscopeError
from residscope.files import replace_whole

VERSION = 1


class SavedPrompts:
    """The file is replaced whole, never written in place; a damaged one is moved aside and named."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "prompts.json"

    def load(self) -> tuple[tuple[str, ...], str | None]:
        """The prompts, and a notice where the file could not be read."""
        try:
            return _parse(self.path.read_bytes()), None
        except FileNotFoundError:
            return (), None
        except (OSError, ValueError) as error:
            return (), set_aside(self.path, "The saved prompts", error)

    def save(self, prompts: tuple[str, ...]) -> None:
        """Raises ResidscopeError where the folder cannot be written."""
        text = json.dumps({"version": VERSION, "prompts": list(prompts)}, ensure_ascii=False, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text.encode())
        except OSError as error:
            raise ResidscopeError(
                f"the prompts could not be saved: {error}",
                received=self.path,
                fix="free the disk, or set RESIDSCOPE_DATA",
            ) from None


def set_aside(path: Path, what: str, error: Exception) -> str:
    """Move a file that cannot be read out of the way; the notice that says so."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    try:
        path.rename(aside)
    except OSError as failure:
        return f"{what} in {path} cannot be read ({error}) and could not be moved aside ({failure})."
    return f"{what} could not be read ({error}); the file was moved to {aside}."


def write_whole(path: Path, data: bytes) -> None:
    """A reader sees the old file or the new one; it is its owner's alone."""
    replace_whole(path, lambda draft: draft.write_bytes(data), private=True)


def _parse(data: bytes) -> tuple[str, ...]:
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"not a prompts file of version {VERSION}")
    prompts = content.get("prompts")
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
        raise ValueError("prompts is not a list of texts")
    return tuple(prompts)
