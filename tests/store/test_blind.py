"""Scores of blind tests on both databases: one a person and description, the author's own aside, of the text as it is now."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from residscope.errors import NotFound, NoUser
from residscope.store import Library
from store.things import MODEL, direction

DETAIL = {"interval": [0.1, 0.9], "guesses": [0.0, 1.0], "values": [1.0, 2.0]}


@pytest.fixture
def said(library: Library) -> str:
    entry = library.save(direction(), model=MODEL, user="ada", description="fires on -s")
    return library.get(entry.id).descriptions[0].id


def keep(library: Library, said: str, score: float, user: str | None, *, text: str = "fires on -s") -> dict | None:
    return library.keep_blind(said, score, DETAIL, said=text, user=user).blind


def test_one_test_of_one_person_counts_once_and_the_latest_does(library: Library, said: str) -> None:
    assert library.get_description(said).blind is None
    first = {"people": 1, "mean": 0.25, "interval": [0.1, 0.9], "author": None, "mine": 0.25}
    assert keep(library, said, 0.25, "bob") == first
    assert keep(library, said, 0.75, "BOB") == first | {"mean": 0.75, "mine": 0.75}
    both = keep(library, said, 0.25, "cy")
    assert both is not None
    assert (both["people"], both["mean"], both["mine"]) == (2, 0.5, 0.25)
    low, high = both["interval"]
    assert -1 <= low < 0.5 < high <= 1
    assert library.get_description(said).blind == both | {"mine": None}
    assert library.get_description(said, user="bob").blind == both | {"mine": 0.75}


def test_a_test_sent_from_twenty_windows_at_once_is_one(library: Library, said: str) -> None:
    with ThreadPoolExecutor(20) as windows:
        list(windows.map(lambda i: keep(library, said, i / 20, "bob" if i % 2 else "BOB"), range(20)))
    found = library.get_description(said, user="bob").blind
    assert found is not None
    assert found["people"] == 1
    assert found["mean"] == found["mine"] in {i / 20 for i in range(20)}


def test_the_author_s_own_stands_apart(library: Library, said: str) -> None:
    alone = {"people": 0, "mean": None, "interval": None, "author": 1.0, "mine": 1.0}
    assert keep(library, said, 1.0, "Ada") == alone
    assert keep(library, said, -0.5, "bob") == {
        "people": 1, "mean": -0.5, "interval": [0.1, 0.9], "author": 1.0, "mine": -0.5,
    }  # fmt: skip


def test_an_edited_description_has_not_been_tested_until_it_is_as_it_was(library: Library, said: str) -> None:
    scored = keep(library, said, 0.5, "bob")
    library.edit_description(said, "fires on -ed", user="ada")
    assert library.get_description(said, user="bob").blind is None
    assert keep(library, said, 0.9, "cy") is None  # begun before the edit, ended after it
    library.undo(user="ada")
    now = library.get_description(said, user="bob").blind
    assert now is not None
    assert (now["people"], now["mine"]) == (2, scored and scored["mine"])


def test_nobody_scores_and_nothing_is_scored_that_is_gone(library: Library, said: str) -> None:
    with pytest.raises(NoUser):
        keep(library, said, 0.5, None)
    library.delete_description(said, user="ada")
    with pytest.raises(NotFound):
        keep(library, said, 0.5, "bob")
    with pytest.raises(NotFound):
        library.get_description(said)
