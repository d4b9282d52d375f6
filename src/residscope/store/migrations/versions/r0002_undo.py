"""The undo log, and blind-test scores beside descriptions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("descriptions", sa.Column("blind", sa.JSON))
    op.create_table(
        "events",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("user_id", NUMBER, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(36), nullable=False, index=True),
        sa.Column("before", sa.JSON, nullable=False),
        sa.Column("after", sa.JSON, nullable=False),
        sa.Column("undoes", NUMBER, sa.ForeignKey("events.id"), unique=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
