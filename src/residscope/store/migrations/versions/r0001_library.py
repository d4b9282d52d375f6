"""People, models, directions with their tensors, descriptions, votes, comments."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.String(36)
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
LIVE = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("name_key", sa.String(400), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("hash", sa.String(128), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tensors",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary),
    )
    op.create_table(
        "directions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("owner_id", NUMBER, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("model_id", NUMBER, sa.ForeignKey("models.id"), nullable=False),
        sa.Column("tensors", sa.String(64), sa.ForeignKey("tensors.sha256"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("site", sa.String(80), nullable=False),
        sa.Column("space", sa.String(20), nullable=False),
        sa.Column("offset", sa.Double, nullable=False),
        sa.Column("scale", sa.Double),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        *_times(),
    )
    keys = ["owner_id", "model_id", "name_key"]
    op.create_index("one_name", "directions", keys, unique=True, sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("directions_newest", "directions", ["created_at", "id"])
    op.create_index("directions_tensors", "directions", ["tensors"])
    op.create_table("descriptions", *_said(), sa.Column("text_key", sa.Text, nullable=False), *_times())
    op.create_table("comments", *_said(), *_times())
    op.create_table(
        "votes",
        sa.Column("description_id", ID, sa.ForeignKey("descriptions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", NUMBER, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("value IN (-1, 1)", name="up_or_down"),
    )


def _said() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", ID, primary_key=True),
        sa.Column("direction_id", ID, sa.ForeignKey("directions.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("author_id", NUMBER, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    ]


def _times() -> list[sa.Column[Any]]:
    return [
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
    ]
