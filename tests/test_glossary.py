"""The glossary: every entry whole, its links lead somewhere, its formulas in the field's names; found as people write them."""

import json
import re
import tomllib
from collections import Counter
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

import residscope as rs
from residscope import listing, manifest
from residscope.cli.app import app
from residscope.declare import EDITS, TASKS
from residscope.errors import NotFound
from residscope.model.sites import KINDS, Sizes
from residscope.terms import GROUPS, SHOWN, Entry, headwords, nearest

ENTRIES = rs.glossary()
WEB = Path(__file__).parent.parent / "web" / "src"
FOLDER = files("residscope") / "data" / "glossary"
WEIGHTS = {f"W_{name}" for name in ("E", "U", "pos", "Q", "K", "V", "O", "QK", "OV", "in", "out", "gate", "enc", "dec")}
BIASES = {f"b_{name}" for name in ("Q", "K", "V", "O", "U", "in", "out", "enc", "dec")}


def plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.lower()).strip()


def test_there_are_enough_and_every_group_has_some():
    assert len(ENTRIES) >= 150
    assert {entry.group for entry in ENTRIES} == {*GROUPS}
    assert {path.name for path in Path(str(FOLDER)).iterdir()} == {
        *(f"{group}.toml" for group in GROUPS),
        "sources.toml",
    }


def test_every_entry_is_whole():
    for entry in ENTRIES:
        assert faults(entry) == [], entry.term


def faults(entry: Entry) -> list[str]:
    lists = {name: getattr(entry, name) for name in ("also", "see", "show")}
    checks = {
        "what it is, in two lines": 40 <= len(entry.what) <= 200 and entry.what[-1] in ".?",
        "the trap, in a line or two": 25 <= len(entry.trap) <= 170 and entry.trap[-1] in ".?",
        "a formula is no sentence": not entry.formula.endswith("."),
        "author, year, title": re.fullmatch(r"[\w .&-]+(, \w[\w .&-]+)* \d{4}, \S.+", entry.source),
        "other terms, and what shows it": entry.see and entry.show and entry.term not in entry.see,
        "nothing twice": all(len({*part}) == len(part) for part in lists.values()),
    }
    return [name for name, holds in checks.items() if not holds]


@pytest.mark.parametrize(
    ("part", "value", "fault"),
    [
        ("what", "Short.", "what it is, in two lines"),
        ("trap", "Mind it.", "the trap, in a line or two"),
        ("source", "A title alone", "author, year, title"),
        ("see", (), "other terms, and what shows it"),
        ("show", ("site:q", "site:q"), "nothing twice"),
    ],
)
def test_what_is_missing_would_be_seen(part, value, fault):
    assert faults(replace(rs.glossary("query"), **{part: value})) == [fault]


def test_no_name_is_given_twice():
    names = Counter(plain(name) for entry in ENTRIES for name in (entry.term, *entry.also))
    assert [name for name, n in names.items() if n > 1] == []


def test_other_terms_are_there_and_all_are_reached():
    terms = {entry.term for entry in ENTRIES}
    seen = {term for entry in ENTRIES for term in entry.see}
    assert seen <= terms
    reached, new = {"residual stream"}, {"residual stream"}
    linked: dict[str, set[str]] = {term: set() for term in terms}
    for entry in ENTRIES:
        for other in entry.see:
            linked[entry.term].add(other)
            linked[other].add(entry.term)
    while new:
        new = {other for term in new for other in linked[term]} - reached
        reached |= new
    assert terms - reached == set()


def things() -> dict[str, set[str]]:
    """What there is to show terms, by kind."""
    methods = manifest.own_methods()
    text = (WEB / "tabs/tabs.ts").read_text(encoding="utf-8")
    tabs = set(re.findall(r'\{ id: "(\w+)"', text))
    ids = {"method": {*methods}, "group": {method.group for method in methods.values()}, "site": {*KINDS}}
    return ids | {"edit": {*EDITS}, "tab": tabs, "task": {*TASKS}, "rs": {*rs.__all__}}


def test_what_shows_a_term_exists():
    ids = things()
    assert {*ids} == {*SHOWN}
    links = [(entry.term, *link.split(":", 1)) for entry in ENTRIES for link in entry.show]
    assert [(term, kind, id) for term, kind, id in links if id not in ids[kind]] == []
    assert {kind for _, kind, _ in links} == {*SHOWN}


def test_a_name_that_nothing_has_would_be_seen():
    assert "logit-lense" not in things()["method"]
    assert {"logit-lens", "pca"} <= things()["method"]


@pytest.mark.parametrize("kind", [kind for kind in SHOWN if kind != "rs"])
def test_all_that_can_show_a_term_does_and_has_a_word_for_it(kind):
    """A new method, edit, tab or task: name it in `show` of the entries it shows."""
    words = {link.partition(":")[2]: term for link, term in headwords().items() if link.startswith(f"{kind}:")}
    assert {*words} == things()[kind]
    assert all(f"{kind}:{id}" in rs.glossary(term).show for id, term in words.items())


def test_a_word_is_the_one_for_what_has_its_name():
    words = headwords()
    assert words["method:logit-lens"] == "logit lens"
    assert words["method:direct-attribution"] == "direct logit attribution"
    assert words["edit:ablate"] == "ablation"
    assert words["tab:heads"] == "attention head"
    names = [link for entry in ENTRIES for link in entry.names]
    assert len(names) == len({*names})
    assert all({*entry.names} <= {*entry.show} for entry in ENTRIES)


def test_words_on_the_page_are_terms():
    """Whatever a `Term` of the page's opens is here: none is written twice."""
    sources = {path: path.read_text(encoding="utf-8") for path in WEB.rglob("*.svelte")}
    words = {name for text in sources.values() for name in re.findall(r'(?:<Term|<Legend)[^>]*? of="([^"{]+)"', text)}
    tables = (WEB / "lib" / "labels.ts").read_text(encoding="utf-8")
    words |= {*re.findall(r'[\w"-]+: "([^"]+)"', tables)}
    words |= {*re.findall(r'"([^"]+)"\],', (WEB / "frame" / "DirectionCard.svelte").read_text(encoding="utf-8"))}
    assert len(words) >= 40
    for name in words:
        assert name in (entry := rs.glossary(name)).also or name == entry.term, name


def test_every_site_is_a_term():
    for name in KINDS:
        assert rs.glossary(name), name
    assert {f"site:{name}" for name in KINDS} <= {link for entry in ENTRIES for link in entry.show}


def test_formulas_speak_in_names_that_are_defined():
    known = {*KINDS, *(field.name for field in fields(Sizes)), *WEIGHTS, *BIASES}
    axes = {axis for kind in KINDS.values() for axis in kind.axes}
    for entry in ENTRIES:
        for name in re.findall(r"[A-Za-z]\w*_\w+", entry.formula):
            assert name in known | axes or re.fullmatch(r"[a-z]_[ijk]|MLP_e", name), (entry.term, name)
        for left, right in ("()", "[]"):
            assert entry.formula.count(left) == entry.formula.count(right), entry.term


def test_every_source_is_used_and_each_entry_names_one():
    sources = tomllib.loads((FOLDER / "sources.toml").read_text(encoding="utf-8"))
    assert {entry.source for entry in ENTRIES} == {*sources.values()}
    assert list(sources) == sorted(sources)


@pytest.mark.parametrize(
    ("written", "term"),
    [
        ("K-composition", "K-composition"),
        ("k composition", "K-composition"),
        ("  Induction   Heads ", "induction head"),
        ("key_composition", "K-composition"),
        ("SAEs", "sparse autoencoder"),
        ("queries", "query"),
        ("W_OV", "OV circuit"),
        ("RoPE", "rotary embedding"),
        ("cross entropies", "cross-entropy loss"),
        ("bias-variance trade-offs", "double descent"),
        ("antipodal pairs", "antipodal pair"),
        ("IOI", "indirect object identification"),
    ],
)
def test_a_term_is_found_as_people_write_it(written, term):
    assert rs.glossary(written).term == term


def test_each_name_finds_its_own_entry():
    for entry in ENTRIES:
        for name in (entry.term, *entry.also):
            for written in (name, name.upper(), name.replace("-", " "), f" {name} "):
                assert rs.glossary(written) is entry, written
            if len(name) > 2 and name[-1].isalpha() and name[-1].lower() not in "hisuxy":
                assert rs.glossary(f"{name}s") is entry, name


@pytest.mark.parametrize(
    ("written", "near"),
    [("inducton head", "induction head"), ("eigenvalue", "copying score"), ("logit lense", "logit lens")],
)
def test_an_unknown_term_names_the_nearest(written, near):
    with pytest.raises(NotFound) as raised:
        rs.glossary(written)
    assert near in nearest(written)
    assert near in str(raised.value)
    assert written in str(raised.value)


@pytest.mark.parametrize("written", ["", "   ", "zzzzqq", 3, "x" * 5000])
def test_what_is_no_term_is_refused_in_few_words(written):
    with pytest.raises(NotFound) as raised:
        rs.glossary(written)
    assert len(str(raised.value)) < 500


def test_an_entry_shows_itself():
    entry = rs.glossary("K-composition")
    assert isinstance(entry, Entry)
    shown = str(entry)
    assert shown == repr(entry)
    for part in (entry.term, entry.source, "Trap: ", *entry.see, *entry.show):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 100
    card = entry.view().to_dict()
    assert (card["kind"], card["title"], card["note"]) == ("card", entry.term, entry.trap)
    assert card["fields"]["formula"] == entry.formula
    assert "formula" not in rs.glossary("feature").view().to_dict()["fields"]
    assert entry.term in entry._repr_html_()


def test_the_command():
    run = CliRunner().invoke(app, ["glossary", "K-composition"])
    assert (run.exit_code, run.stdout) == (0, f"{rs.glossary('K-composition')}\n")
    run = CliRunner().invoke(app, ["glossary", "causal", "scrubbing", "--json"])
    assert json.loads(run.stdout)["term"] == "causal scrubbing"
    run = CliRunner().invoke(app, ["glossary"])
    assert run.stdout == f"{ENTRIES}\n"
    listed = " ".join(run.stdout.split())
    assert all(entry.term in listed for entry in ENTRIES)
    run = CliRunner().invoke(app, ["glossary", "--json"])
    assert [entry["term"] for entry in json.loads(run.stdout)] == [entry.term for entry in ENTRIES]
    run = CliRunner().invoke(app, ["glossary", "inducton"])
    assert isinstance(run.exception, NotFound)


def test_the_page_has_all_and_its_links_lead_somewhere():
    page = listing.glossary_page()
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = Counter(map(listing._anchor, headings))
    assert max(anchors.values()) == 1
    assert {*re.findall(r"\]\(#([^)]*)\)", page)} <= {*anchors}
    assert {entry.term for entry in ENTRIES} <= {*headings}
    for target in {*re.findall(r"\]\(([\w-]+\.md)\)", page)}:
        assert (Path(__file__).parent.parent / "docs" / target).exists()
