"""The library: directions that people save, name, describe and vote on, in SQLite or PostgreSQL."""

from pathlib import Path

from residscope.model.catalog import data_folder
from residscope.store.database import Database
from residscope.store.library import Library
from residscope.store.search import Search

__all__ = ["Database", "Library", "Search", "open_library"]


def open_library(url: str | None = None, *, folder: str | Path | None = None) -> Library:
    """The library at a URL (`postgresql+psycopg://user@host/database`), or in a folder; the user's own unless said.

    Raises:
        StoreUnreachable, DamagedStore, StoreTooNew, MissingExtra.
    """
    return Library(Database(url, folder=Path(folder).expanduser() if folder else data_folder()))
