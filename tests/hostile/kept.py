"""Readers of the library, and of what a session keeps on the disk."""

import json
import tempfile
from pathlib import Path

from hostile.own import RESULT
from hostile.whole import Files, Reader, folder_of, made, model
from residscope.engine import certificate
from residscope.engine.look import kept
from residscope.files import write_sealed
from residscope.model import catalog
from residscope.store import keeping

# ── the library ─────────────────────────────────────────────────────────────────────────────────────────────────


def _backup() -> Files:
    from residscope.store import open_library
    from residscope.store.archive import backup
    from store.things import MODEL, direction

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            library = open_library(folder=place)
            for i in range(2):
                entry = library.save(
                    direction(i, provenance={"i": [i]}), model=MODEL, user="Ada", description=f"<b>{i}"
                )
                library.vote(library.describe(entry.id, "more", user="bob").id, 1, user="cy")
                library.comment(entry.id, "hm", user="cy")
            backup(library.database, folder / "it.zip")
            library.close()

    return folder_of(write)


def _restore(folder: Path) -> None:
    from residscope.store import Database, Library
    from residscope.store.archive import restore
    from residscope.store.upkeep import check

    database = Database(None, folder=folder / "new", upgrade=False)
    try:
        restore(database, folder / "it.zip")
        library = Library(database)
        for entry in library.search().entries:
            library.get(entry.id)
            library.direction(entry.id)
        check(database)
    finally:
        database.close()


def _sent() -> Files:
    from residscope.store.exchange import Sent, to_file
    from store.things import MODEL, direction

    return {"it.safetensors": to_file(Sent(direction(3), MODEL, "said"))}


def _receive(folder: Path) -> None:
    """Imported, and read again in every way."""
    from residscope.store import open_library

    library = open_library(folder=folder / "new")
    try:
        entry, _ = library.receive((folder / "it.safetensors").read_bytes(), user="ada")
        library.get(entry.id).to_dict()
        library.direction(entry.id)
        library.send(entry.id)
        library.search()
    finally:
        library.close()


def _open_database(folder: Path) -> None:
    from residscope.store import open_library
    from residscope.store.upkeep import check

    library = open_library(folder=folder)
    try:
        check(library.database)
        for entry in library.search().entries:
            library.get(entry.id).to_dict()
    finally:
        library.close()


def _database() -> Files:
    from residscope.store import open_library
    from store.things import MODEL, direction

    def write(folder: Path) -> None:
        library = open_library(folder=folder)
        library.save(direction(1), model=MODEL, user="Ada", description="this")
        with library.database.connection():
            pass
        library.close()
        (folder / ".open.lock").unlink(missing_ok=True)

    return {name: data for name, data in folder_of(write).items() if not name.endswith(("-wal", "-shm"))}


# ── what a session keeps ────────────────────────────────────────────────────────────────────────────────────────


def _shelf() -> Files:
    from residscope.shelf.items import VERSION

    about = {
        "version": VERSION,
        "name": "one",
        "title": "One",
        "method": "x",
        "code": "",
        "args": {"a": [1]},
        "made": 1.0,
    }
    return {
        "a.json": json.dumps(about).encode(),
        "a.safetensors": made(RESULT)["it.safetensors"],
    }


def _read_shelf(folder: Path) -> None:
    from residscope.shelf.items import _read_one

    notices: list[str] = []
    _read_one(folder / "a.json", model(), [], notices)


def _read_prompts(folder: Path) -> None:
    from residscope.shelf.whole import SavedPrompts

    SavedPrompts(folder).load()


def _read_stacks(folder: Path) -> None:
    from residscope.shelf.stacks import SavedStacks

    SavedStacks(folder).load()


def _memory() -> Files:
    kept = {
        "version": 1,
        "model": "tiny",
        "named": False,
        "hash": model().hash,
        "prompt": {"text": "the store", "bos": True},
        "chat": None,
        "companion": {"text": "to", "bos": False, "ids": [5, 6]},
        "other": None,
        "metric": [{"id": 5, "text": "a"}, {"id": 6, "text": "b"}],
        "edits": [{"id": "e1", "enabled": True, "edit": {"kind": "scale", "site": "z.1", "factor": 2.0}}],
        "dictionaries": {},
    }
    return {"session.json": json.dumps(kept).encode()}


def _recall(folder: Path) -> None:
    from residscope.session.memory import Memory, recall
    from residscope.session.state import State
    from residscope.world.loaded import Loaded

    kept, _ = Memory(folder / "session.json").read()
    if kept is not None:
        recall(State(model=Loaded(model(), {})), kept)


def _stacks() -> Files:
    edit = {"kind": "scale", "site": "z.1", "factor": 2.0}
    stack = {"name": "one", "model": "tiny", "hash": model().hash, "edits": [edit], "labels": ["z.1 twice"]}
    return {"stacks.json": json.dumps({"version": 1, "stacks": [stack]}).encode()}


def _sealed() -> Files:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        catalog.seal(folder)

    return folder_of(write)


def _certificate() -> Files:
    return folder_of(lambda folder: certificate._write(folder / "it.json", certificate.measure(model())))


def _kept_family() -> Files:
    return folder_of(lambda folder: write_sealed(folder / "it.json", kept.written(model().family)))


KEPT = {
    "a backup": Reader(_backup, _restore),
    "the library's database": Reader(_database, _open_database, changed=("library.db",)),
    "what a database was known to have": Reader(
        lambda: {"library.db": b"", ".library.db.seen": b'{"changes": 7}'},
        lambda folder: keeping.seen(folder / "library.db"),
    ),
    "a direction handed over": Reader(_sent, _receive, held=True),
    "an item on the shelf": Reader(_shelf, _read_shelf, changed=("a.json",)),
    "saved prompts": Reader(lambda: {"prompts.json": b'{"version": 1, "prompts": ["a", "b"]}'}, _read_prompts),
    "saved stacks": Reader(_stacks, _read_stacks),
    "a session's memory": Reader(_memory, _recall),
    "a model's seal": Reader(
        _sealed, lambda folder: catalog.require_sealed(folder, "tiny", catalog.sha256), changed=(catalog.SEAL,)
    ),
    "a certificate kept": Reader(_certificate, lambda folder: certificate._read(folder / "it.json")),
    "a family kept": Reader(_kept_family, lambda folder: kept._read(folder / "it.json")),
}
