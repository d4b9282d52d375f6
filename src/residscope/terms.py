"""The field's words: `rs.glossary("K-composition")`. Each entry is data, in `data/glossary/`; torch is not needed."""

import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, TypedDict, cast, overload

from residscope.errors import NotFound
from residscope.once import once
from residscope.views import Card

GROUPS = {
    "transformer": "The transformer",
    "attention": "Attention and its heads",
    "features": "Features and dictionaries",
    "techniques": "Techniques",
    "evidence": "Evidence and measures",
    "learning": "Training, tasks and the field",
    "page": "The words of the page",
}
"""The files of `data/glossary/`, by name, in the order they are read in."""

SHOWN = ("method", "group", "site", "edit", "tab", "task", "rs")
"""What an entry may lead to: an id of each kind; `group` is of methods, `rs` is a name of this package."""


class TermForm(TypedDict):
    """An entry of the glossary, plain."""

    term: str
    group: str
    what: str
    trap: str
    source: str
    also: list[str]
    formula: str
    see: list[str]
    show: list[str]
    names: list[str]


@dataclass(frozen=True, repr=False)
class Entry:
    """One term.

    also: its other names. what: what it is. formula: plain text in the field's names, vectors as rows (x W); or empty.
    trap: what is easily misread. source: author, year, title. see: other terms. show: where Residscope shows it, as
    `kind:id` (`method:pca`, `site:resid_pre`), the best first; kinds are those of `SHOWN`.
    names: those of them that it is the word for, where neither names the other.
    """

    term: str
    group: str
    what: str
    trap: str
    source: str
    also: tuple[str, ...] = ()
    formula: str = ""
    see: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def view(self) -> Card:
        parts = {"also": ", ".join(self.also), "what": self.what, "formula": self.formula}
        parts |= {"source": self.source, "see": ", ".join(self.see), "shown by": ", ".join(self.show)}
        return Card(self.term, {name: text for name, text in parts.items() if text}, note=self.trap)

    def to_dict(self) -> TermForm:
        """Plain JSON."""
        parts = {name: list(part) if isinstance(part, tuple) else part for name, part in vars(self).items()}
        return cast(TermForm, parts)

    def __str__(self) -> str:
        head = self.term + (f"  (also {', '.join(self.also)})" if self.also else "")
        parts = [("", self.what), ("", self.formula), ("Trap: ", self.trap), ("Source: ", self.source)]
        parts += [("See: ", ", ".join(self.see)), ("Shown by: ", ", ".join(self.show))]
        return "\n".join([head, *(_wrapped(label + text) for label, text in parts if text)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()


class Glossary(tuple[Entry, ...]):
    """All entries; printed, their terms by group."""

    def __str__(self) -> str:
        lists = {title: ", ".join(e.term for e in self if e.group == group) for group, title in GROUPS.items()}
        return "\n\n".join(f"{title}:\n{_wrapped(terms)}" for title, terms in lists.items())

    __repr__ = __str__


@overload
def glossary(term: str) -> Entry: ...
@overload
def glossary(term: None = None) -> Glossary: ...
def glossary(term: str | None = None) -> Entry | Glossary:
    """What a term of the field means; without a term, all of them in order.

    Case, hyphens, a plural and other names do not matter.

    >>> glossary("k composition").term
    'K-composition'

    Raises:
        NotFound: no such term; the message names the nearest.
    """
    if term is None:
        return _entries()
    if not isinstance(term, str) or _key(term) not in _index():
        raise NotFound(
            "the glossary has no such term",
            received=repr(term)[:100],
            allowed=f"one of {len(_entries())} terms, or another name of one: rs.glossary() has them all",
            fix=f"the nearest are {', '.join(near)}" if (near := nearest(str(term))) else "see docs/glossary.md",
        )
    return _index()[_key(term)]


def nearest(term: str, n: int = 5) -> list[str]:
    """Terms that are written much like it, or that have its words in them, the likest first."""
    key, index = _key(term), _index()
    inside = sorted((name for name in index if len(key) > 2 and f" {key} " in f" {name} "), key=len)
    near = [*inside, *get_close_matches(key, index, n=n, cutoff=0.6)]
    return list(dict.fromkeys(index[name].term for name in near))[:n]


@once
def headwords() -> dict[str, str]:
    """Of each thing that shows terms (`method:pca`), the one that is the word for it."""
    ranked: dict[str, tuple[bool, bool, int, str]] = {}
    for entry in _entries():
        for place, link in enumerate(entry.show):
            own = _index().get(_key(link.partition(":")[2])) is entry
            rank = (link not in entry.names, not own, place, entry.term)
            ranked[link] = min(rank, ranked.get(link, rank))
    return {link: term for link, (*_, term) in sorted(ranked.items())}


@once
def _entries() -> Glossary:
    sources = _read("sources")
    return Glossary(_entry(group, given, sources) for group in GROUPS for given in _read(group)["entry"])


def _entry(group: str, given: dict[str, Any], sources: dict[str, Any]) -> Entry:
    parts: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in given.items()}
    return Entry(**parts | {"group": group, "source": sources[given["source"]]})


@once
def _index() -> dict[str, Entry]:
    """Each entry by its term and by its other names."""
    return {_key(name): entry for entry in _entries() for name in _names(entry)}


def _names(entry: Entry) -> Iterator[str]:
    yield entry.term
    yield from entry.also


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files("residscope") / "data" / "glossary" / f"{name}.toml").read_text(encoding="utf-8"))


def _key(name: str) -> str:
    """A name without what does not matter: case, hyphens, the plural of its last word."""
    key = " ".join(name.casefold().replace("-", " ").replace("_", " ").split())
    if len(key) < 4 or key.endswith(("ss", "us", "is")):
        return key
    return (
        f"{key[:-3]}y" if key.endswith("ies") else key[:-2] if key.endswith(("sses", "xes")) else key.removesuffix("s")
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
