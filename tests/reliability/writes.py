"""Every kind of write below the user's folders, each with what stood there before, the write, and what a reader finds."""

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from residscope.directions import EncoderDictionary
from residscope.engine import certificate
from residscope.engine.look import kept as families
from residscope.errors import DamagedStore, StoreNotEmpty
from residscope.features import exporting
from residscope.files import read_tensors, write_tensors
from residscope.model import catalog, weights
from residscope.model.families import families as known_families
from residscope.results import Result
from residscope.sae import saving
from residscope.server.people import People
from residscope.session.memory import Memory
from residscope.shelf.items import ItemShelf, Kept
from residscope.shelf.stacks import NamedStack, SavedStacks
from residscope.shelf.whole import SavedPrompts
from residscope.store import Database, Library, Search, archive, keeping, open_library
from residscope.store.upkeep import check, gc
from residscope.views import Text
from residscope.views.html import save_html
from store.things import MODEL, direction

OLD = ["old", 1.0]
WEIGHTS = SimpleNamespace(hash="0" * 64, sites=None)  # what a shelf knows its items' model by


@dataclass(frozen=True)
class Place:
    """Where something is written: a folder of its own, and for a database that all share, a number of its own."""

    folder: Path
    url: str
    number: int


@dataclass(frozen=True)
class Kind:
    """A kind of write. old, new: what `found` tells before it and after it, each thing once."""

    name: str
    before: Callable[[Place], object]
    write: Callable[[Place], object]
    found: Callable[[Place], Any]
    old: Any
    new: Any


# ── lists, the session, the shelf ───────────────────────────────────────────────────────────────────────────────


def _save_prompts(*texts: str) -> Callable[[Place], object]:
    def save(place: Place) -> None:
        kept = SavedPrompts(place.folder)
        there, _ = kept.load()
        kept.save((*there, *(text for text in texts if text not in there)))

    return save


def _save_stack(name: str) -> Callable[[Place], object]:
    def save(place: Place) -> None:
        kept = SavedStacks(place.folder)
        there, _ = kept.load()
        edits = ({"kind": "ablate", "site": "z.0", "head": 0},)
        others = (stack for stack in there if stack.name != name)
        kept.save((*others, NamedStack(name, "tiny", "0" * 64, edits, (name,))))

    return save


def _stacks(place: Place) -> list[str]:
    stacks, notice = SavedStacks(place.folder).load()
    assert notice is None, notice
    return [stack.name for stack in stacks]


def _texts(place: Place) -> list[str]:
    texts, notice = SavedPrompts(place.folder).load()
    assert notice is None, notice
    return [*texts]


def _remember(prompt: str) -> Callable[[Place], object]:
    told = {"version": 1, "model": "tiny", "prompt": {"text": prompt, "bos": True}}
    return lambda place: Memory(place.folder / "sessions" / "8765.json").write(told)


def _remembered(place: Place) -> str:
    kept, notice = Memory(place.folder / "sessions" / "8765.json").read()
    assert kept is not None, notice
    return str(kept["prompt"]["text"])


def _shelf(place: Place) -> ItemShelf:
    shelf = ItemShelf(place.folder)
    notices = shelf.open(WEIGHTS)  # type: ignore[arg-type]
    assert not notices, notices
    return shelf


def _result(value: float) -> Result:
    return Result(torch.full((1000,), value), ("pos",))


def _put(name: str, value: float) -> Callable[[Place], object]:
    def put(place: Place) -> None:
        shelf = _shelf(place)
        if name not in shelf.items:
            shelf.put(Kept(name, _result(value)))

    return put


def _on_the_shelf(place: Place) -> list[Any]:
    """Names and values; a file of no item is told by its name."""
    shelf = _shelf(place)
    files = {file.name for file in (place.folder / "items" / WEIGHTS.hash).glob("*.*") if file.name != ".lock"}
    known = {
        kept.file.with_suffix(end).name
        for kept in shelf.items.values()
        if kept.file
        for end in (".json", ".safetensors")
    }
    values = ([name, float(kept.item.values.mean())] for name, kept in shelf.items.items())  # type: ignore[attr-defined]
    return [*sorted(values), *sorted(files - known)]


def _rename(place: Place) -> None:
    shelf = _shelf(place)
    if "new" not in shelf.items:
        shelf.rename("old", "new")


def _change(place: Place) -> None:
    _shelf(place).change("old", _result(2.0))


def _delete(place: Place) -> None:
    shelf = _shelf(place)
    if "old" in shelf.items:
        shelf.delete("old")


# ── the library ─────────────────────────────────────────────────────────────────────────────────────────────────


def _library(place: Place) -> Library:
    return open_library(place.url or None, folder=place.folder)


def _say(name: str) -> Callable[[Place], object]:
    def say(place: Place) -> None:
        library, number = _library(place), place.number if name == "new" else 0
        library.save(direction(number), model=MODEL, user="ada", name=f"{name} {number}", description="it is said")
        library.close()

    return say


def _vote(place: Place) -> None:
    library = _library(place)
    entry = library.search(Search()).entries[0]
    (said,) = library.get(entry.id).descriptions
    library.vote(said.id, 1, user="bob")
    library.close()


def _said(place: Place) -> list[Any]:
    """Directions with how many votes their description has; whatever the library's own check finds; what `gc` leaves.

    Beside a database with nothing in it `gc` deletes nothing: a vector, whole, stays of a first save that was killed.
    """
    library = _library(place)
    problems = check(library.database).problems
    gc(library.database)
    loose = check(library.database).loose
    found = []
    for entry in library.search(Search(limit=100)).entries:
        if entry.name in ("old 0", f"new {place.number}"):
            library.direction(entry.id)
            (said,) = library.get(entry.id).descriptions
            found.append([entry.name.split()[0], said.up])
    library.close()
    return [*sorted(found), *problems, *["loose"] * (loose if found else 0)]


def _back_up(place: Place) -> None:
    library = _library(place)
    archive.backup(library.database, place.folder / "backup.zip")
    library.close()


def _backed_up(place: Place) -> int | None:
    """How many directions the backup has, where there is one."""
    file = place.folder / "backup.zip"
    if not file.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        return _restored(Path(folder), file)


def _restore(place: Place) -> None:
    with suppress(StoreNotEmpty):  # it is done already
        _restored(place.folder / "again", place.folder / "backup.zip")


def _restored(folder: Path, file: Path) -> int:
    database = Database(folder=folder, upgrade=False)
    try:
        return archive.restore(database, file).rows["directions"]
    finally:
        database.close()


def _in_again(place: Place) -> list[Any]:
    """What a library has that a backup is restored into; nothing where it says that it is to be restored."""
    folder = place.folder / "again"
    try:
        return _said(Place(folder, "", 0)) if folder.exists() else []
    except DamagedStore:
        return []


def _copy(place: Place) -> None:
    _library(place).close()
    keeping.copy(place.folder / "library.db")


def _copied(place: Place) -> list[Any]:
    """What each copy of a database has."""
    with tempfile.TemporaryDirectory() as folder:
        return [_restored(Path(folder) / file.name, file) for file in keeping.copies(place.folder / "library.db")[:1]]


# ── the cache, the key, exports ─────────────────────────────────────────────────────────────────────────────────


def _certify(place: Place) -> None:
    checks = tuple(certificate.Checked(name, "a check", 0.0, 0.0, 1e-3) for name in certificate.CHECKS)
    certificate._write(place.folder / "certificates" / "one.json", certificate.Certificate(checks, 1e-3, 1.0))


def _certified(place: Place) -> bool:
    return certificate._read(place.folder / "certificates" / "one.json") is not None


def _in_cache(place: Place) -> None:
    os.environ["RESIDSCOPE_CACHE"] = str(place.folder)


def _describe(place: Place) -> None:
    _in_cache(place)
    families.keep(_tiny(), next(iter(known_families().values())))


def _described(place: Place) -> bool:
    _in_cache(place)
    return families.recall(_tiny()) is not None


def _tiny() -> Any:
    from tiny_models import tiny_llama

    return tiny_llama()


def _make_model(place: Place) -> None:
    _in_cache(place)

    def make(folder: Path) -> None:
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(b"0123456789")
        catalog.seal(folder)

    catalog.made_once(place.folder / "models" / "tiny-1", make, lock="tiny")


def _made_model(place: Place) -> bool:
    folder = place.folder / "models" / "tiny-1"
    if folder.exists():
        catalog.require_sealed(folder, "tiny", catalog.sha256)
    return folder.exists()


def _fingerprint(place: Place) -> None:
    _in_cache(place)
    weights.sha256_once(place.folder / "weights")


def _fingerprints(place: Place) -> list[int]:
    return [len(file.read_text()) for file in place.folder.glob("fingerprints/*")]


def _weigh(place: Place) -> None:
    (place.folder / "weights").write_bytes(b"0123456789")


def _key(place: Place) -> str:
    People(place.folder).sign("ada")
    return "a key"


def _keys(place: Place) -> list[int]:
    return [len(file.read_bytes()) for file in place.folder.glob("library.key")]


def _weights(value: float) -> Callable[[Place], object]:
    return lambda place: write_tensors(place.folder / "it.safetensors", "thing", {"x": torch.full((100,), value)}, {})


def _value(place: Place) -> float:
    return float(read_tensors(place.folder / "it.safetensors", "thing")[0]["x"].mean())


def _page(title: str) -> Callable[[Place], object]:
    return lambda place: save_html(Text(title), place.folder / "page.html")


def _titles(place: Place) -> list[str]:
    """Of a page that is whole."""
    told = (place.folder / "page.html").read_text()
    return re.findall("<title>(.*?)</title>", told)[:1] if told.rstrip().endswith("</html>") else []


def _zip(place: Place) -> None:
    with exporting._written(place.folder / "pages.zip") as write:
        for name in ("0.html", "1.html"):
            write(name, "a page")


def _zipped(place: Place) -> list[str]:
    from zipfile import ZipFile

    file = place.folder / "pages.zip"
    return sorted(ZipFile(file).namelist()) if file.exists() else []


def _save_sae(value: float) -> Callable[[Place], object]:
    x = torch.full((3, 4), value)
    made = EncoderDictionary("sae", "resid_post.0", x, x, torch.zeros(4), torch.zeros(3), torch.zeros(4))
    return lambda place: saving.save(made, place.folder / "sae")


def _saes(place: Place) -> list[float]:
    """The weights, where a dictionary can be loaded: an older one that was being replaced may be gone."""
    from safetensors.torch import load_file

    folder = place.folder / "sae"
    return (
        [float(load_file(folder / "sae_weights.safetensors")["W_enc"].mean())] if (folder / "cfg.json").exists() else []
    )


def _all(*writes: Callable[[Place], object]) -> Callable[[Place], object]:
    def write(place: Place) -> None:
        for one in writes:
            one(place)

    return write


def _nothing(_: Place) -> None:
    return None


def _library_kinds(of: str) -> tuple[Kind, ...]:
    old, new = ["old", 0], ["new", 0]
    return (
        Kind(f"library, first save, {of}", _nothing, _say("new"), _said, [], [new]),
        Kind(f"library, save, {of}", _say("old"), _say("new"), _said, [old], [new, old]),
        Kind(f"library, backup, {of}", _say("old"), _back_up, _backed_up, None, 1),
    )


KINDS = (
    Kind("prompts", _save_prompts("old"), _save_prompts("new"), _texts, ["old"], ["old", "new"]),
    Kind("stacks", _save_stack("old"), _save_stack("new"), _stacks, ["old"], ["old", "new"]),
    Kind("session", _remember("old"), _remember("new"), _remembered, "old", "new"),
    Kind("shelf, first item", _nothing, _put("new", 2.0), _on_the_shelf, [], [["new", 2.0]]),
    Kind("shelf, item", _put("old", 1.0), _put("new", 2.0), _on_the_shelf, [OLD], [["new", 2.0], OLD]),
    Kind("shelf, rename", _put("old", 1.0), _rename, _on_the_shelf, [OLD], [["new", 1.0]]),
    Kind("shelf, change", _put("old", 1.0), _change, _on_the_shelf, [OLD], [["old", 2.0]]),
    Kind("shelf, delete", _put("old", 1.0), _delete, _on_the_shelf, [OLD], []),
    *_library_kinds("SQLite"),
    Kind("library, vote, SQLite", _say("old"), _vote, _said, [["old", 0]], [["old", 1]]),
    Kind("library, copy", _say("old"), _copy, _copied, [], [1]),
    Kind("library, restore", _all(_say("old"), _back_up), _restore, _in_again, [], [["old", 0]]),
    *_library_kinds("PostgreSQL"),
    Kind("certificate", _nothing, _certify, _certified, False, True),
    Kind("family description", _nothing, _describe, _described, False, True),
    Kind("model of the catalog", _nothing, _make_model, _made_model, False, True),
    Kind("fingerprint", _weigh, _fingerprint, _fingerprints, [], [64]),
    Kind("key", _nothing, _key, _keys, [], [32]),
    Kind("file of tensors", _weights(1.0), _weights(2.0), _value, 1.0, 2.0),
    Kind("page", _page("old"), _page("new"), _titles, ["old"], ["new"]),
    Kind("pages in a zip", _nothing, _zip, _zipped, [], ["pages/0.html", "pages/1.html"]),
    Kind("dictionary in SAELens' format", _nothing, _save_sae(2.0), _saes, [], [2.0]),
)


def _in_place(place: Place) -> None:
    (place.folder / "in place").write_text("old or new")


def _in_place_found(place: Place) -> list[str]:
    return [file.read_text() for file in place.folder.glob("in place")]


PLANTED = Kind("planted fault", _nothing, _in_place, _in_place_found, [], ["old or new"])
