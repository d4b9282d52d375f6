"""Blind tests under way: what the server knows and the page may not, until the guesses are in."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from residscope.errors import MalformedJSON, NotFound
from residscope.methods._lib.blind import score
from residscope.methods.blind_contexts import Context
from residscope.session import Session
from residscope.session.session import BLIND_CORPUS
from residscope.store import Library
from residscope.written import key

MOST_UNDER_WAY = 500
SCALE = ("strongly negative", "in the middle", "strongly positive")
ABOUT = {"python-docs": "The texts are from Python's documentation"}


@dataclass(frozen=True)
class UnderWay:
    user: str
    description: str
    said: str
    seed: int
    contexts: tuple[Context, ...]


class BlindTests:
    """Tests that were begun and not scored; each can be answered once, by who began it. They end with the server."""

    def __init__(self, session: Session, library: Library) -> None:
        self._session, self._library = session, library
        self._under_way: OrderedDict[str, UnderWay] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def begin(self, description: str, *, user: str) -> dict[str, Any]:
        """Contexts to guess at, without their values.

        Raises:
            NotFound, WrongModel, DamagedStore, BlindTestError.
        """
        said = self._library.get_description(description)
        direction = self._library.direction(said.direction, model=self._session.model)
        seed = secrets.randbits(32)
        with self._reading:  # one at a time at the model
            contexts = self._session.blind_contexts(direction, seed=seed)
        test = secrets.token_urlsafe(16)
        with self._lock:
            self._under_way[test] = UnderWay(user, description, said.text, seed, contexts)
            while len(self._under_way) > MOST_UNDER_WAY:
                self._under_way.popitem(last=False)
        return {
            "test": test,
            "description": description,
            "direction": said.direction,
            "text": said.text,
            "corpus": ABOUT[BLIND_CORPUS],
            "items": [{"tokens": list(context.tokens), "pos": context.pos} for context in contexts],
            "scale": list(SCALE),
        }

    def finish(self, test: str, guesses: list[float], *, user: str) -> dict[str, Any]:
        """Score the guesses, keep the score beside the description, and tell the values.

        Raises:
            NotFound: no such test of this person's, or it is answered already. MalformedJSON: not a guess for each context.
            NoOrder: all guesses are alike; the test goes on.
        """
        begun = self._of(test, user)
        if len(guesses) != len(begun.contexts) or not all(-1 <= guess <= 1 for guess in guesses):
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
        detail = told | {"guesses": guesses, "values": values, "corpus": BLIND_CORPUS, "seed": begun.seed}
        kept = self._library.keep_blind(begun.description, found.rho, detail, said=begun.said, user=user)
        own = key(kept.author) == key(user)
        return {"score": found.rho, **told, "values": values, "own": own, "description": kept.to_dict()}

    def _of(self, test: str, user: str) -> UnderWay:
        with self._lock:
            begun = self._under_way.get(test)
        if begun is None or key(begun.user) != key(user):
            raise _no_test(test)
        return begun


def _no_test(test: str) -> NotFound:
    return NotFound(
        "no such blind test of yours is under way",
        received=test[:40],
        allowed="a test that you began, once",
        fix="begin another",
    )
