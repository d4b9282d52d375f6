"""Looking after a library: is everything there and whole, and what can go."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Table, delete, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from residscope.errors import DamagedStore
from residscope.store import keeping, tensors
from residscope.store.database import WAY_BACK, Database
from residscope.store.desk import now
from residscope.store.rows import problems
from residscope.store.tables import Base, Direction, Tensors, User

DAY = 86_400_000_000  # microseconds
SLACK = 60_000_000  # microseconds: by how much a disk's clock may be behind
MOST_PROBLEMS = 100  # told of one table


@dataclass(frozen=True)
class Health:
    """What `check` found: no `problems`, and all is well. `loose` files belong to no row: `gc` takes them."""

    directions: int
    tensors: int
    loose: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Freed:
    directions: int
    tensors: int
    bytes: int


def check(database: Database) -> Health:
    """Read everything: the tables, each row's values and references, and every tensor."""
    with database.alone("upkeep"), database.reading() as session:
        connection = session.connection()
        found, tables = _problems(database, connection)
        named = set(session.scalars(select(Tensors.sha256))) if "tensors" in tables else set()
        for sha256 in sorted(named):
            try:
                tensors.get(database, session, sha256)
            except DamagedStore as error:
                asked = select(Direction.name).where(Direction.tensors == sha256)
                names = session.scalars(asked).all() if "directions" in tables else []
                found.append(f"{error.failed}: {error.received} ({', '.join(names) or 'no direction needs it'})")
        live = select(func.count()).where(Direction.deleted_at.is_(None)).select_from(Direction)
        count = session.scalar(live) if "directions" in tables else 0
        loose = len(_loose(database, named))
    return Health(count or 0, len(named), loose, tuple(found))


def gc(database: Database, *, older_than: float = 30) -> Freed:
    """Delete for good what was deleted more than `older_than` days ago, and tensors that nothing names any more.

    A file goes after the row that named it is gone for certain: a crash in between leaves a loose file, which the next gc takes.
    A loose file that is older than everything in the database is not this database's to delete: it stays.

    Raises:
        DamagedStore: the database has problems, so what it does not name may be wanted; nothing is deleted.
    """
    before = now() - round(older_than * DAY)
    with database.alone("upkeep"):
        with database.reading() as session:
            found, _ = _problems(database, session.connection())
        if found:
            raise DamagedStore(
                f"nothing is deleted: the library has {len(found)} problems", received=found[0],
                allowed="a library that `residscope store check` finds whole",
                fix=WAY_BACK if database.file is None else keeping.way_back(database.file),
            )  # fmt: skip
        with database.writing() as session:
            if not database.is_sqlite:  # wait for those who are saving, and let nobody begin
                session.execute(text("LOCK TABLE tensors IN EXCLUSIVE MODE"))
            gone = session.execute(
                delete(Direction).where(Direction.deleted_at <= before).returning(Direction.id)
            ).all()
            unnamed = ~select(Direction.id).where(Direction.tensors == Tensors.sha256).exists()
            freed = session.execute(
                delete(Tensors).where(unnamed).returning(Tensors.size).execution_options(synchronize_session=False)
            ).all()
        size = sum(row.size for row in freed)
        if not database.is_sqlite:
            return Freed(len(gone), len(freed), size)
        with database.writing() as session:  # nobody saves meanwhile
            began = session.scalar(select(func.min(User.created_at)))
            loose = _loose(database, set(session.scalars(select(Tensors.sha256))))
            own = [] if began is None else [file for file in loose if file.stat().st_mtime_ns // 1000 >= began - SLACK]
            size = sum(file.stat().st_size for file in own)
            for file in own:
                file.unlink()
    return Freed(len(gone), len(own), size)


def _problems(database: Database, connection: Connection) -> tuple[list[str], set[str]]:
    """What is wrong with the tables, their rows and references; and the names of the tables that are whole."""
    found: list[str] = []
    if database.is_sqlite:
        for asked in ("integrity_check", "foreign_key_check"):
            found += _said(database, connection, asked)
    held, whole = inspect(connection), set[str]()
    there = set(held.get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name not in there:
            found.append(f"{database.name}: the table {table.name} is missing")
            continue
        lacking = {*table.c.keys()} - {column["name"] for column in held.get_columns(table.name)}
        if lacking:
            found.append(f"{database.name}: the table {table.name} has no {', '.join(sorted(lacking))}")
            continue
        whole.add(table.name)
        found += _of_rows(database, connection, table)
    return found, whole


def _said(database: Database, connection: Connection, asked: str) -> list[str]:
    """What SQLite itself finds."""
    try:
        rows = connection.exec_driver_sql(f"PRAGMA {asked}").all()
    except DBAPIError as error:
        return [f"{database.name}: {error.orig}"]
    if asked == "integrity_check":
        return [f"{database.name}: {said}" for (said,) in rows if said != "ok"]
    return [
        f"{database.name}: row {row} of {table} names a row of {parent} that is not there"
        for table, row, parent, _ in rows
    ]


def _of_rows(database: Database, connection: Connection, table: Table) -> list[str]:
    columns = [column for column in table.c if column.name != "content"]
    found: list[str] = []
    try:
        names = ", ".join(f'"{column.name}"' for column in columns)
        if database.is_sqlite:  # as it is kept, whatever its type
            rows = connection.exec_driver_sql(f'SELECT {names} FROM "{table.name}"')
        else:
            rows = connection.execute(select(*columns))
        for row in rows.mappings():
            key = ", ".join(str(row[column.name]) for column in table.primary_key.columns)
            found += [f"{database.name}: {table.name} {key[:80]}: {said}" for said in problems(table, dict(row))]
            if len(found) >= MOST_PROBLEMS:
                return [*found, f"{database.name}: and more in {table.name}"]
    except (DBAPIError, DamagedStore) as error:
        found.append(f"{database.name}: {table.name} cannot be read: {getattr(error, 'orig', error)}")
    return found


def _loose(database: Database, named: set[str]) -> list[Path]:
    if not database.is_sqlite:
        return []
    return [file for file in tensors.folder(database).glob("??/*") if file.is_file() and file.name not in named]
