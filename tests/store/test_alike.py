"""Names that look alike are one person's; what a file says of a model binds nobody; provenance of wrong types is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from sqlalchemy import text

from residscope.directions.sent import seal
from residscope.errors import MalformedTensors
from residscope.store import Database, Library, migrate, open_library
from residscope.store.entries import ModelKey
from residscope.written import skeleton
from store.things import MODEL, direction

ALIKE = [
    "Ada",
    "ADA",
    "Аda",
    "аdа",
    "ɑda",
    "𝖠𝖽𝖺",
    "𝔞𝔡𝔞",
    "Ａｄａ",
    "αda",
]  # Cyrillic, Latin alpha, mathematical, full width, Greek


@pytest.mark.parametrize("name", ALIKE)
def test_a_name_that_looks_alike_is_the_same_person_with_one_vote(library: Library, name: str) -> None:
    entry = library.save(direction(), model=MODEL, user="bob", description="d")
    said = library.describe(entry.id, "more", user="bob")
    assert library.sign_in("ada") == "ada"
    assert library.sign_in(name) == "ada"
    for user in ("ada", name):
        library.vote(said.id, 1, user=user)
    (found,) = [one for one in library.get(entry.id, user=name).descriptions if one.id == said.id]
    assert (found.up, found.mine) == (1, 1)
    assert library.somebody(name).name == "ada"


@pytest.mark.parametrize("name", ["eda", "adaa", "ad", "ana", "äda", "ada2"])
def test_other_names_are_other_people(library: Library, name: str) -> None:
    """The negative control."""
    library.sign_in("ada")
    assert library.sign_in(name) == name


@pytest.mark.parametrize(
    ("one", "other"),
    [("paypal", "pаypаl"), ("scope", "ѕсоре"), ("l1", "11"), ("rn", "m"), ("ä", "a\u0308"), ("ﬁ", "fi")],
)
def test_skeletons_are_those_of_uts_39(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other) == skeleton(skeleton(one))


def test_people_who_were_two_before_stay_two(url: str, tmp_path: Path) -> None:
    old = Database(url, folder=tmp_path, upgrade=False)
    with old.connection() as connection:
        migrate.upgrade(connection, "0004")
        rows = "INSERT INTO users (id, name, name_key, created_at) VALUES (1, 'arne', 'arne', 1), (2, 'ame', 'ame', 2)"
        connection.execute(text(rows))
        if not old.is_sqlite:
            connection.execute(text("SELECT setval(pg_get_serial_sequence('users', 'id'), 2)"))
    old.close()
    library = open_library(url, folder=tmp_path)
    assert [library.sign_in(name) for name in ("arne", "ame", "Ame", "eve")] == ["arne", "ame", "ame", "eve"]
    library.close()


def test_a_file_with_a_models_hash_does_not_name_it_for_those_who_have_it(library: Library, tmp_path: Path) -> None:
    elsewhere = open_library(folder=tmp_path / "elsewhere")
    sent = elsewhere.save(direction(1), model=replace(MODEL, name="pwned"), user="eve")
    library.receive(elsewhere.send(sent.id), user="ada")
    assert library.search().entries[0].model == "pwned"
    library.save(direction(2), model=MODEL, user="bob")
    assert {entry.model for entry in library.search().entries} == {"toy"}
    library.receive(elsewhere.send(sent.id), user="cy")
    assert {entry.model for entry in library.search().entries} == {"toy"}
    elsewhere.close()


def test_a_file_with_a_models_hash_and_other_weights_keeps_its_directions_apart(
    library: Library, tmp_path: Path
) -> None:
    elsewhere = open_library(folder=tmp_path / "elsewhere")
    false = ModelKey(MODEL.hash, "pwned", -MODEL.signature)
    sent = elsewhere.save(direction(1), model=false, user="eve")
    library.receive(elsewhere.send(sent.id), user="ada")
    mine = library.save(direction(2), model=MODEL, user="bob")
    assert library.get(mine.id).entry.model == "toy"
    assert library.get(mine.id).entry.model_hash == MODEL.hash
    (theirs,) = [entry for entry in library.search().entries if entry.id != mine.id]
    assert (theirs.model, theirs.model_hash == MODEL.hash) == ("pwned", False)
    assert library.hashes_of(MODEL) == (MODEL.hash,)
    elsewhere.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": "seven"}, {"index": True}, {"dictionary hash": 3}, {"corpora": [1]}, {"corpora": {"a": 1}}, {"tokens": []},
        {"library": {"a": 1}}, {"standardised": "yes"}, {"mix": 3}, {"mix": [{"of": {"index": [1]}}]}, {"before": 3},
        [1], "x", None,
    ],
)  # fmt: skip
def test_provenance_of_wrong_types_is_refused_at_import(library: Library, wrong: object) -> None:
    entry = library.save(direction(1, provenance={"index": 7}), model=MODEL, user="eve")
    data = library.send(entry.id)
    tensors = load(data)
    facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    about = json.loads(facts["about"]) | {"provenance": wrong}
    facts = {**facts, "about": json.dumps(about)}
    facts["sha256"] = seal(tensors, facts)
    library.delete(entry.id, user="eve")
    with pytest.raises(MalformedTensors):
        library.receive(save(tensors, metadata=facts), user="ada")
    assert library.search().entries == ()
    assert torch.equal(load(data)["read"], tensors["read"])
