"""One database: SQLite in the data folder, or PostgreSQL by URL. Opening it brings it up to date."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from residscope.errors import BadArguments, BadText, DamagedStore, MissingExtra, StoreError, StoreUnreachable
from residscope.incoming import Unreadable, parsed
from residscope.store import keeping, migrate

FILE = "library.db"
BUSY_SECONDS = 30
PRAGMAS = (f"busy_timeout = {BUSY_SECONDS * 1000}", "foreign_keys = ON", "synchronous = FULL")
DAMAGED = ("malformed", "not a database", "disk image", "no such table", "no such column", "decode to UTF-8")
ALLOWED = "postgresql+psycopg://USER@HOST/DATABASE or sqlite:////absolute/path.db"
WAY_BACK = "restore a backup with `residscope store restore`, or move the file away to begin anew"


class Database:
    """Transactions on one database, each either `reading()` or `writing()`.

    What `writing()` has left is on the disk (SQLite: write-ahead log, synchronous=FULL). SQLite's writers stand in line: within
    a process at a lock, between processes at the database's own. A reader sees one state of everything, and never waits.

    A folder that cannot be written is read as it is (`read_only`). On a network file system the log is SQLite's older one,
    which such systems can lock: readers wait while somebody writes.

    Raises:
        StoreUnreachable, DamagedStore, StoreTooNew, MissingExtra.
    """

    def __init__(self, url: str | None = None, *, folder: Path, upgrade: bool = True) -> None:
        self._url = _parsed(url, folder)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.name = self._url.database if self.is_sqlite else self._url.render_as_string(hide_password=True)
        self.folder = Path(self._url.database or "").parent if self.is_sqlite else folder
        self.file = Path(self._url.database or "").absolute() if self.is_sqlite else None
        self.read_only = self.file is not None and self.file.is_file() and not keeping.writable(self.folder, self.file)
        self._engine = _engine(_as_it_is(self._url) if self.read_only else self._url)
        self._write = self._engine.execution_options(residscope_writes=True)
        self._line = threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        with self._told():
            if self.file is not None:
                _private_folder(self.folder)
            with self.alone("open"):
                if self.file is not None and not self.read_only:
                    keeping.sweep_beside(self.file, tensors_beside(self.file))
                    if upgrade:
                        keeping.require_content(self.file, tensors_beside(self.file))
                    _private(self.file)
                    self._journal()
                if upgrade:
                    self._bring_up_to_date()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        with self._told(), Session(self._engine) as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is kept when the block ends, and left without a trace when it raises."""
        with self._told(), self._line, Session(self._write, expire_on_commit=False) as session, session.begin():
            session.connection()  # SQLite: in line before anything is read
            yield session

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """The same without the classes of `tables`, for what works on whole tables."""
        with self._told(), self._line, self._write.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """One process at a time, where files are at stake."""
        wanted = self.is_sqlite and not self.read_only
        with FileLock(self.folder / f".{what}.lock") if wanted else contextlib.nullcontext():
            yield

    def insert(self, table: Any) -> Any:
        """An INSERT that knows ON CONFLICT."""
        return (sqlite_dialect if self.is_sqlite else postgresql).insert(table)

    def close(self) -> None:
        if self.file is not None and not self.read_only and self.file.exists():
            with contextlib.suppress(StoreError), self._told(), self._engine.connect() as connection:
                keeping.note(self.file, max(migrate.last_change(connection), keeping.seen(self.file)))
        self._engine.dispose()

    def _bring_up_to_date(self) -> None:
        """Migrated, a copy made first; and compared with what it was known to have."""
        if self.file is None:
            with self.connection() as connection:
                migrate.upgrade(connection)
            return
        with self._engine.connect() as connection:
            found, last = migrate.revision(connection), migrate.last_change(connection)
        keeping.require_whole(self.file, last)
        head = migrate.revisions()[-1]
        if self.read_only and found != head:
            raise StoreUnreachable(
                "the library is of another version, and its folder cannot be written", received=f"revision {found}",
                allowed=f"revision {head}", fix=f"mend the permissions of {self.folder}, or copy it and set RESIDSCOPE_DATA",
            )  # fmt: skip
        if self.read_only:
            return
        if found is not None and found in migrate.revisions() and found != head:
            keeping.copy(self.file)
        with self.connection() as connection:
            migrate.upgrade(connection)
        keeping.copy_daily(self.file, last)
        keeping.note(self.file, last)

    def _journal(self) -> None:
        raw = self._engine.raw_connection()
        try:
            raw.cursor().execute(f"PRAGMA journal_mode = {'DELETE' if keeping.network(self.folder) else 'WAL'}")
        finally:
            raw.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """The database's own errors, and the disk's, as ours."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            raw = (error.orig if isinstance(error, DBAPIError) else error) or error
            said = (str(raw).strip() or type(raw).__name__).splitlines()[0]
            if any(sign in said for sign in DAMAGED):
                fix = WAY_BACK if self.file is None else keeping.way_back(self.file)
                raise DamagedStore(f"the library is damaged: {said}", received=self.name, fix=fix) from error
            if isinstance(error, OperationalError | sqlite3.Error):
                fix = "free the disk, or mend the folder's permissions" if self.is_sqlite else "start the server"
                if (kind := keeping.network(self.folder) if self.is_sqlite else None) is not None:
                    disk = "set RESIDSCOPE_DATA to a disk of this machine, or use PostgreSQL"
                    fix = f"its folder is on a network file system ({kind}): {disk}"
                raise StoreUnreachable(
                    f"the library does not answer: {said}", received=self.name, fix=f"{fix}, then try again"
                ) from error
            if isinstance(error, DataError) and "out of range" in said:
                raise _too_large() from error
            if isinstance(error, DataError):
                raise BadText(f"the library cannot hold that: {said}", fix="leave out what cannot be shown") from error
            raise
        except OverflowError as error:  # SQLite's own, of a number that its columns cannot hold
            raise _too_large() from error
        except OSError as error:
            raise StoreUnreachable(
                f"the library's folder cannot be used: {error.strerror}",
                received=error.filename or self.folder,
                fix="free the disk, mend its permissions, or set RESIDSCOPE_DATA",
            ) from error


def _too_large() -> BadArguments:
    return BadArguments(
        "the library has no number as large", allowed="one that it gave", fix="ask for one that it gave"
    )


def _private_folder(folder: Path) -> None:
    """A folder for its owner alone, where it is made here; what somebody has opened to others stays so."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _private(file: Path) -> None:
    """As `_private_folder`, of a database."""
    with contextlib.suppress(FileExistsError):
        file.touch(mode=0o600, exist_ok=False)


def tensors_beside(file: Path) -> Path:
    """`tensors` beside `library.db`; beside another file, one of its own, so that no library's gc meets another's tensors."""
    return file.parent / ("tensors" if file.name == FILE else f"{file.name}.tensors")


def _as_it_is(url: URL) -> URL:
    """SQLite's own name for a database that is only read: without a log of its own, unless changes stand in one."""
    file = Path(url.database or "").absolute()
    log = file.with_name(f"{file.name}-wal")
    still = {} if log.is_file() and log.stat().st_size else {"immutable": "1"}
    return url.set(database=file.as_uri(), query={"mode": "ro", "uri": "true", **still})


def _parsed(url: str | None, folder: Path) -> URL:
    if url is None:
        return URL.create("sqlite", database=str((folder / FILE).absolute()))
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreUnreachable("that is no database", received=url.partition("@")[2] or url, allowed=ALLOWED) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg") or not parsed.database:
        raise StoreUnreachable(
            "no such kind of database", received=parsed.render_as_string(hide_password=True), allowed=ALLOWED
        )
    return parsed


def _json(text: str | bytes) -> Any:
    try:
        return parsed(text, own=True)
    except Unreadable as error:
        raise DamagedStore(
            f"the library is damaged: what is kept of something is not JSON ({error})",
            received=repr(text[:80]),
            fix=WAY_BACK,
        ) from None


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        try:
            return create_engine(
                url, pool_size=10, max_overflow=30, pool_pre_ping=True, connect_args={"connect_timeout": 10},
                json_deserializer=_json,
            )  # fmt: skip
        except (ImportError, NoSuchModuleError):
            raise MissingExtra("PostgreSQL needs psycopg", fix="pip install residscope[postgres]") from None
    engine = create_engine(url, pool_size=10, max_overflow=30, json_deserializer=_json)

    @event.listens_for(engine, "connect")
    def connected(raw: Any, _: Any) -> None:
        raw.isolation_level = None  # transactions begin where we say
        for pragma in PRAGMAS:
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("residscope_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
