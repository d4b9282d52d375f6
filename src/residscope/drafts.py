"""Files that are whole or not there: each is made in a draft, a folder beside it, then renamed.

A killed process leaves the old file or the new one, and its draft, which the next writer in that folder sweeps up.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from residscope.errors import FileNotThere

if os.name == "posix":
    import fcntl

DRAFT = re.compile(r"\.residscope-[0-9a-f]{8}")


def replace_whole(
    path: str | Path, write: Callable[[Path], Any], *, private: bool = False, durable: bool = True
) -> None:
    """Let `write` make a file, then give it the name `path`: at every moment there is the old one or the new one.

    private: for its owner alone, whatever the umask says. durable: not answered before it is on the disk; where it need not be,
    a process that is killed has still written it, a machine that loses its power may not have.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotThere("there is no such folder", received=str(path.parent), fix="make it first")
    sweep(path.parent)
    with drafts(path.parent) as made:
        draft = made / path.name
        make(draft, write, private=private, durable=durable)
        draft.replace(path)
        if durable and os.name == "posix":
            sync(path.parent)


def make(draft: Path, write: Callable[[Path], Any], *, private: bool = False, durable: bool = True) -> None:
    """Let `write` make a file of a folder of drafts, with the mode and as safe on the disk as `replace_whole` has it."""
    draft.touch(0o600 if private else 0o666)
    mode = draft.stat().st_mode  # as the user's umask has it; safetensors makes its files for the owner alone
    write(draft)
    draft.chmod(mode)
    if durable:
        sync(draft)


@contextmanager
def drafts(folder: Path) -> Iterator[Path]:
    """A folder in `folder` to make something in, out of which it is renamed when it is whole; gone when the block ends.

    It is locked while its process lives: one that is not locked was left by a process that was killed, and `sweep` removes it.
    """
    made, lock = _new_draft(folder)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(folder: Path, *, below: bool = False) -> None:
    """Remove what killed processes were making in a folder, or anywhere below it; what a living one makes stays."""
    for place, names, _ in os.walk(folder):
        for name in filter(DRAFT.fullmatch, names):
            if (lock := _locked(Path(place, name), wait=False)) is not None:
                shutil.rmtree(Path(place, name), ignore_errors=True)
                os.close(lock)
        names[:] = [name for name in names if below and not DRAFT.fullmatch(name)]


def _new_draft(folder: Path) -> tuple[Path, int | None]:
    while True:
        made = folder / f".residscope-{secrets.token_hex(4)}"
        made.mkdir(0o700)
        lock = _locked(made, wait=True)
        if made.is_dir():
            return made, lock
        if lock is not None:  # it was swept up before it was locked
            os.close(lock)


def _locked(folder: Path, *, wait: bool) -> int | None:
    """A lock on a folder, which goes with its process; None where another has it, and where folders cannot be locked."""
    if os.name != "posix":
        return None
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(handle)
            raise
        return handle
    return None


def sync(path: str | Path) -> None:
    """A file's content, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
