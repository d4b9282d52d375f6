"""Files of tensors that are whole or not there: safetensors with a few plain facts, checked by hash when they are read.

A file is written beside its final name, then renamed, so that a killed process leaves the old file or the new one. What
was changed since, by one bit even, is refused by the file's name.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from residscope.endings import check_ending
from residscope.errors import DamagedFile, FileNotThere, NotPlain
from residscope.plain import bytes_of, from_plain, to_plain

AGAIN = "save it again from where it was made, or take it from a backup"


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Any) -> None:
    """Tensors and plain JSON values `about` them, in one safetensors file that says what `kind` of thing it holds.

    Raises:
        WrongEnding, FileNotThere: a name of another kind of file; no such folder. NotPlain: what has no form in JSON, by name.
    """
    from safetensors.torch import save_file

    check_ending(path, kind)
    told = json.dumps(to_plain(about, name=f"what is said of the {kind}"), allow_nan=False)
    own = unshared(tensors)
    facts = {"residscope": kind, "about": told, "sha256": digest(kind, own, told)}
    replace_whole(path, lambda draft: save_file(own, str(draft), metadata=facts))


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, each with memory of its own: safetensors refuses those that share it."""
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, x in tensors.items():
        plain = x.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        own[name] = plain
    return own


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` wrote: the tensors, on the CPU, and what is said about them, a mapping.

    Raises:
        FileNotThere: no such file. DamagedFile: it is not whole, was changed since, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotThere(f"there is no file {path.name}", received=str(path), allowed="a file that exists")
    try:
        with safe_open(str(path), "pt") as file:
            facts = file.metadata() or {}
            if facts.get("residscope") != kind:
                received = facts.get("residscope", "another program's safetensors")
                raise DamagedFile(f"{path.name} holds no {kind}", received=received, allowed=f"a saved {kind}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        if digest(kind, tensors, facts["about"]) != facts["sha256"]:
            raise ValueError("its contents are not those that were saved (sha256)")
        about = from_plain(json.loads(facts["about"]))
        if not isinstance(about, dict):
            raise ValueError(f"what is said of it is a {type(about).__name__}, not a mapping")
        return tensors, about
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OSError, NotPlain) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedFile(f"{path.name} is damaged: {reason}", received=str(path), fix=AGAIN) from error


def replace_whole(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path`, then give it that name: at every moment there is the old one or the new one."""
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotThere("there is no such folder", received=str(path.parent), fix="make it first")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.touch()
        mode = draft.stat().st_mode  # as the user's umask has it; safetensors makes its files for the owner alone
        write(draft)
        draft.chmod(mode)
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def digest(kind: str, tensors: Mapping[str, Tensor], about: str) -> str:
    """sha256 of tensors and of what is said about them: the same whatever order a file keeps them in."""
    hashed = hashlib.sha256(f"{kind}\n{about}\n".encode())
    for name in sorted(tensors):
        x = tensors[name]
        hashed.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        hashed.update(bytes_of(x).data)
    return hashed.hexdigest()


def sync(path: str | Path) -> None:
    """A file's content, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
