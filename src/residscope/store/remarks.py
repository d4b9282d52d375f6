"""What people say of a direction: descriptions, votes on them, comments."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from residscope import written as text
from residscope.errors import BadText
from residscope.store import entries
from residscope.store.blind import summaries, tested
from residscope.store.desk import Desk, live, named, now
from residscope.store.entries import told
from residscope.store.exchange import plain_json
from residscope.store.tables import BlindTest, Comment, Description, Direction, User, Vote


class Remarks(Desk):
    """Descriptions (several a direction), one vote a person for or against each, comments."""

    def describe(self, direction: str, said: str, *, user: str | None) -> entries.Description:
        """Add a description. Raises BadText, NotFound, NoUser."""
        said = text.paragraphs(said, "the description", most=text.MOST_DESCRIPTION)
        with self.database.writing() as session:
            author = self._user(session, user)
            live(session, Direction, direction)
            row = self._describe(session, author, direction, said)
            return _descriptions(session, author, Description.id == row.id)[0]

    def edit_description(self, id: str, said: str, *, user: str | None, seen: int | None = None) -> entries.Description:
        """Change one's own. `seen`: the version it was read at; a newer one is not written over.

        Raises:
            BadText, NotFound, NotYours, EditedSince.
        """
        said = text.paragraphs(said, "the description", most=text.MOST_DESCRIPTION)
        with self.database.writing() as session:
            author = self._user(session, user)
            row = self._own(session, Description, id, author, seen=seen)
            self._change(session, author, "edit", row, {"text": said, "text_key": text.key(said)})
            session.flush()
            return _descriptions(session, author, Description.id == id)[0]

    def delete_description(self, id: str, *, user: str | None) -> int:
        """Delete one's own, for `undo`. Raises NotFound, NotYours."""
        with self.database.writing() as session:
            author = self._user(session, user)
            return self._change(
                session, author, "delete", self._own(session, Description, id, author), {"deleted_at": now()}
            )

    def get_description(self, id: str, *, user: str | None = None) -> entries.Description:
        """One description; `user` sees their own vote and score. Raises NotFound."""
        with self.database.reading() as session:
            live(session, Description, id)
            asker = named(session, user or "")
            return _descriptions(session, asker, Description.id == id)[0]

    def keep_blind(
        self, id: str, score: float, detail: Mapping[str, Any], *, said: str, user: str | None
    ) -> entries.Description:
        """Keep the score of somebody's blind test; a later one of theirs replaces it. `said`: the text that was tested.

        Raises:
            NotFound, NoUser, BadText.
        """
        with self.database.writing() as session:
            tester = self._user(session, user)
            live(session, Description, id)
            kept = plain_json({**detail, "said": tested(said)})
            values = {"description_id": id, "user_id": tester.id, "score": score, "detail": kept, "at": now()}
            insert = self.database.insert(BlindTest).values(**values)
            changed = {name: insert.excluded[name] for name in ("score", "detail", "at")}
            session.execute(insert.on_conflict_do_update(index_elements=["description_id", "user_id"], set_=changed))
            return _descriptions(session, tester, Description.id == id)[0]

    def vote(self, description: str, value: int, *, user: str | None) -> entries.Description:
        """Vote for (1) or against (-1) a description, or withdraw (0); a later vote replaces an earlier one.

        Raises:
            BadText, NotFound, NoUser.
        """
        if value not in (-1, 0, 1):
            raise BadText("that is no vote", received=value, allowed="1, -1, or 0 to withdraw")
        with self.database.writing() as session:
            voter = self._user(session, user)
            live(session, Description, description)
            if value:
                insert = self.database.insert(Vote).values(
                    description_id=description, user_id=voter.id, value=value, at=now()
                )
                changed = {"value": insert.excluded.value, "at": insert.excluded.at}
                session.execute(
                    insert.on_conflict_do_update(index_elements=["description_id", "user_id"], set_=changed)
                )
            else:
                session.execute(delete(Vote).where(Vote.description_id == description, Vote.user_id == voter.id))
            return _descriptions(session, voter, Description.id == description)[0]

    def comment(self, direction: str, said: str, *, user: str | None) -> entries.Comment:
        """Raises BadText, NotFound, NoUser."""
        said = text.paragraphs(said, "the comment", most=text.MOST_COMMENT)
        with self.database.writing() as session:
            author = self._user(session, user)
            live(session, Direction, direction)
            at = now()
            row = Comment(
                id=str(uuid4()),
                direction_id=direction,
                author_id=author.id,
                text=said,
                version=1,
                created_at=at,
                updated_at=at,
            )
            session.add(row)
            self._made(session, author, row)
            return _comment(row, author.name)

    def delete_comment(self, id: str, *, user: str | None) -> int:
        """Delete one's own, for `undo`. Raises NotFound, NotYours."""
        with self.database.writing() as session:
            author = self._user(session, user)
            return self._change(
                session, author, "delete", self._own(session, Comment, id, author), {"deleted_at": now()}
            )

    def _describe(self, session: Session, author: User, direction: str, said: str) -> Description:
        at = now()
        row = Description(
            id=str(uuid4()),
            direction_id=direction,
            author_id=author.id,
            text=said,
            text_key=text.key(said),
            version=1,
            created_at=at,
            updated_at=at,
        )
        session.add(row)
        self._made(session, author, row)
        return row

    def _said(
        self, session: Session, direction: str, asker: User | None
    ) -> tuple[tuple[entries.Description, ...], tuple[entries.Comment, ...]]:
        descriptions = _descriptions(
            session, asker, Description.direction_id == direction, Description.deleted_at.is_(None)
        )
        query = select(Comment, User.name).join(User, User.id == Comment.author_id)
        query = query.where(Comment.direction_id == direction, Comment.deleted_at.is_(None))
        rows = session.execute(query.order_by(Comment.created_at, Comment.id))
        return descriptions, tuple(_comment(row, name) for row, name in rows)


def _descriptions(session: Session, asker: User | None, *where: Any) -> tuple[entries.Description, ...]:
    """Descriptions with their votes, best first; of equals, the older first."""
    up = func.count().filter(Vote.value == 1)
    down = func.count().filter(Vote.value == -1)
    mine = func.coalesce(func.max(Vote.value).filter(Vote.user_id == (asker.id if asker else -1)), 0)
    query = select(Description, User.name, up, down, mine).join(User, User.id == Description.author_id)
    query = query.outerjoin(Vote, Vote.description_id == Description.id).where(*where)
    query = query.group_by(Description.id, User.name).order_by(
        (up - down).desc(), Description.created_at, Description.id
    )
    rows = session.execute(query).all()
    blind = summaries(session, [row[0] for row in rows], asker)
    return tuple(
        entries.Description(
            id=row.id,
            direction=row.direction_id,
            author=author,
            text=row.text,
            up=n_up,
            down=n_down,
            mine=own,
            blind=blind.get(row.id),
            version=row.version,
            created=told(row.created_at),
            updated=told(row.updated_at),
        )
        for row, author, n_up, n_down, own in rows
    )


def _comment(row: Comment, author: str) -> entries.Comment:
    return entries.Comment(row.id, row.direction_id, author, row.text, told(row.created_at))
