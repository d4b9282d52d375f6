"""Bringing a database up to date, in one transaction under a lock: it is migrated whole, once, or left as it was."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from residscope.errors import DamagedStore, StoreTooNew
from residscope.store.tables import Base

VERSION_TABLE = "residscope_version"
_LOCK = 0x7265736964  # "resid": what PostgreSQL's advisory lock is known by


def revisions() -> tuple[str, ...]:
    """Every revision of the tables, the first first."""
    return tuple(script.revision for script in _scripts().walk_revisions())[::-1]


def revision(connection: Connection) -> str | None:
    """The revision that a database stands at; None where nothing was ever there."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def last_change(connection: Connection) -> int:
    """The number of the last event in the log, which is only ever added to; 0 where there is none."""
    if not inspect(connection).has_table("events"):
        return 0
    return connection.scalar(text("SELECT max(id) FROM events")) or 0


def upgrade(connection: Connection, to: str = "head") -> None:
    """Migrate within the connection's transaction.

    Raises:
        StoreTooNew: a newer Residscope was here. DamagedStore: tables of other programs are.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found, known = revision(connection), revisions()
    if found is None and (strange := set(inspect(connection).get_table_names()) & set(Base.metadata.tables)):
        raise DamagedStore(
            "the database holds tables that Residscope did not make",
            received=", ".join(sorted(strange)),
            fix="give the library a database of its own",
        )
    if found is not None and found not in known:
        raise StoreTooNew(
            "a newer Residscope has used this library",
            received=f"revision {found}",
            allowed=f"up to {known[-1]}",
            fix="pip install --upgrade residscope",
        )
    if found != (known[-1] if to == "head" else to):
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["version_table"] = VERSION_TABLE
    return config


def _scripts() -> Any:
    return ScriptDirectory.from_config(_config())
