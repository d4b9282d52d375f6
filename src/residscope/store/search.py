"""Finding directions: by words, person, model, site and votes, page after page without gaps or repeats."""

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, func, or_, select, tuple_
from sqlalchemy.orm import Session

from residscope import written as text
from residscope.directions import DICTIONARY_HASH
from residscope.errors import NotFound
from residscope.store.desk import named
from residscope.store.entries import Entry, Page, told
from residscope.store.tables import Comment, Description, Direction, Model, User, Vote

MOST_ON_A_PAGE = 100
MOST_AT_A_PLACE = 1000
MOST_OF_ONE = 5000
Sort = Literal["newest", "votes"]


@dataclass(frozen=True)
class Search:
    """What to look for; None leaves a condition out.

    `text` is sought in names and descriptions, whatever its case; `model` is a name or a hash, `models` are hashes, one of
    which it has; `site` is `resid_pre.6`, or `resid_pre` for every layer; `after` is where the page before ended.
    """

    text: str | None = None
    user: str | None = None
    model: str | None = None
    site: str | None = None
    min_votes: int | None = None
    sort: Sort = "newest"
    limit: int = 20
    after: str | None = None
    models: tuple[str, ...] | None = None


def search(session: Session, asked: Search) -> Page:
    """A page of entries. Raises NotFound where `after` is of another search's order."""
    query = select_entries().where(Direction.deleted_at.is_(None))
    if asked.text and (words := text.key(asked.text).strip()):
        said = select(Description.id).where(
            Description.direction_id == Direction.id,
            Description.deleted_at.is_(None),
            Description.text_key.contains(words, autoescape=True),
        )
        query = query.where(or_(Direction.name_key.contains(words, autoescape=True), said.exists()))
    if asked.user is not None:
        somebody = named(session, asked.user.strip())
        query = query.where(User.id == (-1 if somebody is None else somebody.id))
    if asked.model is not None:
        query = query.where(or_(Model.name == asked.model, Model.hash == asked.model))
    if asked.models is not None:
        query = query.where(Model.hash.in_(asked.models))
    if asked.site is not None:
        layered = Direction.site.startswith(f"{asked.site}.", autoescape=True)
        query = query.where(or_(Direction.site == asked.site, layered))
    if asked.min_votes is not None:
        query = query.where(_votes() >= asked.min_votes)
    by_votes = asked.sort == "votes"
    order = [*([_votes()] if by_votes else []), Direction.created_at, Direction.id]
    if asked.after is not None:
        query = query.where(tuple_(*order) < tuple_(*_place(asked.after, len(order))))
    limit = max(1, min(asked.limit, MOST_ON_A_PAGE))
    rows = session.execute(query.order_by(*(column.desc() for column in order)).limit(limit + 1)).all()
    found = tuple(map(_entry, rows[:limit]))
    if len(rows) <= limit:
        return Page(found, None)
    last = rows[limit - 1]
    place = [*([last.votes] if by_votes else []), last[0].created_at, last[0].id]
    return Page(found, base64.urlsafe_b64encode(json.dumps(place).encode()).decode())


def at(session: Session, models: tuple[str, ...], site: str, head: int | None) -> list[Entry]:
    """What is saved of one place in a model, of much the newest; best described first."""
    query = select_entries().where(Direction.deleted_at.is_(None), Model.hash.in_(models))
    query = query.where(Direction.site == site, Direction.head.is_not_distinct_from(head))
    newest = session.execute(query.order_by(Direction.created_at.desc(), Direction.id).limit(MOST_AT_A_PLACE))
    found = map(_entry, newest.all())
    return sorted(found, key=lambda one: (one.description is None, -one.votes))


def of_dictionary(session: Session, hash: str) -> list[tuple[int, Entry]]:
    """What is saved of a dictionary's directions, by number, of much the newest; best described first."""
    query = select_entries().where(Direction.deleted_at.is_(None))
    query = query.where(Direction.provenance[DICTIONARY_HASH].as_string() == hash)
    newest = session.execute(query.order_by(Direction.created_at.desc(), Direction.id).limit(MOST_OF_ONE))
    found = [(row[0].provenance.get("index"), _entry(row)) for row in newest.all()]
    numbered = [(index, one) for index, one in found if isinstance(index, int)]
    return sorted(numbered, key=lambda pair: (pair[1].description is None, -pair[1].votes))


def entry(session: Session, id: str) -> Entry:
    """One entry, deleted or not."""
    return _entry(session.execute(select_entries().where(Direction.id == id)).one())


def select_entries() -> Select[Any]:
    comments = select(func.count()).where(Comment.direction_id == Direction.id, Comment.deleted_at.is_(None))
    score = select(func.coalesce(func.sum(Vote.value), 0)).where(Vote.description_id == Description.id)
    best = (
        select(Description.text)
        .where(Description.direction_id == Direction.id, Description.deleted_at.is_(None))
        .order_by(score.correlate(Description).scalar_subquery().desc(), Description.created_at, Description.id)
        .limit(1)
    )
    return (
        select(
            Direction,
            User.name.label("owner"),
            Model.name.label("model"),
            Model.hash.label("model_hash"),
            _votes().label("votes"),
            comments.correlate(Direction).scalar_subquery().label("comments"),
            best.correlate(Direction).scalar_subquery().label("description"),
        )
        .join(User, User.id == Direction.owner_id)
        .join(Model, Model.id == Direction.model_id)
    )


def _votes() -> Any:
    """Votes for less votes against, over a direction's descriptions: counted, not kept, so that none can be lost."""
    query = select(func.coalesce(func.sum(Vote.value), 0)).join(Description, Description.id == Vote.description_id)
    query = query.where(Description.direction_id == Direction.id, Description.deleted_at.is_(None))
    return query.correlate(Direction).scalar_subquery()


def _entry(row: Any) -> Entry:
    direction: Direction = row[0]
    return Entry(
        id=direction.id,
        owner=row.owner,
        name=direction.name,
        model=row.model,
        model_hash=row.model_hash,
        site=direction.site,
        head=direction.head,
        space=direction.space,
        tensors=direction.tensors,
        votes=int(row.votes),
        comments=row.comments,
        description=row.description,
        version=direction.version,
        created=told(direction.created_at),
        updated=told(direction.updated_at),
    )


def _place(after: str, length: int) -> list[Any]:
    try:
        place = json.loads(base64.urlsafe_b64decode(after.encode("ascii")))
        *numbers, id = place
        if (
            len(place) != length
            or not isinstance(id, str)
            or not all(type(n) is int and abs(n) < 2**62 for n in numbers)
        ):
            raise ValueError
    except (ValueError, TypeError):
        raise NotFound("no such page", received=after[:80], allowed="what `after` of the page before said") from None
    return place
