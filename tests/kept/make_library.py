"""The library of version 0.1 (its SQLite database, its tensors and a backup), and one direction's file out of it."""

from pathlib import Path
from typing import Any

from sqlalchemy import text

import residscope as rs
from kept import things
from residscope.engine.model import Model
from residscope.store import Library, Search, open_library
from residscope.store.archive import backup

SAID = "Fires on <b>plural</b> nouns 🙂\n\nand on their verbs."


def direction(seed: int, **facts: Any) -> rs.Direction:
    d = things.direction(seed)
    return rs.Direction(d["read"].float(), d["write"].float(), **{"site": "resid_post.0"} | facts)


def make(model: Model, folder: Path) -> dict[str, Any]:
    library = open_library(folder=folder / "library")
    fill(library, model)
    entries = library.search(Search(limit=100)).entries
    whole = [library.get(entry.id, user="bob").to_dict() for entry in entries]
    vectors = {}
    for entry in entries:
        d = library.direction(entry.id)
        vectors[entry.id] = {"read": d.read.tolist(), "write": d.write.tolist(), "offset": d.offset, "scale": d.scale}
    kept = next(entry for entry in entries if entry.name == "kept for good")
    (folder / "direction.safetensors").write_bytes(library.send(kept.id))
    made = backup(library.database, folder / "backup.zip")
    with library.database.reading() as session:
        tables = {name: session.connection().scalar(text(f"SELECT count(*) FROM {name}")) for name in made.rows}
    library.close()
    for lock in (folder / "library").glob(".*.lock"):
        lock.unlink()
    assert [path.name for path in sorted((folder / "library").iterdir())] == ["library.db", "tensors"]
    return {"tables": tables, "revision": made.revision, "whole": whole, "vectors": vectors, "deleted": "given up"}


def fill(library: Library, model: Model) -> None:
    seed = things.direction(41)
    kept = rs.Direction(
        seed["read"].float(), seed["write"].float(), "resid_post.0", name="kept for good", scale=2.0, offset=0.5,
        space="centred", provenance={"method": "by hand", "of": [1, None, {"a": 0.1}]},
    )  # fmt: skip
    entry = library.save(kept, model=model, user="Ada", description=SAID)
    second = library.describe(entry.id, "a second opinion", user="bob")
    first = next(said for said in library.get(entry.id).descriptions if said.author == "Ada")
    for voter, value in (("bob", 1), ("cy", 1), ("Dée", -1)):
        library.vote(first.id, value, user=voter)
    library.vote(second.id, -1, user="Ada")
    library.comment(entry.id, "hm?", user="cy")
    gone = library.comment(entry.id, "said in haste", user="cy")
    library.delete_comment(gone.id, user="cy")
    library.keep_blind(
        first.id, 0.5, {"interval": [0.1, 0.8], "guesses": [0.0, 1.0], "values": [1.0, 2.0]}, said=SAID, user="bob"
    )
    library.keep_blind(
        first.id, 1.0, {"interval": [0.4, 1.0], "guesses": [1.0], "values": [2.0]}, said=SAID, user="Ada"
    )
    head = library.save(head_direction(), model=model, user="bob")
    library.rename(head.id, "of one head", user="bob")
    edited = library.describe(head.id, "first words", user="bob")
    library.edit_description(edited.id, "better words", user="bob")
    given_up = library.save(
        direction(43, name="given up", site="resid_pre.2"), model=model, user="Ada", description="no use"
    )
    library.delete(given_up.id, user="Ada")


def head_direction() -> rs.Direction:
    read = things.vectors(1, 42, 8)[0]
    return rs.Direction(read, read.clone(), "z.1", head=2, name="of a head", space="raw")
