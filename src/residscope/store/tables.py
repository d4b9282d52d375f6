"""The tables, as SQLAlchemy classes; how they came to be so is in `migrations/`.

Times are whole microseconds since 1970 (UTC): the same number, and so the same order, in every database. `*_key` columns hold
a text as it is compared (`text.key`), since databases fold case differently. Accounts, roles and quotas have their columns.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    false,
    text,
)  # fmt: skip
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id = String(36)
Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up in INTEGER columns alone


class Base(DeclarativeBase):
    pass


class User(Base):
    """Somebody with a name. Two names that look alike are one: by case and width (`name_key`), by their signs (`skeleton`)."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    name_key: Mapped[str] = mapped_column(String(400), unique=True)
    skeleton: Mapped[str | None] = mapped_column(String(1200))
    role: Mapped[str] = mapped_column(String(20), default="member")
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("users_alike", "skeleton", unique=True),)


class Model(Base):
    """A model that directions were found in: its hash, and the few weights it is known by in any dtype (F32).

    proven: somebody had the model when its name and weights were written down; else a file said them.
    """

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(Number, primary_key=True)
    hash: Mapped[str] = mapped_column(String(128), unique=True)
    name: Mapped[str] = mapped_column(Text)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    proven: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    created_at: Mapped[int] = mapped_column(BigInteger)


class Tensors(Base):
    """Tensors by the sha256 of their safetensors bytes; `content` is null where they lie in a file of that name."""

    __tablename__ = "tensors"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)


class Direction(Base):
    """A saved direction: everything but its two vectors, which `tensors` names."""

    __tablename__ = "directions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    tensors: Mapped[str] = mapped_column(ForeignKey("tensors.sha256"))
    name: Mapped[str] = mapped_column(Text)
    name_key: Mapped[str] = mapped_column(Text)
    site: Mapped[str] = mapped_column(String(80))
    head: Mapped[int | None] = mapped_column(Integer)
    space: Mapped[str] = mapped_column(String(20))
    offset: Mapped[float]
    scale: Mapped[float | None]
    provenance: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(Integer, default=1)
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        # one's own names are distinct within a model, those of deleted directions aside
        Index(
            "one_name",
            "owner_id",
            "model_id",
            "name_key",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index("directions_newest", "created_at", "id"),
        Index("directions_tensors", "tensors"),
    )


class Description(Base):
    """What somebody says a direction means. `blind` is of earlier versions: scores are in `BlindTest`."""

    __tablename__ = "descriptions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    direction_id: Mapped[str] = mapped_column(ForeignKey("directions.id", ondelete="CASCADE"), index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    text: Mapped[str] = mapped_column(Text)
    text_key: Mapped[str] = mapped_column(Text)
    blind: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    version: Mapped[int] = mapped_column(Integer, default=1)
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)


class Vote(Base):
    """One person's vote for (+1) or against (-1) a description: the primary key allows one."""

    __tablename__ = "votes"
    description_id: Mapped[str] = mapped_column(ForeignKey("descriptions.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    value: Mapped[int] = mapped_column(Integer)
    at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("value IN (-1, 1)", name="up_or_down"),)


class BlindTest(Base):
    """How well one person foretold held-out values from a description: the primary key allows one score, the latest.

    `detail`: guesses, values, the interval of the score, and the sha256 of the text that was tested (`said`).
    """

    __tablename__ = "blind_tests"
    description_id: Mapped[str] = mapped_column(ForeignKey("descriptions.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    score: Mapped[float]
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[int] = mapped_column(BigInteger)


class Comment(Base):
    __tablename__ = "comments"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    direction_id: Mapped[str] = mapped_column(ForeignKey("directions.id", ondelete="CASCADE"), index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    text: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer, default=1)
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)


class Event(Base):
    """What somebody changed, from what to what. Only ever added to; an undo is an event that names the one it `undoes`."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Number, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    action: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(20))
    subject: Mapped[str] = mapped_column(Id, index=True)
    before: Mapped[dict[str, Any]] = mapped_column(JSON)
    after: Mapped[dict[str, Any]] = mapped_column(JSON)
    undoes: Mapped[int | None] = mapped_column(ForeignKey("events.id"), unique=True)
    at: Mapped[int] = mapped_column(BigInteger)
