"""Backups: one zip of JSON lines and tensors, made in one snapshot and the same for both databases.

manifest.json           format, revision of the tables, sha256 of every other member
tables/NAME.jsonl       a row a line, bytes as base64
tensors/SHA256          safetensors
"""

import base64
import hashlib
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, LargeBinary, MetaData, Table, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from residscope.drafts import replace_whole
from residscope.errors import DamagedStore, FileNotThere, StoreNotEmpty, StoreTooNew
from residscope.incoming import content, mapping, parsed, regular
from residscope.store import keeping, migrate, tensors
from residscope.store.database import Database
from residscope.store.rows import problems
from residscope.store.tables import Base

FORMAT = "residscope-library-1"
ROWS_AT_ONCE = 500
AGAIN = "take another backup"
SQLITE = b"SQLite format 3\0"
MOST_GROWN = 50  # times its packed size that a member may have: rows of JSON are packed to a tenth
SMALL = 1 << 20  # bytes that any member may have
# what reading a zip raises where a bit of it has changed; RuntimeError: it then says that it is encrypted.
# IntegrityError and the like: rows that are each of the right types, and do not belong together
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, OSError, NotImplementedError, EOFError,
    RuntimeError, IntegrityError, StatementError,
)  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """What a backup holds: rows by table, and the tensors."""

    revision: str
    rows: dict[str, int]
    tensors: int


def backup(database: Database, path: str | Path) -> Archive:
    """Write the whole library as it is at this moment, whoever is changing it meanwhile.

    Raises:
        DamagedStore: a tensor is damaged. FileNotThere: the folder to write to is not there.
    """
    with database.alone("upkeep"), database.reading() as session:
        sums: dict[str, str] = {}
        rows: dict[str, int] = {}
        revision = migrate.revision(session.connection())
        assert revision is not None
        made = Archive(revision, rows, 0)

        def write(draft: Path) -> None:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:

                def add(name: str, data: bytes) -> None:
                    archive.writestr(name, data)
                    sums[name] = hashlib.sha256(data).hexdigest()

                for table in Base.metadata.sorted_tables:
                    lines = list(_lines(session.connection(), table))
                    rows[table.name] = len(lines)
                    add(f"tables/{table.name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
                for sha256 in session.scalars(select(Base.metadata.tables["tensors"].c.sha256)).all():
                    add(f"tensors/{sha256}", tensors.get(database, session, sha256))
                manifest = {"format": FORMAT, "revision": revision, "rows": rows, "sha256": sums}
                archive.writestr("manifest.json", json.dumps(manifest, indent=1))

        replace_whole(path, write)
    return Archive(made.revision, rows, rows["tensors"])


def restore(database: Database, path: str | Path) -> Archive:
    """Fill an empty library (opened with `upgrade=False`) from a backup of either database, wholly or not at all.

    A copy out of the folder `backups` (SQLite's own) is taken too; the tensors that it names are those beside the library.

    Raises:
        FileNotThere, DamagedStore: the backup is not there, or not whole. StoreTooNew: it is a newer Residscope's.
        StoreNotEmpty: something is in the library.
    """
    path = Path(path).expanduser()
    if not regular(path):
        raise FileNotThere("there is no such backup", received=str(path))
    try:
        if content(path, most=len(SQLITE), part=True) == SQLITE:
            return _from_copy(database, path)
        with zipfile.ZipFile(path) as archive:
            found = _checked(archive, path)
            with database.alone("open"), database.connection() as connection:
                _empty(connection, database)
                _begin(database)
                migrate.upgrade(connection, found.revision)
                _fill(connection, database, archive)
                migrate.upgrade(connection)
    except UNREADABLE as error:
        said = (
            error.orig
            if isinstance(error, DBAPIError)
            else f"{error} is missing"
            if isinstance(error, KeyError)
            else error
        )
        raise _damaged(path, str(said).splitlines()[0][:300] if str(said) else type(error).__name__) from error
    return found


def _from_copy(database: Database, path: Path) -> Archive:
    if database.file is None:
        raise DamagedStore(
            "that is a copy of a SQLite database", received=str(path), allowed="a .zip of `store backup`"
        )
    asked = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(asked, uri=True)) as source:
        try:
            said = source.execute("PRAGMA integrity_check").fetchone()[0]
            revision = source.execute(f"SELECT version_num FROM {migrate.VERSION_TABLE}").fetchone()[0]
        except (sqlite3.Error, TypeError) as error:
            raise _damaged(path, str(error)) from error
        if said != "ok" or revision not in migrate.revisions():
            raise _damaged(path, f"{said}; revision {revision}")
        with database.alone("open"):
            with database.connection() as connection:
                _empty(connection, database)
            database.close()
            _begin(database)
            with closing(sqlite3.connect(database.file)) as into:
                source.backup(into)
            with database.connection() as connection:
                migrate.upgrade(connection)
                rows = {
                    table.name: connection.scalar(select(func.count()).select_from(table)) or 0
                    for table in Base.metadata.sorted_tables
                }
    return Archive(str(revision), rows, rows["tensors"])


def _begin(database: Database) -> None:
    if database.file is not None:
        keeping.forget(database.file)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member whole, unless it would grow beyond what is packed so tightly. Raises ValueError, KeyError."""
    info = archive.getinfo(name)
    if info.file_size > MOST_GROWN * info.compress_size + SMALL:
        raise ValueError(f"{name} would grow from {info.compress_size:,} to {info.file_size:,} bytes")
    return archive.read(info)


def _lines(connection: Connection, table: Table) -> Iterator[str]:
    kept = [column for column in table.c if column.name != "content"]
    query = select(*kept).order_by(*table.primary_key.columns)
    for row in connection.execute(query.execution_options(yield_per=ROWS_AT_ONCE)).mappings():
        yield json.dumps({k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in row.items()})


def _checked(archive: zipfile.ZipFile, path: Path) -> Archive:
    """The manifest, every member read and compared with it."""
    manifest = mapping(parsed(_member(archive, "manifest.json")), "the manifest")
    sums, rows = mapping(manifest["sha256"], "its list of contents"), mapping(manifest["rows"], "its list of tables")
    if manifest["format"] != FORMAT:
        raise StoreTooNew("that backup is in another format", received=str(manifest["format"])[:80], allowed=FORMAT)
    if manifest["revision"] not in migrate.revisions():
        raise StoreTooNew(
            "a newer Residscope has made this backup",
            received=f"revision {manifest['revision']}",
            allowed=f"up to {migrate.revisions()[-1]}",
            fix="pip install --upgrade residscope",
        )
    named = sorted(archive.namelist())
    if named != sorted([*sums, "manifest.json"]):
        raise _damaged(path, "its list of contents is not the one that was written")
    for name, sha256 in sums.items():
        kind, _, last = name.partition("/")
        found = hashlib.sha256(_member(archive, name)).hexdigest()
        if found != sha256 or (kind == "tensors" and found != last):
            raise _damaged(path, f"{name} is not what was written (sha256)")
    return Archive(manifest["revision"], dict(rows), rows["tensors"])


def _empty(connection: Connection, database: Database) -> None:
    """Take away tables of ours that hold nothing; refuse where one holds something."""
    if migrate.revision(connection) is None:
        return
    names = set(inspect(connection).get_table_names()) & set(Base.metadata.tables)
    for name in names:
        if connection.scalar(text(f"SELECT 1 FROM {name} LIMIT 1")):
            raise StoreNotEmpty(
                "a backup is restored into an empty library",
                received=f"{name} in {database.name}",
                fix="set RESIDSCOPE_DATA to a new folder, or give --store another database",
            )
    held = MetaData()
    held.reflect(connection, only=[*names, migrate.VERSION_TABLE])
    held.drop_all(connection)


def _fill(connection: Connection, database: Database, archive: zipfile.ZipFile) -> None:
    held = MetaData()
    held.reflect(connection)
    for table in held.sorted_tables:
        if table.name == migrate.VERSION_TABLE:
            continue
        for column in table.c:
            if isinstance(column.type, JSON):
                column.type = JSON(none_as_null=True)
        raw = {column.name for column in table.c if isinstance(column.type, LargeBinary)}
        lines = _member(archive, f"tables/{table.name}.jsonl").split(b"\n")
        rows = [dict(mapping(parsed(line), f"a row of {table.name}")) for line in lines if line]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = [_row(row, table, raw, database, archive) for row in rows[start : start + ROWS_AT_ONCE]]
            connection.execute(table.insert(), batch)
        if not database.is_sqlite and rows and isinstance(rows[0].get("id"), int):
            last = {"last": max(row["id"] for row in rows)}
            connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), :last)"), last)


def _row(
    row: dict[str, Any], table: Table, raw: set[str], database: Database, archive: zipfile.ZipFile
) -> dict[str, Any]:
    row = {
        name: base64.b64decode(value, validate=True) if name in raw and value is not None else value
        for name, value in row.items()
    }
    for problem in problems(table, row):
        raise ValueError(f"a row of {table.name}: {problem}")
    if "sha256" in row:
        data = _member(archive, f"tensors/{row['sha256']}")
        row["content"] = None if database.is_sqlite else data
        if database.is_sqlite:
            tensors.write(tensors.path(database, row["sha256"]), data)
    return row


def _damaged(path: Path, why: str) -> DamagedStore:
    return DamagedStore(f"the backup {path.name} is damaged: {why}", received=str(path), fix=AGAIN)
