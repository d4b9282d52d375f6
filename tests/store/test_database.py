"""Opening a library: migrated from each earlier revision, refused when it is newer, foreign or damaged."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from residscope.errors import DamagedStore, MissingExtra, StoreTooNew, StoreUnreachable
from residscope.store import Database, Library, database, migrate, open_library
from residscope.store.tables import Base
from store.things import MODEL, direction

OLDER = migrate.revisions()[:-1]


def test_the_migrations_make_the_tables_that_the_code_has(library: Library) -> None:
    with library.database.connection() as connection:
        options = {"compare_type": True, "version_table": migrate.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        assert migrate.revision(connection) == migrate.revisions()[-1]


@pytest.mark.parametrize("revision", OLDER)
def test_every_earlier_revision_is_brought_up_to_date_with_what_is_in_it(
    url: str, tmp_path: Path, revision: str
) -> None:
    old = Database(url, folder=tmp_path, upgrade=False)
    with old.connection() as connection:
        migrate.upgrade(connection, revision)
        connection.execute(text("INSERT INTO users (id, name, name_key, created_at) VALUES (7, 'Ada', 'ada', 1)"))
        if not old.is_sqlite:
            connection.execute(text("SELECT setval(pg_get_serial_sequence('users', 'id'), 7)"))
    old.close()
    library = open_library(url, folder=tmp_path)
    entry = library.save(direction(), model=MODEL, user="ADA", description="d")
    assert library.get(entry.id).entry.owner == "Ada"
    with library.database.connection() as connection:
        assert migrate.revision(connection) == migrate.revisions()[-1]
        assert connection.execute(text("SELECT id, role FROM users")).all() == [(7, "member")]
    library.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    old = Database(url, folder=tmp_path, upgrade=False)
    with old.connection() as connection:
        migrate.upgrade(connection, OLDER[0])

    def fail(*_: object) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(op, "add_column", fail)
        with pytest.raises(RuntimeError):
            open_library(url, folder=tmp_path)
    with old.connection() as connection:
        assert migrate.revision(connection) == OLDER[0]
    old.close()
    open_library(url, folder=tmp_path).close()


def test_a_library_of_a_newer_residscope_is_refused_and_not_touched(url: str, tmp_path: Path) -> None:
    library = open_library(url, folder=tmp_path)
    with library.database.connection() as connection:
        connection.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreTooNew, match="9999"):
        open_library(url, folder=tmp_path)
    with library.database.connection() as connection:
        assert migrate.revision(connection) == "9999"
    library.close()


def test_tables_of_another_program_are_left_alone(url: str, tmp_path: Path) -> None:
    other = Database(url, folder=tmp_path, upgrade=False)
    with other.connection() as connection:
        connection.execute(text("CREATE TABLE users (whose INTEGER)"))
    with pytest.raises(DamagedStore, match="users"):
        open_library(url, folder=tmp_path)
    other.close()


def test_many_may_open_a_new_library_at_once(url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as crowd:
        libraries = list(crowd.map(lambda _: open_library(url, folder=tmp_path), range(8)))
    assert len({library.save(direction(), model=MODEL, user="ada").id for library in libraries}) == 1
    for library in libraries:
        library.close()


def test_what_is_answered_is_on_the_disk(tmp_path: Path) -> None:
    library = open_library(folder=tmp_path)
    with library.database.connection() as connection:
        told = {
            name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    library.close()


def test_a_damaged_database_is_refused_by_name(tmp_path: Path) -> None:
    library = open_library(folder=tmp_path)
    for seed in range(6):
        library.save(direction(seed), model=MODEL, user="ada", description="d" * 4000)
    library.close()
    file = tmp_path / database.FILE
    whole = file.read_bytes()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    file.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(DamagedStore, match=r"library\.db"):
        open_library(folder=tmp_path)
    file.write_bytes(whole[:8192] + b"\x99" * (len(whole) - 8192))
    with pytest.raises(DamagedStore, match=r"library\.db"):
        open_library(folder=tmp_path).search()


@pytest.mark.parametrize(
    "wrong",
    ["mysql://x/y", "nonsense", "", "sqlite://", "oracle://me:secret@h/d", "postgresql+psycopg2://me:secret@h/d"],
)
def test_a_url_that_is_no_database_is_refused_without_its_password(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(StoreUnreachable) as refused:
        open_library(wrong, folder=tmp_path)
    assert "secret" not in str(refused.value)


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable) as refused:
        open_library("postgresql://ada:secret@127.0.0.1:9/library", folder=tmp_path)
    assert "127.0.0.1" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_without_psycopg_postgresql_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"residscope\[postgres\]"):
        open_library("postgresql://ada@127.0.0.1:9/library", folder=tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnreachable, match="file"):
        open_library(folder=tmp_path / "file")


def test_importing_residscope_loads_no_sqlalchemy() -> None:
    code = "import sys, residscope; print({'sqlalchemy', 'alembic', 'psycopg'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
