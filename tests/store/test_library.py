"""The library on both databases: what is saved comes back, what is not yours stays, what is deleted can be had again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from residscope.errors import (
    BadArguments,
    CannotUndo,
    DamagedFile,
    DamagedStore,
    EditedSince,
    MalformedTensors,
    NameTaken,
    NotFound,
    NotYours,
    NoUser,
    WrongModel,
    ZeroDirection,
)
from residscope.store import Library, Search, exchange
from residscope.store.entries import ModelKey
from residscope.store.tables import Event
from store.things import MODEL, OTHER, direction


def test_a_direction_comes_back_as_it_was(library: Library) -> None:
    provenance = {"dictionary": "pca", "index": [1, 2]}
    saved = direction(offset=0.25, scale=3.0, space="centred", provenance=provenance, site="result.1", head=2)
    entry = library.save(saved, model=MODEL, user="Ada", name="plural", description="fires on -s")
    back = library.direction(entry.id)
    assert torch.equal(back.read, saved.read)
    assert torch.equal(back.write, saved.write)
    facts = ("site", "head", "offset", "scale", "space", "provenance")
    assert [getattr(back, name) for name in facts] == [getattr(saved, name) for name in facts]
    assert entry.head == 2
    with pytest.raises(NameTaken):  # another head of the same site is another direction
        library.save(replace(saved, head=3), model=MODEL, user="ada", name="plural")
    whole = library.get(entry.id)
    assert (whole.entry.owner, whole.entry.name, whole.entry.model) == ("Ada", "plural", "toy")
    assert [said.text for said in whole.descriptions] == ["fires on -s"]
    wide = direction(7)
    wide = type(wide)(wide.read.double() / 3, wide.write.double(), "resid_pre.1")
    double = library.direction(library.save(wide, model=MODEL, user="ada", name="double").id)
    assert double.read.dtype == torch.float64
    assert torch.equal(double.read, wide.read)


def test_the_same_save_twice_is_one_and_another_under_its_name_is_refused(library: Library) -> None:
    first = library.save(direction(), model=MODEL, user="ada", name="plural")
    assert library.save(direction(), model=MODEL, user="ADA", name="Plural").id == first.id
    with pytest.raises(NameTaken):
        library.save(direction(1), model=MODEL, user="ada", name="PLURAL")
    assert library.save(direction(1), model=MODEL, user="bob", name="plural").id != first.id
    assert library.save(direction(1), model=OTHER, user="ada", name="plural").id != first.id
    assert len(library.search().entries) == 3


def test_nothing_without_length_and_nobody_without_a_name(library: Library) -> None:
    with pytest.raises(ZeroDirection):
        library.save(0 * direction(), model=MODEL, user="ada")
    for nobody in (None, ""):
        with pytest.raises(NoUser):
            library.save(direction(), model=MODEL, user=nobody)
    assert library.search().entries == ()


def test_only_its_owner_changes_a_direction(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", description="mine")
    said = library.get(entry.id).descriptions[0].id
    comment = library.comment(entry.id, "hm", user="ada").id
    before = library.get(entry.id)
    for change in (
        lambda: library.rename(entry.id, "bob's", user="bob"),
        lambda: library.delete(entry.id, user="bob"),
        lambda: library.edit_description(said, "bob's", user="bob"),
        lambda: library.delete_description(said, user="bob"),
        lambda: library.delete_comment(comment, user="bob"),
    ):
        with pytest.raises(NotYours):
            change()
    assert library.get(entry.id) == before
    assert library.rename(entry.id, "renamed", user="Ada").name == "renamed"


def test_a_change_does_not_write_over_one_it_has_not_seen(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", description="one")
    renamed = library.rename(entry.id, "two", user="ada", seen=entry.version)
    with pytest.raises(EditedSince):
        library.rename(entry.id, "three", user="ada", seen=entry.version)
    assert library.rename(entry.id, "three", user="ada", seen=renamed.version).name == "three"
    said = library.get(entry.id).descriptions[0]
    library.edit_description(said.id, "two", user="ada", seen=said.version)
    with pytest.raises(EditedSince):
        library.edit_description(said.id, "three", user="ada", seen=said.version)
    assert library.get(entry.id).descriptions[0].text == "two"
    library.edit_description(said.id, "four", user="ada")  # who does not say what they saw writes over it
    assert library.get(entry.id).descriptions[0].text == "four"


def test_deleted_is_gone_and_undone_is_back_with_all_that_was_said(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", description="mine")
    said = library.describe(entry.id, "theirs", user="bob")
    library.vote(said.id, 1, user="cy")
    library.comment(entry.id, "hm", user="cy")
    before = library.get(entry.id)
    event = library.delete(entry.id, user="ada")
    assert library.search().entries == ()
    for gone in (
        lambda: library.get(entry.id),
        lambda: library.direction(entry.id),
        lambda: library.send(entry.id),
        lambda: library.vote(said.id, 1, user="ada"),
        lambda: library.comment(entry.id, "late", user="bob"),
        lambda: library.delete(entry.id, user="ada"),
    ):
        with pytest.raises(NotFound):
            gone()
    with pytest.raises(NotYours):
        library.undo(user="bob", event=event)
    assert library.undo(user="ada", event=event) == ("direction", entry.id)
    after = library.get(entry.id)
    assert (after.descriptions, after.comments) == (before.descriptions, before.comments)
    with pytest.raises(CannotUndo):
        library.undo(user="ada", event=event)


def test_undo_goes_back_step_by_step_but_not_over_a_later_change(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", name="one")
    library.rename(entry.id, "two", user="ada")
    library.rename(entry.id, "three", user="ada")
    names = []
    for _ in range(2):
        library.undo(user="ada")
        names.append(library.get(entry.id).entry.name)
    assert names == ["two", "one"]
    library.undo(user="ada")  # the saving itself
    assert library.search().entries == ()
    with pytest.raises(CannotUndo):
        library.undo(user="ada")
    said = library.describe(library.save(direction(2), model=MODEL, user="ada").id, "first", user="ada")
    library.edit_description(said.id, "second", user="ada")
    gone = library.delete_description(said.id, user="ada")
    library.undo(user="ada", event=gone)
    assert library.get(said.direction).descriptions[0].text == "second"


@contextmanager
def reading_event(library: Library, number: int) -> Iterator[None]:
    with library.database.reading() as session:
        assert session.scalars(select(Event).where(Event.id == number)).first() is None
    yield


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, 2**63, 2**70, -(2**63), -(2**70)])
def test_a_number_that_no_database_holds_is_refused_as_one_that_nobody_has(library: Library, number: int) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", name="one")
    with pytest.raises(CannotUndo):
        library.undo(user="ada", event=number)
    held = -(2**63) <= number < 2**63
    with (
        nullcontext() if held else pytest.raises(BadArguments, match="no number as large"),
        reading_event(library, number),
    ):
        assert held, "it is refused before anything is read"
    assert library.get(entry.id).entry.name == "one"


def test_a_name_given_up_and_taken_does_not_come_back(library: Library) -> None:
    first = library.save(direction(), model=MODEL, user="ada", name="plural")
    event = library.delete(first.id, user="ada")
    second = library.save(direction(1), model=MODEL, user="ada", name="plural")
    with pytest.raises(NameTaken):
        library.undo(user="ada", event=event)
    other = library.save(direction(2), model=MODEL, user="ada", name="other")
    with pytest.raises(NameTaken):
        library.rename(other.id, "plural", user="ada")
    assert {entry.id for entry in library.search().entries} == {second.id, other.id}


def test_votes_change_withdraw_and_count_once(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", description="good")
    other = library.describe(entry.id, "better", user="bob")
    good = library.get(entry.id).descriptions[0]
    for _ in range(3):
        counted = library.vote(good.id, 1, user="cy")
    assert (counted.up, counted.down, counted.mine) == (1, 0, 1)
    counted = library.vote(good.id, -1, user="cy")
    assert (counted.up, counted.down, counted.mine) == (0, 1, -1)
    library.vote(other.id, 1, user="dan")
    whole = library.get(entry.id, user="CY")
    assert [(said.text, said.mine) for said in whole.descriptions] == [("better", 0), ("good", -1)]
    assert (whole.entry.votes, whole.entry.description) == (0, "better")
    counted = library.vote(good.id, 0, user="cy")
    assert (counted.up, counted.down, counted.mine) == (0, 0, 0)
    assert library.get(entry.id).entry.votes == 1


def test_search(library: Library) -> None:
    plural = library.save(direction(0), model=MODEL, user="Ada", name="Plural NOUNS", description="ends in -s, 100 %")
    verbs = library.save(
        direction(1, site="resid_post.4"), model=MODEL, user="bob", name="Äuxiliary verbs", description="has been"
    )
    other = library.save(direction(2, site="resid_pre.10"), model=OTHER, user="ada", name="colours")
    library.vote(library.get(verbs.id).descriptions[0].id, 1, user="cy")
    library.vote(library.get(plural.id).descriptions[0].id, -1, user="cy")

    def found(**asked: object) -> list[str]:
        return [entry.id for entry in library.search(Search(**asked)).entries]

    assert found() == [other.id, verbs.id, plural.id]
    assert found(sort="votes") == [verbs.id, other.id, plural.id]
    assert found(text="plural nouns") == [plural.id]
    assert found(text="äUX") == [verbs.id]
    assert found(text="HAS BEEN") == [verbs.id]
    assert found(text="100 %") == [plural.id]
    assert found(text="_") == []
    assert found(user="ADA") == [other.id, plural.id]
    assert found(model="toy") == [verbs.id, plural.id]
    assert found(model=OTHER.hash) == [other.id]
    assert found(site="resid_pre") == [other.id, plural.id]
    assert found(site="resid_pre.1") == [plural.id]
    assert found(min_votes=0) == [other.id, verbs.id]
    assert found(user="ada", model="toy", text="s", site="resid_pre.1", min_votes=-5) == [plural.id]
    assert found(user="nobody") == []


@pytest.mark.parametrize("sort", ["newest", "votes"])
def test_pages_follow_each_other_while_others_save(library: Library, sort: str) -> None:
    ids = [library.save(direction(i), model=MODEL, user="ada", description="d").id for i in range(7)]
    for i, id in enumerate(ids[:3]):
        for voter in range(i + 1):
            library.vote(library.get(id).descriptions[0].id, 1, user=f"voter {voter}")
    whole = [entry.id for entry in library.search(Search(sort=sort)).entries]
    assert whole == (ids[::-1] if sort == "newest" else [ids[2], ids[1], ids[0], *ids[:2:-1]])
    seen, after = [], None
    for turn in range(4):
        page = library.search(Search(sort=sort, limit=2, after=after))
        seen += [entry.id for entry in page.entries]
        after = page.after
        if turn < 2 and sort == "newest":
            library.save(direction(20 + turn), model=MODEL, user="bob")
    assert (seen, after) == (whole, None)
    for wrong in ("x", "", "W10=", "ünicode", "WzFd"):
        with pytest.raises(NotFound):
            library.search(Search(sort=sort, after=wrong))


def test_a_file_goes_from_library_to_library(library: Library, tmp_path: Path) -> None:
    from residscope.store import open_library

    told = {"scale": 2.0, "site": "z.1", "head": 4}
    entry = library.save(direction(**told), model=MODEL, user="ada", name="plural", description="mine")
    data = library.send(entry.id)
    assert library.receive(data, user="bob") == (library.get(entry.id).entry, False)
    there = open_library(folder=tmp_path / "there")
    received, new = there.receive(data, user="bob")
    assert new
    assert (received.owner, received.name, received.description) == ("bob", "plural", "mine")
    assert torch.equal(there.direction(received.id).write, direction().write)
    again = exchange.from_file(there.send(received.id))
    assert (again.description, again.model.hash) == ("mine", MODEL.hash)
    assert {fact: getattr(again.direction, fact) for fact in told} == told
    assert again.direction.provenance == {**direction(**told).provenance, "imported": "plural"}
    lying = replace(again, model=ModelKey(again.model.hash, "toy", -again.model.signature))
    with pytest.raises(WrongModel, match="not that of the model it names"):
        there.receive(exchange.to_file(lying), user="cy")
    other = exchange.to_file(replace(again, direction=replace(again.direction, head=5)))
    assert there.receive(other, user="cy")[1]  # the same numbers at another head are another direction
    changed = bytearray(data)
    changed[-1] ^= 1
    with pytest.raises(DamagedFile):
        there.receive(bytes(changed), user="bob")
    for wrong in (b"", b"{}", data[:-9], data[:40], b"\xff" * 100):
        with pytest.raises(MalformedTensors):
            there.receive(wrong, user="bob")
    there.close()


def test_a_direction_knows_its_model(library: Library, llama, gpt2) -> None:
    entry = library.save(direction(), model=llama, user="ada")
    assert library.direction(entry.id, model=llama).name == "direction 0"
    with pytest.raises(WrongModel, match="llama"):
        library.direction(entry.id, model=gpt2)
    key = ModelKey.of(llama)
    rounded = ModelKey("c" * 64, "llama in bfloat16", key.signature.bfloat16().float())
    assert rounded.same(key)
    assert not ModelKey.of(gpt2).same(key)


def test_a_damaged_tensor_is_refused_by_name(tmp_path: Path) -> None:
    from residscope.store import open_library

    library = open_library(folder=tmp_path)
    entry = library.save(direction(), model=MODEL, user="ada")
    (file,) = (path for path in (tmp_path / "tensors").rglob("*") if path.is_file())
    whole = file.read_bytes()
    for content in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b""):
        file.write_bytes(content)
        with pytest.raises(DamagedStore, match=file.name):
            library.direction(entry.id)
    file.unlink()
    with pytest.raises(DamagedStore, match=file.name):
        library.direction(entry.id)
    assert library.get(entry.id).entry == entry  # what is said of it can still be read
    library.save(direction(), model=MODEL, user="bob")  # and the same vectors, saved again, mend it
    assert torch.equal(library.direction(entry.id).read, direction().read)
    library.close()


def test_one_direction_saved_by_several_is_found_best_described_first(library: Library) -> None:
    one = direction(1)
    longer = replace(one, read=one.read * 3, name="the same, longer")
    ada = library.save(one, model=MODEL, user="ada", name="a", description="few votes")
    bob = library.save(longer, model=MODEL, user="bob", name="b", description="many votes")
    library.describe(bob.id, "another word for it", user="ada")
    library.save(one, model=MODEL, user="eve", name="not described")
    others = [
        library.save(replace(one, read=-one.read), model=MODEL, user="ada", name="turned round").id,
        library.save(replace(one, read=one.read + 0.01), model=MODEL, user="ada", name="nearly").id,
        library.save(replace(one, site="resid_pre.0"), model=MODEL, user="ada", name="elsewhere").id,
        library.save(replace(one, site="result.1", head=1), model=MODEL, user="ada", name="of a head").id,
        library.save(one, model=OTHER, user="ada", name="of another model").id,
    ]
    library.delete(library.save(one, model=MODEL, user="joe", name="gone", description="x").id, user="joe")
    (said,) = (d for d in library.get(bob.id).descriptions if d.text == "many votes")
    for name in ("ada", "eve"):
        library.vote(said.id, 1, user=name)
    found = library.alike(replace(one, read=one.read / 7), model=MODEL)
    assert [entry.name for entry in found.entries] == ["b", "a", "not described"]
    assert found.entries[0].votes == 2
    assert found.descriptions == 3
    assert not {entry.id for entry in found.entries} & {*others}
    assert ada.id in {entry.id for entry in found.entries}
    nothing = library.alike(direction(99), model=MODEL)
    assert (nothing.entries, nothing.descriptions) == ((), 0)


def test_what_a_person_has_done(library: Library) -> None:
    first = library.save(direction(1), model=MODEL, user="Ada", name="one", description="said by ada")
    gone = library.save(direction(2), model=MODEL, user="ada", name="two")
    library.delete(gone.id, user="ada")
    own = library.get(first.id).descriptions[0].id
    library.vote(own, 1, user="ada")
    library.vote(own, -1, user="bob")
    library.vote(own, 1, user="eve")
    library.vote(library.describe(first.id, "said by bob", user="bob").id, 1, user="ada")
    ada = library.somebody(" ADA")
    assert (ada.name, ada.directions, ada.descriptions, ada.votes) == ("Ada", 1, 1, 0)
    assert library.somebody("bob").votes == 1
    with pytest.raises(NotFound):
        library.somebody("nobody")
