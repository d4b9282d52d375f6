"""Tensors by the hash of their content: files in the data folder, or rows of PostgreSQL.

With SQLite a tensor is a safetensors file `tensors/ab/abcdef...`, on the disk before the row that names it is kept. With
PostgreSQL it is bytes in the row: what several machines share through one database must not lie on one of them.
"""

import hashlib
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from residscope.drafts import replace_whole, sync
from residscope.errors import DamagedStore
from residscope.store.database import WAY_BACK, Database, tensors_beside
from residscope.store.tables import Tensors


def put(database: Database, session: Session, data: bytes) -> str:
    """Keep bytes under their sha256, once; the session's transaction must be a writing one."""
    sha256 = digest(data)
    if database.is_sqlite and not _whole(path(database, sha256), sha256):
        write(path(database, sha256), data)
    values = {"sha256": sha256, "size": len(data), "content": None if database.is_sqlite else data}
    insert = database.insert(Tensors).values(**values)
    session.execute(insert.on_conflict_do_nothing(index_elements=["sha256"]))
    return sha256


def get(database: Database, session: Session, sha256: str) -> bytes:
    """The bytes, checked.

    Raises:
        DamagedStore: they are missing, or not those that were saved.
    """
    place = path(database, sha256)
    try:
        if database.is_sqlite:
            data = place.read_bytes()
        else:
            data = session.scalar(select(Tensors.content).where(Tensors.sha256 == sha256)) or b""
    except OSError as error:
        raise DamagedStore(
            f"a tensor of the library cannot be read: {error.strerror}", received=str(place), fix=WAY_BACK
        ) from error
    if digest(data) != sha256:
        where = str(place) if database.is_sqlite else f"{database.name}, tensors {sha256}"
        raise DamagedStore(
            "a tensor of the library is not the one that was saved (sha256)", received=where, fix=WAY_BACK
        )
    return data


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def path(database: Database, sha256: str) -> Path:
    return folder(database) / sha256[:2] / sha256


def folder(database: Database) -> Path:
    """Where tensors lie beside the database."""
    return tensors_beside(Path(database.name or ""))


def write(place: Path, data: bytes) -> None:
    """The whole file or none, on the disk (its folders too) when this returns."""
    for parent in (place.parent.parent, place.parent):
        if not parent.is_dir():
            parent.mkdir(parents=True, exist_ok=True)
            sync(parent.parent)
    replace_whole(place, lambda draft: draft.write_bytes(data))


def _whole(place: Path, sha256: str) -> bool:
    """Whether the file is there as it should be: a damaged one is written again."""
    return place.is_file() and digest(place.read_bytes()) == sha256
