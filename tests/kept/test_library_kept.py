"""A library, a backup and directions' files of version 0.1 open with everything said in them; damage is refused by name."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import residscope as rs
from kept.told import HERE, NUMBERS, flipped, lacking
from residscope.errors import (
    DamagedFile,
    DamagedStore,
    DirectionError,
    MalformedTensors,
    ResidscopeError,
    SiteError,
    StoreNotEmpty,
)
from residscope.store import Database, Library, Search, open_library
from residscope.store.archive import restore
from residscope.store.upkeep import check

TOLD = NUMBERS["library"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the library, which opening brings up to date."""
    return Path(shutil.copytree(HERE / "library", tmp_path / "library"))


def from_backup(tmp_path: Path) -> Library:
    database = Database(f"sqlite:///{tmp_path}/restored/library.db", folder=tmp_path / "restored", upgrade=False)
    assert restore(database, HERE / "backup.zip").rows == TOLD["tables"]
    return Library(database)


@pytest.fixture(params=["database", "backup"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    if request.param == "backup":
        opened = from_backup(tmp_path)
    else:
        opened = open_library(folder=shutil.copytree(HERE / "library", tmp_path / "library"))
    yield opened
    opened.close()


def test_everything_that_was_said_is_there(library: Library) -> None:
    found = [library.get(entry.id, user="bob").to_dict() for entry in library.search(Search(limit=100)).entries]
    assert lacking(TOLD["whole"], json.loads(json.dumps(found))) == []
    kept = next(whole for whole in found if whole["entry"]["name"] == "kept for good")
    assert [(said["author"], said["up"], said["down"]) for said in kept["descriptions"]] == [
        ("Ada", 2, 1),
        ("bob", 0, 1),
    ]
    assert (kept["descriptions"][0]["mine"], kept["descriptions"][0]["blind"]["author"]) == (1, 1.0)
    assert [comment["text"] for comment in kept["comments"]] == ["hm?"]
    assert check(library.database).problems == ()


def test_the_vectors_are_those_that_were_saved(library: Library, tmp_path: Path) -> None:
    model = rs.load(str(HERE / "model"))
    for id, told in TOLD["vectors"].items():
        d = library.direction(id, model=model)
        assert (d.read.tolist(), d.write.tolist(), d.offset, d.scale) == (
            told["read"], told["write"], told["offset"], told["scale"],
        )  # fmt: skip


def test_it_goes_on_where_it_was_left(library: Library) -> None:
    """Undo knows what was done then, names are still taken, numbers go on."""
    before = len(library.search(Search(limit=100)).entries)
    library.undo(user="Ada")
    brought_back = library.search(Search(text=TOLD["deleted"])).entries
    assert [entry.name for entry in brought_back] == [TOLD["deleted"]]
    id = next(whole["entry"]["id"] for whole in TOLD["whole"] if whole["entry"]["name"] == "of one head")
    assert library.undo(user="bob")[0] == "description"
    assert library.get(id).descriptions[0].text == "first words"
    library.comment(id, "new", user="somebody new")
    assert len(library.search(Search(limit=100)).entries) == before + 1


def test_a_direction_s_file_is_taken_in(tmp_path: Path) -> None:
    library = open_library(folder=tmp_path)
    entry, new = library.receive((HERE / "direction.safetensors").read_bytes(), user="eve")
    assert (entry.name, entry.site, entry.model_hash, new) == ("kept for good", "resid_post.0", NUMBERS["hash"], True)
    told = next(TOLD["vectors"][w["entry"]["id"]] for w in TOLD["whole"] if w["entry"]["name"] == "kept for good")
    d = library.direction(entry.id)
    assert (d.read.tolist(), d.write.tolist(), d.offset, d.scale) == (
        told["read"], told["write"], told["offset"], told["scale"],
    )  # fmt: skip
    assert library.get(entry.id).provenance["of"] == [1, None, {"a": 0.1}]
    library.close()


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────


def places(data: bytes, n: int) -> list[int]:
    return torch.randint(len(data), (n,), generator=torch.Generator().manual_seed(n)).tolist()


def test_a_damaged_direction_s_file_is_refused(tmp_path: Path) -> None:
    library = open_library(folder=tmp_path)
    data = (HERE / "direction.safetensors").read_bytes()
    for copy in (b"", data[: len(data) // 2], data[:-1], *(flipped(data, at) for at in places(data, 40))):
        with pytest.raises((MalformedTensors, DamagedFile, SiteError, DirectionError)):
            library.receive(copy, user="eve")
    assert library.search().entries == ()
    library.close()


def test_a_damaged_backup_is_refused_by_its_name_or_harmlessly_so(tmp_path: Path) -> None:
    """A bit in what a zip only repeats does no harm: then everything is there."""
    data, refused, harmless = (HERE / "backup.zip").read_bytes(), 0, 0
    encrypted = bytearray(data)
    encrypted[data.index(b"PK\x01\x02") + 8] ^= 1  # a flag of the first member, in the list of members
    copies = [b"", data[: len(data) // 2], data[:-1], bytes(encrypted), *(flipped(data, at) for at in places(data, 30))]
    for i, copy in enumerate(copies):
        path = tmp_path / f"copy {i}.zip"
        path.write_bytes(copy)
        database = Database(f"sqlite:///{tmp_path}/{i}/library.db", folder=tmp_path / f"{i}", upgrade=False)
        with suppress(DamagedStore):
            try:
                restore(database, path)
            except ResidscopeError as error:
                refused += path.name in str(error)
                raise
            found = [Library(database).get(w["entry"]["id"], user="bob").to_dict() for w in TOLD["whole"]]
            assert lacking(TOLD["whole"], json.loads(json.dumps(found))) == []
            harmless += 1
        database.close()
    assert refused + harmless == len(copies)
    assert refused > len(copies) // 2


def cut(folder: Path) -> None:
    data = (folder / "library.db").read_bytes()
    (folder / "library.db").write_bytes(data[: len(data) // 2 - 100])


def another_thing(folder: Path) -> None:
    (folder / "library.db").write_bytes(b"something else" * 1000)


@pytest.mark.parametrize("damage", [cut, another_thing])
def test_a_damaged_database_is_refused_by_its_name(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(DamagedStore, match=r"library\.db"):
        open_library(folder=folder).search(Search(limit=100))


def test_a_damaged_tensor_is_named(folder: Path) -> None:
    library = open_library(folder=folder)
    for file in sorted((folder / "tensors").rglob("*")):
        if file.is_file():
            file.write_bytes(flipped(file.read_bytes(), 200))
    for id in TOLD["vectors"]:
        with pytest.raises(DamagedStore, match=r"tensors/\w\w/\w{64}"):
            library.direction(id)
    assert len(check(library.database).problems) == TOLD["tables"]["tensors"]
    library.close()


def test_a_backup_is_not_restored_over_a_library(folder: Path) -> None:
    database = Database(folder=folder, upgrade=False)
    with pytest.raises(StoreNotEmpty):
        restore(database, HERE / "backup.zip")
    database.close()
