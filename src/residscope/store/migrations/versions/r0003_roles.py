"""Room for roles and quotas."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("users", sa.Column("role", sa.String(20), nullable=False, server_default="member"))
    op.add_column("users", sa.Column("quota_bytes", sa.BigInteger))
