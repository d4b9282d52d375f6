"""Names that look alike by their signs (UTS 39); whether a model's name was said by who had the model, or by a file alone.

Of people who were two before and look alike, the first has the skeleton and the others have none: each stays who they are.
"""

import sqlalchemy as sa
from alembic import op

from residscope.written import skeleton

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("users", sa.Column("skeleton", sa.String(1200)))
    op.add_column("models", sa.Column("proven", sa.Boolean, nullable=False, server_default=sa.false()))
    connection = op.get_bind()
    taken: set[str] = set()
    for id, name in connection.execute(sa.text("SELECT id, name FROM users ORDER BY id")).all():
        if (alike := skeleton(name)) not in taken:
            taken.add(alike)
            connection.execute(sa.text("UPDATE users SET skeleton = :alike WHERE id = :id"), {"alike": alike, "id": id})
    op.create_index("users_alike", "users", ["skeleton"], unique=True)
