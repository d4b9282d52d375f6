"""A training on the disk: one file of tensors and JSON, whole or not there, from which a killed run goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from residscope.drafts import replace_whole
from residscope.errors import BadTraining, CheckpointNotWritten, DamagedFile
from residscope.files import read_told, write_told
from residscope.incoming import Unreadable, mapping, parsed

KIND = "sae-training"
NAME = "checkpoint.safetensors"
VERSION = 1


def write(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Keep a training. about: what it is of, which a training that goes on must be of as well.

    Raises CheckpointNotWritten: as on a full disk; the checkpoint before it is whole.
    """
    told = json.dumps({"version": VERSION, "about": about, "state": state}, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_told(folder / NAME, KIND, tensors, told)
    except Exception as error:
        if not _of_the_disk(error):
            raise
        raise CheckpointNotWritten(
            "the checkpoint could not be written", received=f"{folder}: {error}"[:300],
            fix="free space, or give another folder; the checkpoint before it is whole",
        ) from error  # fmt: skip


def read(folder: Path, about: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What was kept in a folder; None where nothing was.

    Raises:
        BadTraining: it is another training's. DamagedFile: it is not whole.
    """
    if not (folder / NAME).is_file():
        return None
    tensors, told = read_told(folder / NAME, KIND)
    found, wanted = _parts(folder, told), json.loads(json.dumps(about))
    other = sorted(key for key in {*found["about"], *wanted} if found["about"].get(key) != wanted.get(key))
    if found["version"] != VERSION or other:
        received = ", ".join(f"{key}: {found['about'].get(key)!r}" for key in other) or f"version {found['version']}"
        raise BadTraining(
            "the folder holds another training", received=received[:400],
            allowed=", ".join(f"{key}: {wanted.get(key)!r}" for key in other)[:400] or f"version {VERSION}",
            fix="give another folder, or the arguments that it was begun with",
        )  # fmt: skip
    return tensors, found["state"]


def _parts(folder: Path, told: str) -> dict[str, Any]:
    try:
        found = mapping(parsed(told, own=True), "what it says")
        return {
            "version": found["version"],
            **{part: dict(mapping(found[part], part)) for part in ("about", "state")},
        }
    except (KeyError, Unreadable) as error:
        raise DamagedFile(f"{NAME} is damaged: {error}", received=str(folder)) from error


def write_json(path: Path, value: Any) -> None:
    replace_whole(path, lambda draft: draft.write_text(json.dumps(value, indent=1)))


def _of_the_disk(error: Exception) -> bool:
    """safetensors tells of a full disk by an error of its own."""
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
