"""The library as queries and intents (docs/wire.md); who asks comes with each, from the door it came through."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field

from residscope.errors import ModelNotFound
from residscope.fields.base import Spec
from residscope.server.blind import BlindResult, BlindStarted, BlindTest, BlindTests
from residscope.server.people import People, Person, Present
from residscope.session import Session
from residscope.session.intents import SavedName
from residscope.session.queries import Brought
from residscope.store import Library, Search
from residscope.store.entries import Alike, Comment, Description, Entry, Page, SavedFeatures, Somebody, Whole
from residscope.views.view import Plain


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


class Of(Spec):
    direction: Any


class OfDictionary(Spec):
    """dictionary: a hash."""

    dictionary: str = Field(min_length=1, max_length=128)


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


class Me(TypedDict):
    """Who one is, as it is known here."""

    name: str | None


class Undoable(TypedDict):
    """What `library_undo` takes back."""

    event: int


class Undone(TypedDict):
    kind: Annotated[str, Plain(Literal["direction", "description", "comment"])]
    id: str


@dataclass(frozen=True)
class Received:
    """`new`: false where the same numbers are here already."""

    entry: Entry
    new: bool


QUERIES: dict[str, tuple[type[Spec], Any]] = {
    "library_me": (Nothing, Me), "library_search": (Find, Page), "library_read": (Id, Whole),
    "library_alike": (Of, Alike), "library_somebody": (Name, Somebody), "library_blind_test": (Test, BlindTest),
    "library_features": (OfDictionary, SavedFeatures),
}  # fmt: skip
INTENTS: dict[str, tuple[type[Spec], Any]] = {
    "library_sign_in": (Name, Me), "library_sign_out": (Nothing, Me), "library_open": (Id, SavedName),
    "library_save": (Save, Entry), "library_import": (Receive, Received), "library_rename": (Rename, Entry),
    "library_delete": (Id, Undoable), "library_describe": (Say, Description), "library_edit_description": (EditSaid, Description),
    "library_delete_description": (Id, Undoable), "library_vote": (Vote, Description), "library_comment": (Say, Comment),
    "library_delete_comment": (Id, Undoable), "library_blind": (Id, BlindStarted), "library_guess": (Guess, BlindResult),
    "library_undo": (Undo, Undone),
}  # fmt: skip
"""By name: what each takes, and the type of its answer, from which the page's is made."""


class LibraryHandlers:
    """What the library answers, by name: `queries` and `intents`."""

    def __init__(self, session: Session, library: Library, people: People, present: Present) -> None:
        self._session, self._library, self._people, self._present = session, library, people, present
        blind = BlindTests(session, library)
        answers: dict[str, Callable[[Any, Any], Any]] = {
            "library_me": lambda who, args: Me(name=_name(who)),
            "library_search": lambda who, args: self._search(args),
            "library_read": lambda who, args: self._read(args.id, _name(who)),
            "library_alike": lambda who, args: self._alike(args.direction),
            "library_somebody": lambda who, args: library.somebody(args.name),
            "library_features": lambda who, args: self._features(args.dictionary),
            "library_blind_test": lambda who, args: blind.read(args.test, user=_name(who)),
        }
        free: dict[str, Callable[[Any, Any], Any]] = {
            "library_sign_in": self._sign_in,
            "library_sign_out": self._sign_out,
            "library_open": lambda who, args: self._open(args.id),
        }
        changes: dict[str, Callable[[str, Any], Any]] = {
            "library_save": self._save,
            "library_import": self._receive,
            "library_rename": lambda user, args: self._shown(
                library.rename(args.id, args.name, user=user, seen=args.seen)
            ),
            "library_delete": lambda user, args: Undoable(event=library.delete(args.id, user=user)),
            "library_describe": lambda user, args: library.describe(args.id, args.text, user=user),
            "library_edit_description": lambda user, args: library.edit_description(
                args.id, args.text, user=user, seen=args.seen
            ),
            "library_delete_description": lambda user, args: Undoable(
                event=library.delete_description(args.id, user=user)
            ),
            "library_vote": lambda user, args: library.vote(args.id, args.value, user=user),
            "library_comment": lambda user, args: library.comment(args.id, args.text, user=user),
            "library_delete_comment": lambda user, args: Undoable(event=library.delete_comment(args.id, user=user)),
            "library_blind": lambda user, args: blind.begin(args.id, user=user),
            "library_guess": lambda user, args: blind.finish(args.test, args.guesses, user=user),
            "library_undo": self._undo,
        }
        doing = free | {name: self._change(change) for name, change in changes.items()}
        self.queries = {name: Brought(shape, _plain(answers[name])) for name, (shape, _) in QUERIES.items()}
        self.intents = {name: Brought(shape, _plain(doing[name])) for name, (shape, _) in INTENTS.items()}

    def _change(self, change: Callable[[str, Any], Any]) -> Callable[[Any, Any], Any]:
        """Of somebody with a name, who has made few changes of late. Raises NoUser, TooFast."""

        def changed(who: Any, args: Any) -> Any:
            answer = change(self._people.changes(who), args)
            self._session.tell_library()
            return answer

        return changed

    def _hashes(self) -> tuple[str, ...] | None:
        """The hashes that the loaded model goes by here; None without a model."""
        try:
            return self._library.hashes_of(self._session.model)
        except ModelNotFound:
            return None

    def _shown(self, entry: Entry, hashes: tuple[str, ...] | None = None) -> Entry:
        hashes = self._hashes() if hashes is None else hashes
        return replace(entry, here=None if hashes is None else entry.model_hash in hashes)

    def _search(self, asked: Find) -> Page:
        hashes = self._hashes()
        models = (hashes or ()) if asked.here else None
        found = self._library.search(Search(**asked.model_dump(exclude={"here"}), models=models))
        return replace(found, entries=tuple(self._shown(entry, hashes) for entry in found.entries))

    def _read(self, id: str, user: str | None) -> Whole:
        whole = self._library.get(id, user=user)
        return replace(whole, entry=self._shown(whole.entry))

    def _alike(self, ref: Any) -> Alike:
        direction, model = self._session.reads.resolve(ref)
        found = self._library.alike(direction, model=model)
        return replace(found, entries=tuple(self._shown(entry) for entry in found.entries))

    def _features(self, hash: str) -> SavedFeatures:
        hashes = self._hashes()
        found = self._library.features(hash).features
        return SavedFeatures(tuple(replace(one, entry=self._shown(one.entry, hashes)) for one in found))

    def _sign_in(self, who: Person, args: Name) -> Me:
        self._people.buckets["name"].take("")
        who.become(self._library.sign_in(args.name))
        self._present.tell()
        return Me(name=who.name)

    def _sign_out(self, who: Person, args: Nothing) -> Me:
        who.become(None)
        self._present.tell()
        return Me(name=None)

    def _open(self, id: str) -> SavedName:
        return self._session.adopt(self._library.direction(id, model=self._session.model), id=id)

    def _save(self, user: str, args: Save) -> Entry:
        direction, model = self._session.reads.resolve(args.direction)
        saved = self._library.save(direction, model=model, user=user, name=args.name, description=args.description)
        return self._shown(saved)

    def _receive(self, user: str, args: Receive) -> Received:
        entry, new = self._library.receive(args.data, user=user, name=args.name)
        return Received(self._shown(entry), new)

    def _undo(self, user: str, args: Undo) -> Undone:
        kind, id = self._library.undo(user=user, event=args.event)
        return Undone(kind=kind, id=id)


def _plain(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The answers of a handler as plain JSON."""

    def plain(who: Any, args: Any) -> Any:
        value = answer(who, args)
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    return plain


def _name(who: Person | None) -> str | None:
    return None if who is None else who.name
