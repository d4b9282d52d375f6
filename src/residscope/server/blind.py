"""Blind tests under way: what the server knows and the page may not, until the guesses are in."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

from residscope.errors import MalformedJSON, NotFound, ResidscopeError
from residscope.methods._lib.blind import score
from residscope.methods.evidence.blind_contexts import CONTEXTS, Context
from residscope.progress import Cancel, Progress
from residscope.session import Session
from residscope.session.jobs import Taker
from residscope.store import Library
from residscope.store.entries import Description
from residscope.written import key

CORPUS = "python-docs"
MOST_UNDER_WAY = 500
SCALE = ("strongly negative", "in the middle", "strongly positive")
ABOUT = {"python-docs": "The texts are from Python's documentation"}


class BlindStarted(TypedDict):
    """A test, and the job that draws its contexts."""

    test: str
    job: str


class BlindItem(TypedDict):
    """A context: what does the direction say at `tokens[pos]`?"""

    tokens: list[str]
    pos: int


@dataclass(frozen=True)
class BlindTest:
    """Contexts to guess at, whose values the server keeps to itself; `scale`: what -1, 0 and 1 stand for."""

    test: str
    description: str
    direction: str
    text: str
    corpus: str
    items: list[BlindItem]
    scale: tuple[str, str, str]


@dataclass(frozen=True)
class BlindResult:
    """`score`: Spearman's rank correlation of the guesses with the values; `interval`: a bootstrap over items.

    chance: where 95 of 100 scores of shuffled guesses fall. auc: how often a token of the upper half was guessed above one of the
    lower. own: the tester wrote the description.
    """

    score: float
    interval: tuple[float, float]
    chance: tuple[float, float]
    auc: float
    n: int
    values: list[float]
    own: bool
    description: Description


@dataclass
class UnderWay(Taker):
    """One test. `contexts` come from its job, or `error` says why none do."""

    user: str
    description: str
    direction: str
    said: str
    seed: int
    contexts: tuple[Context, ...] = ()
    error: ResidscopeError | None = None

    def take(
        self, job: str, made: tuple[Context, ...], *, progress: Progress, cancel: Cancel, grown: Callable[[], None]
    ) -> str:
        self.contexts = made
        return "In the library."

    def failed(self, job: str, error: BaseException) -> None:
        if not isinstance(error, ResidscopeError):
            error = ResidscopeError(f"the contexts could not be drawn: {error}")
        self.error = error


class BlindTests:
    """Tests that were begun and not scored; each can be answered once, by who began it. They end with the server."""

    def __init__(self, session: Session, library: Library) -> None:
        self._session, self._library = session, library
        self._under_way: OrderedDict[str, UnderWay] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, description: str, *, user: str) -> BlindStarted:
        """A test, and the job that draws its contexts.

        Raises:
            NotFound, WrongModel, DamagedStore.
        """
        said = self._library.get_description(description)
        direction = self._library.direction(said.direction, model=self._session.model)
        seed = secrets.randbits(31)
        begun = UnderWay(user, description, said.direction, said.text, seed)
        world = replace(self._session.state.world(), directions={description: direction})
        args = {
            "direction": {"kind": "saved", "name": description},
            "source": {"kind": "builtin", "name": CORPUS},
            "seed": seed,
        }
        job = self._session.begin(CONTEXTS, args, world=world, taker=begun)
        test = secrets.token_urlsafe(16)
        with self._lock:
            self._under_way[test] = begun
            while len(self._under_way) > MOST_UNDER_WAY:
                self._under_way.popitem(last=False)
        return {"test": test, "job": job.id}

    def read(self, test: str, *, user: str | None) -> BlindTest:
        """Contexts to guess at, without their values.

        Raises:
            NotFound: no such test of this person's, or its contexts are not drawn yet. BlindTestError: they cannot be.
        """
        begun = self._of(test, user)
        if begun.error is not None:
            raise begun.error
        if not begun.contexts:
            raise NotFound("the contexts are not drawn yet", received=test, fix="wait until its job is done")
        items = [BlindItem(tokens=list(context.tokens), pos=context.pos) for context in begun.contexts]
        return BlindTest(test, begun.description, begun.direction, begun.said, ABOUT[CORPUS], items, SCALE)

    def finish(self, test: str, guesses: list[float], *, user: str) -> BlindResult:
        """Score the guesses, keep the score beside the description, and tell the values.

        Raises:
            NotFound: no such test of this person's, or it is answered already. MalformedJSON: not a guess for each context.
            NoOrder: all guesses are alike; the test goes on.
        """
        begun = self._of(test, user)
        if not begun.contexts or len(guesses) != len(begun.contexts) or not all(-1 <= guess <= 1 for guess in guesses):
            raise MalformedJSON(
                "a guess for each context is needed",
                received=f"{len(guesses)} numbers",
                allowed=f"{len(begun.contexts)} numbers from -1 to 1",
            )
        values = [context.value for context in begun.contexts]
        found = score(guesses, values)
        with self._lock:
            if self._under_way.pop(test, None) is None:
                raise _no_test(test)
        told = {"interval": list(found.interval), "chance": list(found.chance), "auc": found.auc, "n": found.n}
        detail = told | {"guesses": guesses, "values": values, "corpus": CORPUS, "seed": begun.seed}
        kept = self._library.keep_blind(begun.description, found.rho, detail, said=begun.said, user=user)
        own = key(kept.author) == key(user)
        return BlindResult(found.rho, found.interval, found.chance, found.auc, found.n, values, own, kept)

    def _of(self, test: str, user: str | None) -> UnderWay:
        with self._lock:
            begun = self._under_way.get(test)
        if begun is None or user is None or key(begun.user) != key(user):
            raise _no_test(test)
        return begun


def _no_test(test: str) -> NotFound:
    return NotFound(
        "no such blind test of yours is under way",
        received=test[:40],
        allowed="a test that you began, once",
        fix="begin another",
    )
