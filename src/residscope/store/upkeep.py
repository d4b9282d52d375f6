"""Looking after a library: is everything there and whole, and what can go."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, func, select, text

from residscope.errors import DamagedStore
from residscope.store import tensors
from residscope.store.database import Database
from residscope.store.desk import now
from residscope.store.tables import Direction, Tensors

DAY = 86_400_000_000  # microseconds


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
    """Read every row's references and every tensor."""
    with database.alone("upkeep"), database.reading() as session:
        problems = []
        if database.is_sqlite:
            found = session.execute(text("PRAGMA integrity_check")).scalars()
            problems += [f"{database.name}: {said}" for said in found if said != "ok"]
            for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
                problems.append(f"{database.name}: row {row} of {table} names a row of {parent} that is not there")
        named = session.scalars(select(Tensors.sha256)).all()
        for sha256 in named:
            try:
                tensors.get(database, session, sha256)
            except DamagedStore as error:
                names = session.scalars(select(Direction.name).where(Direction.tensors == sha256)).all()
                problems.append(f"{error.failed}: {error.received} ({', '.join(names) or 'no direction needs it'})")
        count = session.scalar(select(func.count()).where(Direction.deleted_at.is_(None)).select_from(Direction))
        loose = len(_loose(database, set(named)))
    return Health(count or 0, len(named), loose, tuple(problems))


def gc(database: Database, *, older_than: float = 30) -> Freed:
    """Delete for good what was deleted more than `older_than` days ago, and tensors that nothing names any more.

    A file goes after the row that named it is gone for certain: a crash in between leaves a loose file, which the next gc takes.
    """
    before = now() - round(older_than * DAY)
    with database.alone("upkeep"):
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
            loose = _loose(database, set(session.scalars(select(Tensors.sha256))))
            size = sum(file.stat().st_size for file in loose)
            for file in loose:
                file.unlink()
    return Freed(len(gone), len(loose), size)


def _loose(database: Database, named: set[str]) -> list[Path]:
    if not database.is_sqlite:
        return []
    return [file for file in tensors.folder(database).glob("??/*") if file.is_file() and file.name not in named]
