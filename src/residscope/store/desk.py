"""What every change to the library shares: who makes it, whether it is theirs, the log it is undone by."""

import time
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from residscope import written as text
from residscope.errors import CannotUndo, EditedSince, NotFound, NotYours, NoUser
from residscope.store.database import Database
from residscope.store.tables import Comment, Description, Direction, Event, User

Row = Direction | Description | Comment
KINDS: dict[str, Any] = {"direction": Direction, "description": Description, "comment": Comment}
LARGEST = 2**63  # no event has such a number
T = TypeVar("T", Direction, Description, Comment)


class Desk:
    """A database, and the rules of who may change what in it. People are given by name: the door checks who they are."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def sign_in(self, name: str) -> str:
        """The name as it is known here; one that nobody has yet is taken. Raises BadText."""
        with self.database.writing() as session:
            return self._user(session, name).name

    def close(self) -> None:
        self.database.close()

    def _user(self, session: Session, name: str | None) -> User:
        if not name:
            raise NoUser("nobody is signed in", fix="choose a name first")
        name = text.name_of(name, "the user's name", most=text.MOST_USER)
        user = named(session, name)
        if user is None:
            values = {"name": name, "name_key": text.key(name), "skeleton": text.skeleton(name), "role": "member"}
            insert = self.database.insert(User).values(**values, created_at=now())
            session.execute(insert.on_conflict_do_nothing())
            user = named(session, name)
            assert user is not None
        return user

    def _own(self, session: Session, table: type[T], id: str, user: User, *, seen: int | None = None) -> T:
        """A row to change: it is there, it is the user's, and it is the version they saw."""
        row = live(session, table, id, lock=True)
        if user.id != (row.owner_id if isinstance(row, Direction) else row.author_id):
            raise NotYours(
                f"that {kind_of(table)} is somebody else's",
                received=user.name,
                allowed="changes to what you wrote yourself",
            )
        if seen is not None and row.version != seen:
            raise EditedSince(
                f"the {kind_of(table)} was changed since you read it",
                received=f"version {seen}",
                allowed=f"version {row.version}",
                fix="read it again",
            )
        return row

    def _change(self, session: Session, user: User, action: str, row: Row, after: dict[str, Any]) -> int:
        """Set columns of a row, and log what they were; answers the event, which `undo` takes."""
        before = {column: getattr(row, column) for column in after}
        _set(row, after)
        return self._log(session, user, action, row, before, after)

    def _made(self, session: Session, user: User, row: Row) -> int:
        """Log a new row: undone, it is deleted."""
        return self._log(session, user, "make", row, {"deleted_at": row.created_at}, {"deleted_at": None})

    def _log(
        self,
        session: Session,
        user: User,
        action: str,
        row: Row,
        before: dict[str, Any],
        after: dict[str, Any],
        undoes: int | None = None,
    ) -> int:
        event = Event(
            user_id=user.id,
            action=action,
            kind=kind_of(type(row)),
            subject=row.id,
            before=before,
            after=after,
            undoes=undoes,
            at=now(),
        )
        session.add(event)
        session.flush()
        return event.id

    def _undo(self, session: Session, user: User, number: int | None) -> Event:
        later = aliased(Event)
        query = select(Event).where(Event.action != "undo", ~select(later).where(later.undoes == Event.id).exists())
        query = query.where(Event.user_id == user.id) if number is None else query.where(Event.id == number)
        held = number is None or abs(number) < LARGEST
        event = session.scalars(query.order_by(Event.id.desc()).limit(1)).first() if held else None
        if event is None:
            raise CannotUndo("there is nothing to undo", received=number, allowed="a change of yours, once")
        if event.user_id != user.id:
            raise NotYours("that change is somebody else's", received=user.name, allowed="changes of your own")
        row: Row | None = session.get(KINDS[event.kind], event.subject, with_for_update=True)
        if row is None or any(getattr(row, column) != value for column, value in event.after.items()):
            raise CannotUndo(
                f"the {event.kind} has been changed since",
                received=f"change {event.id}",
                fix="undo the later change first",
            )
        before = event.before
        if before.get("deleted_at") is not None:
            before = before | {"deleted_at": now()}  # its thirty days begin today
        _set(row, before)
        self._log(session, user, "undo", row, event.after, before, undoes=event.id)
        return event


def named(session: Session, name: str) -> User | None:
    """Who has a name: by the name itself, else by one that looks like it."""
    user = session.scalars(select(User).where(User.name_key == text.key(name))).first()
    return user or session.scalars(select(User).where(User.skeleton == text.skeleton(name))).first()


def live(session: Session, table: type[T], id: str, *, lock: bool = False) -> T:
    """A row that is there and not deleted, nor the direction that it speaks of. Raises NotFound."""
    query = select(table).where(table.id == id, table.deleted_at.is_(None))
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"there is no such {kind_of(table)} in the library", received=str(id)[:80])
    if not isinstance(row, Direction):
        live(session, Direction, row.direction_id)
    return row


def kind_of(table: type[Row]) -> str:
    return table.__name__.lower()


def now() -> int:
    return time.time_ns() // 1000


def _set(row: Row, values: dict[str, Any]) -> None:
    for column, value in values.items():
        setattr(row, column, value)
    row.version += 1
    row.updated_at = now()
