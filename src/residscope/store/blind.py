"""What blind tests say of descriptions: counted over people when it is asked for, the author's own left aside."""

import hashlib
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from residscope.methods._lib.blind import over_people
from residscope.store.entries import Blind
from residscope.store.tables import BlindTest, Description, User


def tested(said: str) -> str:
    """What a tested text is known by: a description that is edited afterwards has not been tested."""
    return hashlib.sha256(said.encode()).hexdigest()


def summaries(session: Session, descriptions: Sequence[Description], asker: User | None) -> dict[str, Blind]:
    """Of each tested description: {people, mean, interval, author, mine}, scores of its present text alone."""
    by_id = {row.id: row for row in descriptions}
    found: dict[str, list[BlindTest]] = {}
    query = select(BlindTest).where(BlindTest.description_id.in_(by_id)).order_by(BlindTest.at)
    for test in session.scalars(query):
        if test.detail.get("said") == tested(by_id[test.description_id].text):
            found.setdefault(test.description_id, []).append(test)
    return {id: _summary(tests, by_id[id].author_id, asker) for id, tests in found.items()}


def _summary(tests: Sequence[BlindTest], author: int, asker: User | None) -> Blind:
    others = [(test.score, tuple(test.detail["interval"])) for test in tests if test.user_id != author]
    mean, interval = over_people(others) if others else (None, None)
    by = {test.user_id: test.score for test in tests}
    return {
        "people": len(others),
        "mean": mean,
        "interval": None if interval is None else list(interval),
        "author": by.get(author),
        "mine": None if asker is None else by.get(asker.id),
    }
