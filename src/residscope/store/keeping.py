"""What lies beside a library in SQLite: copies of its database, and how far its log of changes had come.

backups/NAME-DATE.db    one before each migration, and one a day that it is opened on with changes; the last few are kept
.NAME.seen              the number of the last change; the log is only ever added to, so that a database with fewer has shrunk
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from residscope.drafts import replace_whole, sweep
from residscope.errors import DamagedStore
from residscope.incoming import Unreadable, content, parsed, regular

FOLDER = "backups"
MOST_COPIES = 7
DAY = 86_400  # seconds
NETWORK = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs",
        "ncpfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph",
    }
)  # fmt: skip


def copies(file: Path) -> list[Path]:
    """The copies that are kept of a database, the latest last."""
    return sorted((file.parent / FOLDER).glob(f"{file.stem}-[0-9]*.db"))


def copy(file: Path) -> Path:
    """Copy a database as it is at this moment, and let go of the oldest copies. Raises OSError, sqlite3.Error."""
    folder = file.parent / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    made = folder / f"{file.stem}-{time.strftime('%Y%m%d-%H%M%S')}.db"
    replace_whole(made, lambda draft: _copied(file, draft), private=True)
    for old in copies(file)[:-MOST_COPIES]:
        old.unlink(missing_ok=True)
    return made


def copy_daily(file: Path, last: int) -> None:
    """A copy where the last is a day old and there is anything to copy; a full disk costs the copy alone."""
    kept = copies(file)
    if last and (not kept or time.time() - kept[-1].stat().st_mtime > DAY):
        with contextlib.suppress(OSError, sqlite3.Error):
            copy(file)


def _copied(file: Path, draft: Path) -> None:
    asked = f"{file.absolute().as_uri()}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(asked, uri=True)) as source,
        contextlib.closing(sqlite3.connect(draft)) as made,
    ):
        source.backup(made)
        made.execute("PRAGMA journal_mode = DELETE")


def seen(file: Path) -> int:
    """The number of the last change that a database was known to have; 0 where nothing is known."""
    try:
        told = parsed(content(_seen_file(file)))
        return told["changes"] if isinstance(told, dict) and isinstance(told.get("changes"), int) else 0
    except (FileNotFoundError, Unreadable):
        return 0


def note(file: Path, last: int) -> None:
    """Keep the number of the last change; that it cannot be kept costs a warning later alone."""
    if last != seen(file):
        with contextlib.suppress(OSError):
            replace_whole(_seen_file(file), lambda draft: draft.write_text(json.dumps({"changes": last})), private=True)


def forget(file: Path) -> None:
    """What is restored, or begun anew, is not compared with what was there before."""
    _seen_file(file).unlink(missing_ok=True)


def require_whole(file: Path, last: int) -> None:
    """Refuse a database that has lost changes since it was last open. Raises DamagedStore."""
    if last < (known := seen(file)):
        raise DamagedStore(
            "the library has shrunk since it was last open",
            received=f"{last:,} changes in {file}",
            allowed=f"the {known:,} that it had",
            fix=f"{way_back(file)}; to go on with what is there, delete {_seen_file(file)}",
        )


def require_content(file: Path, tensors: Path) -> None:
    """Refuse a database of no bytes in the place of one that had some. Raises DamagedStore."""
    if not file.exists():
        forget(file)
        return
    if regular(file) and file.stat().st_size:
        return
    if not regular(file) or seen(file) or copies(file) or any(tensors.glob("??/*")):
        raise DamagedStore(
            "the library's database is empty, and was not" if regular(file) else "the library's database is no file",
            received=f"{file}, 0 bytes",
            allowed="the database that the tensors beside it belong to",
            fix=way_back(file),
        )


def sweep_beside(file: Path, tensors: Path) -> None:
    """Remove what killed processes were writing of a library."""
    sweep(file.parent)
    sweep(file.parent / FOLDER)
    sweep(tensors, below=True)


def way_back(file: Path) -> str:
    """How a library whose database is damaged or gone is had again."""
    away = f"move {file} away (with {file.name}-wal and {file.name}-shm, if they are there), then"
    if kept := copies(file):
        return f"{away} `residscope store restore {kept[-1]}`: its last backup"
    return f"{away} `residscope store restore` a backup of yours, or begin anew"


def _seen_file(file: Path) -> Path:
    return file.with_name(f".{file.name}.seen")


def network(folder: Path) -> str | None:
    """The kind of network file system that a folder lies on; None for a disk, and where that is not known."""
    place, best, kind = os.path.realpath(folder), "", ""
    for mounted, one in _mounts():
        inside = mounted == "/" or place == mounted or place.startswith(f"{mounted.rstrip('/')}/")
        if inside and len(mounted) >= len(best):
            best, kind = mounted, one
    return kind if kind in NETWORK else None


def _mounts() -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            if len(parts := line.split()) >= 3:
                yield parts[1].replace("\\040", " "), parts[2]


def writable(folder: Path, file: Path) -> bool:
    """Whether a database there can be written, or made."""
    return os.access(folder, os.W_OK | os.X_OK) and (not file.exists() or os.access(file, os.W_OK))
