"""The library from the command line, as a user types it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from residscope.cli.app import main
from residscope.store import open_library
from store.things import MODEL, direction

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in a data folder: its exit code, and what it said on stdout and stderr."""
    monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RESIDSCOPE_USER", "ada")

    def run(*arguments: object, folder: str = "data") -> tuple[int, str, str]:
        monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path / folder))
        monkeypatch.setattr(sys, "argv", ["residscope", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def plain(value: object) -> object:
    return json.loads(json.dumps(value))


def test_directions(run: Run, tmp_path: Path) -> None:
    library = open_library(folder=tmp_path / "data")
    entry = library.save(direction(), model=MODEL, user="Ada", name="plural nouns", description="fires on -s")
    theirs = library.save(direction(1), model=MODEL, user="bob", name="colours")
    library.vote(library.get(entry.id).descriptions[0].id, 1, user="bob")
    code, out, _ = run("directions", "list", "--by-votes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [entry.id[:8], theirs.id[:8]]
    assert json.loads(run("directions", "list", "PLURAL", "--json")[1])["entries"] == [
        library.get(entry.id).entry.to_dict()
    ]
    assert "fires on -s" in run("directions", "show", entry.id[:8])[1]
    assert json.loads(run("directions", "show", entry.id, "--json")[1]) == plain(library.get(entry.id).to_dict())

    file = tmp_path / "d.safetensors"
    assert run("directions", "export", entry.id[:8], file)[0] == 0
    assert "was here" in run("directions", "import", file)[1]
    assert run("directions", "import", file, "--user", "cy", folder="elsewhere")[0] == 0
    assert open_library(folder=tmp_path / "elsewhere").search().entries[0].owner == "cy"

    assert run("directions", "rm", theirs.id)[2].startswith("residscope: NotYours")
    assert run("directions", "rm", entry.id)[1] == "deleted plural nouns\n"
    assert run("directions", "show", entry.id)[2].startswith("residscope: NotFound")
    assert run("directions", "undo")[0] == 0
    assert run("directions", "show", entry.id)[0] == 0
    assert run("directions", "show", "")[2].startswith("residscope: NotFound: several")


def test_store(run: Run, tmp_path: Path) -> None:
    library = open_library(folder=tmp_path / "data")
    entry = library.save(direction(), model=MODEL, user="ada", description="d")
    backup = tmp_path / "b.zip"
    assert run("store", "backup", backup)[1] == f"{backup}: 1 directions, 1 tensors\n"
    assert run("store", "restore", backup)[2].startswith("residscope: StoreNotEmpty")
    assert run("store", "restore", backup, folder="new")[0] == 0
    assert open_library(folder=tmp_path / "new").get(entry.id) == library.get(entry.id)
    assert run("store", "check")[:2] == (0, "1 directions, 1 tensors, 0 problems\n")
    library.delete(entry.id, user="ada")
    assert "0 directions" in run("store", "gc")[1]
    assert "1 directions, 1 tensors" in run("store", "gc", "--older-than", "0")[1]
    library.save(direction(), model=MODEL, user="ada", description="d")
    (file,) = (path for path in (tmp_path / "data" / "tensors").rglob("*") if path.is_file())
    file.write_bytes(b"")
    code, out, _ = run("store", "check")
    assert (code, file.name in out) == (1, True)
    assert json.loads(run("store", "check", "--json")[1])["problems"]
    code, out, err = run("store", "check", "--store", "mysql://me:secret@h/d")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "secret" not in err
