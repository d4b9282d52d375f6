"""The library as queries and intents (docs/wire.md); who asks comes with each, from the door it came through."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from residscope.errors import ModelNotFound
from residscope.fields.base import Spec
from residscope.server.blind import BlindTests
from residscope.server.people import People, Person
from residscope.session import Session
from residscope.session.queries import Brought
from residscope.store import Library, Search
from residscope.store.entries import Entry

Handlers = dict[str, Brought]


class Nothing(Spec):
    pass


class Id(Spec):
    id: str


class Find(Spec):
    """here: of the loaded model alone."""

    text: str | None = Field(None, max_length=200)
    user: str | None = Field(None, max_length=200)
    model: str | None = Field(None, max_length=400)
    site: str | None = Field(None, max_length=80)
    min_votes: int | None = Field(None, ge=-(2**31), lt=2**31)
    sort: Literal["newest", "votes"] = "newest"
    limit: int = Field(20, ge=1, le=100)
    after: str | None = Field(None, max_length=400)
    here: bool = False


class Name(Spec):
    name: str


class Save(Spec):
    direction: Any
    name: str
    description: str | None = None


class Receive(Spec):
    """data: a safetensors file."""

    data: bytes
    name: str | None = None


class Rename(Spec):
    id: str
    name: str
    seen: int | None = None


class Say(Spec):
    id: str
    text: str


class EditSaid(Spec):
    id: str
    text: str
    seen: int | None = None


class Vote(Spec):
    id: str
    value: Literal[-1, 0, 1]


class Test(Spec):
    test: str


class Guess(Spec):
    test: str
    guesses: list[float] = Field(max_length=100)


class Undo(Spec):
    event: int | None = None


class LibraryHandlers:
    """What the library answers: `queries` and `intents`, by name. A change needs a person with a name, at their pace."""

    def __init__(self, session: Session, library: Library, people: People) -> None:
        self._session, self._library, self._people = session, library, people
        self._blind = BlindTests(session, library)

    @cached_property
    def queries(self) -> Handlers:
        return {
            "library_me": Brought(Nothing, lambda who, args: {"name": _name(who)}),
            "library_search": Brought(Find, lambda who, args: self._search(args)),
            "library_read": Brought(Id, lambda who, args: self._read(args.id, _name(who))),
            "library_blind_test": Brought(Test, lambda who, args: self._blind.read(args.test, user=_name(who))),
        }

    @cached_property
    def intents(self) -> Handlers:
        library, blind = self._library, self._blind
        return {
            "library_sign_in": Brought(Name, self._sign_in),
            "library_sign_out": Brought(Nothing, self._sign_out),
            "library_open": Brought(Id, lambda who, args: self._open(args.id)),
            "library_save": self._change(Save, self._save),
            "library_import": self._change(Receive, self._receive),
            "library_rename": self._change(
                Rename, lambda user, args: self._shown(library.rename(args.id, args.name, user=user, seen=args.seen))
            ),
            "library_delete": self._change(Id, lambda user, args: {"event": library.delete(args.id, user=user)}),
            "library_describe": self._change(
                Say, lambda user, args: library.describe(args.id, args.text, user=user).to_dict()
            ),
            "library_edit_description": self._change(
                EditSaid,
                lambda user, args: library.edit_description(args.id, args.text, user=user, seen=args.seen).to_dict(),
            ),
            "library_delete_description": self._change(
                Id, lambda user, args: {"event": library.delete_description(args.id, user=user)}
            ),
            "library_vote": self._change(
                Vote, lambda user, args: library.vote(args.id, args.value, user=user).to_dict()
            ),
            "library_comment": self._change(
                Say, lambda user, args: library.comment(args.id, args.text, user=user).to_dict()
            ),
            "library_delete_comment": self._change(
                Id, lambda user, args: {"event": library.delete_comment(args.id, user=user)}
            ),
            "library_blind": self._change(Id, lambda user, args: blind.begin(args.id, user=user)),
            "library_guess": self._change(Guess, lambda user, args: blind.finish(args.test, args.guesses, user=user)),
            "library_undo": self._change(Undo, self._undo),
        }

    def _change(self, shape: type[Spec], handler: Callable[[str, Any], Any]) -> Brought:
        """Of somebody with a name, who has made few changes of late. Raises NoUser, TooFast."""
        return Brought(shape, lambda who, args: handler(self._people.changes(who), args))

    def _hashes(self) -> tuple[str, ...] | None:
        """The hashes that the loaded model goes by here; None without a model."""
        try:
            return self._library.hashes_of(self._session.model)
        except ModelNotFound:
            return None

    def _shown(self, entry: Entry, hashes: tuple[str, ...] | None = None) -> dict[str, Any]:
        hashes = self._hashes() if hashes is None else hashes
        return entry.to_dict() | {"here": None if hashes is None else entry.model_hash in hashes}

    def _search(self, asked: Find) -> dict[str, Any]:
        hashes = self._hashes()
        models = (hashes or ()) if asked.here else None
        found = self._library.search(Search(**asked.model_dump(exclude={"here"}), models=models))
        return {"entries": [self._shown(entry, hashes) for entry in found.entries], "after": found.after}

    def _read(self, id: str, user: str | None) -> dict[str, Any]:
        whole = self._library.get(id, user=user)
        return whole.to_dict() | {"entry": self._shown(whole.entry)}

    def _sign_in(self, who: Person, args: Name) -> dict[str, Any]:
        self._people.buckets["name"].take("")
        who.become(self._library.sign_in(args.name))
        return {"name": who.name}

    def _sign_out(self, who: Person, args: Nothing) -> dict[str, Any]:
        who.become(None)
        return {"name": None}

    def _open(self, id: str) -> dict[str, Any]:
        return self._session.adopt(self._library.direction(id, model=self._session.model), id=id)

    def _save(self, user: str, args: Save) -> dict[str, Any]:
        direction, model = self._session.resolve(args.direction)
        saved = self._library.save(direction, model=model, user=user, name=args.name, description=args.description)
        return self._shown(saved)

    def _receive(self, user: str, args: Receive) -> dict[str, Any]:
        entry, new = self._library.receive(args.data, user=user, name=args.name)
        return {"entry": self._shown(entry), "new": new}

    def _undo(self, user: str, args: Undo) -> dict[str, Any]:
        kind, id = self._library.undo(user=user, event=args.event)
        return {"kind": kind, "id": id}


def _name(who: Person | None) -> str | None:
    return None if who is None else who.name
