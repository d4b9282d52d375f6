"""Blind tests of descriptions, one a person; whose head a direction is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ID = sa.String(36)
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("directions", sa.Column("head", sa.Integer))
    op.create_table(
        "blind_tests",
        sa.Column("description_id", ID, sa.ForeignKey("descriptions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", NUMBER, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
