"""Backups go from either database to either, and a damaged one is refused whole; check and gc."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sqlalchemy import text

from residscope.errors import CannotUndo, DamagedStore, FileNotThere, NotFound, StoreNotEmpty, StoreTooNew
from residscope.store import Database, Library, Search
from residscope.store.archive import backup, restore
from residscope.store.upkeep import check, gc
from store.things import MODEL, OTHER, direction


def fill(library: Library) -> None:
    for i in range(5):
        entry = library.save(
            direction(i, provenance={"i": i, "of": [None, 0.1]}, head=3 if i == 1 else None),
            model=MODEL,
            user="Ada",
            description=f"<b>{i}</b> 🙂",
        )
        said = library.describe(entry.id, "another", user="bob")
        for voter in range(i):
            library.vote(said.id, 1 if voter % 2 else -1, user=f"voter {voter}")
        library.comment(entry.id, "hm", user="cy")
        if i == 3:
            library.keep_blind(said.id, 0.5, {"interval": [0.1, 0.8]}, said=said.text, user="cy")
    library.save(direction(0), model=OTHER, user="bob", name="the same vectors")
    library.delete(entry.id, user="ada")


def everything(library: Library, *, user: str = "voter 1") -> list[dict]:
    return [library.get(entry.id, user=user).to_dict() for entry in library.search(Search(limit=100)).entries]


@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
def test_a_backup_of_either_is_restored_into_either(
    library: Library, another: Callable[[str], str], tmp_path: Path, into: str
) -> None:
    fill(library)
    made = backup(library.database, tmp_path / "b.zip")
    assert made.rows | {"events": 0} == {
        "users": 7, "models": 2, "tensors": 5, "directions": 6, "descriptions": 10, "votes": 10, "comments": 5, "events": 0,
        "blind_tests": 1,
    }  # fmt: skip
    database = Database(another(into), folder=tmp_path / "new", upgrade=False)
    assert restore(database, tmp_path / "b.zip") == made
    restored = Library(database)
    assert everything(restored) == everything(library)
    for entry in library.search().entries:
        assert torch.equal(restored.direction(entry.id).read, library.direction(entry.id).read)
        assert restored.direction(entry.id).head == library.direction(entry.id).head
    assert check(database).problems == ()
    restored.undo(user="ada")  # the log came with it
    assert len(restored.search().entries) == len(library.search().entries) + 1
    restored.save(direction(9), model=MODEL, user="somebody new", description="ids go on where they were")
    with pytest.raises(StoreNotEmpty):
        restore(database, tmp_path / "b.zip")
    restored.close()


def test_a_backup_is_of_one_moment(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from residscope.store import archive

    fill(library)
    before, lines = everything(library), archive._lines

    def meanwhile(connection, table):
        if table.name in ("votes", "tensors"):
            library.save(direction(20), model=MODEL, user="eve", name=f"late {table.name}", description="late")
        return lines(connection, table)

    monkeypatch.setattr(archive, "_lines", meanwhile)
    made = backup(library.database, tmp_path / "b.zip")
    assert (made.rows["directions"], made.tensors) == (6, 5)
    assert len(everything(library)) == len(before) + 2
    database = Database(folder=tmp_path / "new", upgrade=False)
    restore(database, tmp_path / "b.zip")
    assert everything(Library(database)) == before
    database.close()


def test_a_damaged_backup_is_refused_and_leaves_nothing(library: Library, tmp_path: Path) -> None:
    fill(library)
    good = tmp_path / "b.zip"
    backup(library.database, good)
    whole = good.read_bytes()
    bad = tmp_path / "bad.zip"
    database = Database(folder=tmp_path / "new", upgrade=False)

    def refused(error: type[Exception] = DamagedStore) -> None:
        with pytest.raises(error, match="backup"):
            restore(database, bad)

    for at in range(0, len(whole), max(1, len(whole) // 40)):
        bad.write_bytes(whole[:at])
        refused()
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def again(**changed: bytes | None) -> None:
        with zipfile.ZipFile(bad, "w") as archive:
            for name, data in (members | {k.replace("__", "/"): v for k, v in changed.items()}).items():
                if data is not None:
                    archive.writestr(name, data)

    (tensor, *_) = (name for name in members if name.startswith("tensors/"))
    again(**{tensor.replace("/", "__"): members[tensor][:-1] + b"x"})
    refused()
    again(**{tensor.replace("/", "__"): None})
    refused()
    again(**{"tables__votes.jsonl": b""})
    refused()
    again(**{"tables__more.jsonl": b"{}"})
    refused()
    manifest = json.loads(members["manifest.json"])
    again(**{"manifest.json": json.dumps(manifest | {"revision": "9999"}).encode()})
    refused(StoreTooNew)
    with pytest.raises(FileNotThere):
        restore(database, tmp_path / "none.zip")
    bad.write_bytes(whole)
    restore(database, bad)  # after all of that: nothing is in the way
    assert everything(Library(database)) == everything(library)
    database.close()


def test_gc_takes_what_nothing_names_and_no_more(library: Library) -> None:
    fill(library)
    before = everything(library)
    assert gc(library.database).directions == 0  # deleted a moment ago: still undoable
    freed = gc(library.database, older_than=0)
    assert (freed.directions, freed.tensors) == (1, 1)
    assert freed.bytes > 0
    assert everything(library) == before
    assert check(library.database).problems == ()
    assert check(library.database).tensors == 4
    with pytest.raises(CannotUndo):
        library.undo(user="ada")
    again = library.save(direction(4), model=MODEL, user="ada")
    assert torch.equal(library.direction(again.id).read, direction(4).read)
    assert gc(library.database, older_than=0).tensors == 0


def test_what_was_saved_long_ago_and_undone_today_is_kept_for_its_thirty_days(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada")
    with library.database.connection() as connection:
        connection.execute(text("UPDATE directions SET created_at = 1"))
        connection.execute(text("UPDATE events SET before = '{\"deleted_at\": 1}'"))
    library.undo(user="ada")
    assert library.search().entries == ()
    assert gc(library.database).directions == 0
    assert gc(library.database, older_than=0).directions == 1
    with pytest.raises(NotFound):
        library.get(entry.id)


def test_two_libraries_in_one_folder_leave_each_other_s_tensors_alone(tmp_path: Path) -> None:
    here, there = (Library(Database(f"sqlite:///{tmp_path}/{name}.db", folder=tmp_path)) for name in ("library", "lab"))
    kept = here.save(direction(0), model=MODEL, user="ada")
    there.save(direction(1), model=MODEL, user="ada")
    assert gc(there.database, older_than=0).tensors == 0
    assert torch.equal(here.direction(kept.id).read, direction(0).read)
    here.close()
    there.close()


def test_check_names_what_is_damaged_and_gc_takes_leavings(tmp_path: Path) -> None:
    library = Library(Database(folder=tmp_path))
    fill(library)
    files = sorted(path for path in (tmp_path / "tensors").rglob("*") if path.is_file())
    leaving = files[0].with_name(f".{files[0].name}.dead")
    leaving.write_bytes(b"half a ten")
    assert check(library.database).problems == ()
    assert check(library.database).loose == 1
    assert gc(library.database).tensors == 1
    assert not leaving.exists()
    files[1].write_bytes(b"")
    (problem,) = check(library.database).problems
    assert files[1].name in problem
    with pytest.raises(DamagedStore, match=files[1].name):
        backup(library.database, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
    with pytest.raises(NotFound):
        library.get("0")
    library.close()
