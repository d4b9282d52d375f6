"""A library that is damaged, has shrunk, or lies where it cannot be written says so; nothing that may be wanted is deleted."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from residscope.errors import DamagedStore, StoreUnreachable
from residscope.store import Database, Library, keeping, open_library
from residscope.store.archive import backup, restore
from residscope.store.upkeep import check, gc
from store.things import MODEL, direction


def made(folder: Path, n: int = 2) -> list[Path]:
    """A library with so many directions, closed; the files of their tensors."""
    library = open_library(folder=folder)
    for i in range(n):
        library.save(direction(i, provenance={"i": i}), model=MODEL, user="ada", description="this")
    library.close()
    return sorted(folder.glob("tensors/??/*"))


def sql(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "library.db") as raw:
        for statement in statements:
            raw.execute(statement)
    raw.close()


DAMAGES = {
    "a table is gone": ("DROP TABLE votes", "the table votes is missing"),
    "a column is gone": ("ALTER TABLE directions DROP COLUMN head", "has no head"),
    "provenance that is no JSON": ("UPDATE directions SET provenance = '{'", "provenance"),
    "provenance that is a list": ("UPDATE directions SET provenance = '[1]'", "provenance is a list"),
    "provenance that is deep": (f"UPDATE directions SET provenance = '{'[' * 3000}'", "provenance it is nested"),
    "a site that is none": ("UPDATE directions SET site = 'nowhere.3'", "site"),
    "a time that is a text": ("UPDATE users SET created_at = 'now'", "created_at is no whole number"),
    "a time of no year": (f"UPDATE directions SET created_at = {2**62}", "created_at is"),
    "a name that is bytes": ("UPDATE directions SET name = x'ff00'", "name is a bytes"),
    "a name of half a character": ("UPDATE directions SET name = CAST(x'61ff' AS TEXT)", "cannot be read"),
    "an owner that is nobody": ("UPDATE directions SET owner_id = 99", "names a row of users"),
    "a tensor of another hash": ("UPDATE directions SET tensors = 'x'", "tensors is no sha256"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_check_reads_everything_and_gc_deletes_nothing_that_a_doubtful_index_does_not_name(
    what: str, tmp_path: Path
) -> None:
    statement, said = DAMAGES[what]
    files = made(tmp_path)
    (tmp_path / "tensors" / "ab").mkdir(exist_ok=True)
    loose = tmp_path / "tensors" / "ab" / ("ab" * 32)
    loose.write_bytes(b"of a save that was killed")
    sql(tmp_path, statement)
    library = open_library(folder=tmp_path)
    problems = check(library.database).problems
    assert any(said in problem for problem in problems), problems
    with pytest.raises(DamagedStore, match="nothing is deleted") as caught:
        gc(library.database, older_than=0)
    assert "store restore" in str(caught.value.fix)
    library.close()
    assert all(file.is_file() for file in (*files, loose))


def test_a_whole_library_has_no_problems_and_its_gc_works(tmp_path: Path) -> None:
    """The negative control."""
    made(tmp_path)
    loose = tmp_path / "tensors" / "ab" / ("ab" * 32)
    loose.parent.mkdir(exist_ok=True)
    loose.write_bytes(b"of a save that was killed")
    library = open_library(folder=tmp_path)
    assert check(library.database).problems == ()
    library.delete(library.search().entries[0].id, user="ada")
    freed = gc(library.database, older_than=0)
    library.close()
    assert (freed.directions, freed.tensors) == (1, 2)
    assert not loose.exists()


def test_an_empty_database_in_the_place_of_one_that_was_not_is_refused_with_the_way_back(tmp_path: Path) -> None:
    files = made(tmp_path)
    for name in ("library.db-wal", "library.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    open_library(folder=tmp_path).close()  # the day's copy
    (tmp_path / "library.db").write_bytes(b"")
    with pytest.raises(DamagedStore, match="is empty, and was not") as caught:
        open_library(folder=tmp_path)
    (copy,) = keeping.copies(tmp_path / "library.db")
    assert str(copy) in str(caught.value.fix)
    assert all(file.is_file() for file in files)

    (tmp_path / "library.db").rename(tmp_path / "away")  # as it says
    database = Database(None, folder=tmp_path, upgrade=False)
    restore(database, copy)
    database.close()
    library = open_library(folder=tmp_path)
    assert len(library.search().entries) == 2
    assert check(library.database).problems == ()
    library.close()


def test_an_empty_file_where_nothing_ever_was_is_a_new_library(tmp_path: Path) -> None:
    (tmp_path / "library.db").touch()
    assert len(made(tmp_path)) == 2


def test_tensors_older_than_the_index_are_not_its_own_to_delete(tmp_path: Path) -> None:
    """`library.db` lost, and begun anew by mistake: the tensors survive every gc."""
    files = made(tmp_path)
    for file in tmp_path.glob("library.db*"):
        file.unlink()
    for file in files:
        os.utime(file, (1e9, 1e9))
    library = open_library(folder=tmp_path)
    assert gc(library.database, older_than=0).tensors == 0
    library.save(direction(9), model=MODEL, user="ada")
    assert gc(library.database, older_than=0).tensors == 0
    library.close()
    assert all(file.is_file() for file in files)


def test_a_library_that_shrank_is_refused_until_it_is_said_to_be_meant(tmp_path: Path) -> None:
    made(tmp_path, 1)
    shutil.copy(tmp_path / "library.db", tmp_path / "older")
    made(tmp_path, 3)
    for name in ("library.db-wal", "library.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "older", tmp_path / "library.db")
    with pytest.raises(DamagedStore, match="has shrunk") as caught:
        open_library(folder=tmp_path)
    assert ".library.db.seen" in str(caught.value.fix)
    (tmp_path / ".library.db.seen").unlink()
    library = open_library(folder=tmp_path)
    assert len(library.search().entries) == 1
    library.close()


def test_a_copy_is_made_before_a_migration_and_once_a_day(tmp_path: Path) -> None:
    from residscope.store import migrate

    old = Database(None, folder=tmp_path, upgrade=False)
    with old.connection() as connection:
        migrate.upgrade(connection, migrate.revisions()[-2])
    old.close()
    assert keeping.copies(tmp_path / "library.db") == []
    library = open_library(folder=tmp_path)
    (copy,) = keeping.copies(tmp_path / "library.db")
    with sqlite3.connect(copy) as raw:
        assert raw.execute("SELECT version_num FROM residscope_version").fetchone() == (migrate.revisions()[-2],)
    raw.close()
    assert copy.stat().st_mode & 0o777 == 0o600
    library.save(direction(), model=MODEL, user="ada")
    library.close()
    open_library(folder=tmp_path).close()
    assert len(keeping.copies(tmp_path / "library.db")) == 1  # not yet a day
    os.utime(copy, (1e9, 1e9))
    copy.rename(copy.with_name("library-20010909-014640.db"))
    open_library(folder=tmp_path).close()
    assert len(keeping.copies(tmp_path / "library.db")) == 2


def test_a_folder_that_cannot_be_written_is_listed_and_backed_up(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    monkeypatch.setattr(keeping, "writable", lambda folder, file: False)
    before = sorted(path.name for path in tmp_path.iterdir())
    library = open_library(folder=tmp_path)
    assert [entry.name for entry in library.search().entries] == ["direction 1", "direction 0"]
    zipped = tmp_path_factory.mktemp("elsewhere") / "b.zip"
    assert backup(library.database, zipped).rows["directions"] == 2
    assert check(library.database).problems == ()
    with pytest.raises(StoreUnreachable, match="readonly"):
        library.save(direction(7), model=MODEL, user="ada")
    library.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_network_file_system_is_known_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeping.network(tmp_path) is None
    monkeypatch.setattr(
        keeping, "_mounts", lambda: [("/", "ext4"), (str(tmp_path.parent), "nfs4"), (f"{tmp_path}x", "cifs")]
    )
    assert keeping.network(tmp_path) == "nfs4"
    library = open_library(folder=tmp_path)
    with library.database.connection() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    entry = library.save(direction(), model=MODEL, user="ada")
    assert library.get(entry.id).entry.name == "direction 0"
    monkeypatch.setattr(keeping, "require_whole", _locked)
    with pytest.raises(StoreUnreachable, match="network file system \\(nfs4\\)"):
        open_library(folder=tmp_path)
    library.close()


def _locked(*_: object) -> None:
    raise sqlite3.OperationalError("database is locked")


def test_rows_of_wrong_types_in_a_backup_are_refused_whole(tmp_path: Path) -> None:
    import hashlib
    import zipfile

    made(tmp_path / "old")
    library = open_library(folder=tmp_path / "old")
    backup(library.database, tmp_path / "b.zip")
    library.close()
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    rows = [json.loads(line) for line in members["tables/directions.jsonl"].splitlines()]
    rows[1]["provenance"] = "text"
    members["tables/directions.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    manifest = json.loads(members["manifest.json"])
    manifest["sha256"]["tables/directions.jsonl"] = hashlib.sha256(members["tables/directions.jsonl"]).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    database = Database(None, folder=tmp_path / "new", upgrade=False)
    with pytest.raises(DamagedStore, match="provenance"):
        restore(database, tmp_path / "c.zip")
    restore(database, tmp_path / "b.zip")  # nothing of the other is in the way
    assert len(Library(database).search().entries) == 2
    database.close()
