"""What people write is shown as they wrote it, or refused with the character named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residscope.errors import BadText
from residscope.store import Library, Search
from residscope.written import key, name_of, paragraphs
from store.things import MODEL, direction

KEPT = [
    "<script>alert(1)</script>",
    "&amp; \"quoted\" 'and' \\n %s {0} -- ; DROP TABLE users",
    "👩‍🔬🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️",
    "اسم بالعربية",
    "שם",
    "می‌خواهم",
    "日本語 Ünïcødé ᵃ",
]
REFUSED = [
    "a\x00b",
    "a\nb",
    "\x1b[31m",
    "abc\u202egpj",
    "\u2066x\u2069",
    "a\u200fb",
    "\ufeffx",
    "\u2028",
    "\ud800",
    "\ue000",
]
EMPTY = ["", "  ", "\u200d", "\u200b", "\ufe0f", "\u2800"[:0]]


@pytest.mark.parametrize("name", KEPT)
def test_html_emoji_and_every_script_are_text(library: Library, name: str) -> None:
    entry = library.save(direction(), model=MODEL, user=name[:40], name=name, description=f"{name}\n\t{name}")
    library.comment(entry.id, name, user=name[:40])
    whole = library.get(entry.id)
    assert (whole.entry.name, whole.entry.owner) == (name.strip(), name[:40].strip())
    assert (whole.descriptions[0].text, whole.comments[0].text) == (f"{name}\n\t{name}", name)
    assert [found.id for found in library.search(Search(text=name.upper())).entries] == [entry.id]


@pytest.mark.parametrize("name", [*REFUSED, *EMPTY])
def test_what_misleads_or_cannot_be_seen_is_refused(name: str) -> None:
    with pytest.raises(BadText):
        name_of(name)


def test_a_million_characters_are_refused_before_anything_is_written(library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", description="d")
    before = library.get(entry.id)
    huge = "x" * 1_000_000
    for write in (
        lambda: library.save(direction(1), model=MODEL, user="ada", name=huge),
        lambda: library.save(direction(1), model=MODEL, user="ada", description=huge),
        lambda: library.save(direction(1, provenance={"text": huge}), model=MODEL, user="ada"),
        lambda: library.sign_in(huge),
        lambda: library.rename(entry.id, huge, user="ada"),
        lambda: library.describe(entry.id, huge, user="ada"),
        lambda: library.edit_description(before.descriptions[0].id, huge, user="ada"),
        lambda: library.comment(entry.id, huge, user="ada"),
    ):
        with pytest.raises(BadText, match="too long"):
            write()
    assert library.get(entry.id) == before
    assert len(library.search().entries) == 1
    assert library.save(direction(1), model=MODEL, user="ada", name="x" * 80).name == "x" * 80
    library.describe(entry.id, "🙂" * 4_000, user="ada")
    library.comment(entry.id, "🙂" * 2_000, user="ada")
    for just_over in (lambda: name_of("x" * 81), lambda: library.comment(entry.id, "x" * 2_001, user="ada")):
        with pytest.raises(BadText):
            just_over()


def test_the_database_is_never_asked_what_it_cannot_hold(library: Library) -> None:
    library.save(direction(), model=MODEL, user="ada")
    for odd in ("\x00", "a\x00b", "%", "\\", "'"):
        assert library.search(Search(text=odd)).entries == () or odd == "\x00"
    with pytest.raises(BadText, match="cannot hold") if not library.database.is_sqlite else pytest.raises(LookupError):
        if library.search(Search(model="\x00")).entries == ():
            raise LookupError


def test_names_that_look_alike_are_one_person(library: Library) -> None:
    assert library.sign_in("Ada") == "Ada"
    for alike in ("ada", "ADA", " ada ", "Ａｄａ", "a\u200dda"):
        assert library.sign_in(alike) == "Ada"
    assert library.sign_in("Ada2") == "Ada2"


@given(st.text(max_size=90))
def test_a_name_is_refused_or_one_visible_line(text: str) -> None:
    try:
        name = name_of(text)
    except BadText:
        return
    assert 1 <= len(name) <= 80
    assert name.splitlines() == [name]
    assert key(name).strip()
    assert key(key(name)) == key(name)
    assert name_of(name) == name


def test_line_ends_are_made_one() -> None:
    assert paragraphs(" a\r\nb\n\tc \n", "the comment", most=10) == "a\nb\n\tc"
    for wrong in ("a\rb", "a\x0bb", "\n\n"):
        with pytest.raises(BadText):
            paragraphs(wrong, "the comment", most=10)
