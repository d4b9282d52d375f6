"""Alembic's environment: the connection, and so the transaction, is the caller's."""

from alembic import context

from residscope.store.tables import Base

if hasattr(context, "config"):  # only while Alembic runs it
    given = context.config.attributes
    context.configure(
        connection=given["connection"], target_metadata=Base.metadata, version_table=given["version_table"]
    )
    context.run_migrations()
