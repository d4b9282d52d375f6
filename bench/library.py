"""python -m bench.library [URL]: how long a library of 10,000 directions and 100,000 votes takes to search, save and vote in.

Medians in milliseconds. Without a URL: SQLite in a temporary folder; a database given by URL must be empty.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import torch
from sqlalchemy import insert

from residscope.directions import Direction
from residscope.store import Library, Search, open_library, tables
from residscope.store.entries import ModelKey

N, PEOPLE, VOTES = 10_000, 50, 10
MODEL = ModelKey("a" * 64, "toy", torch.arange(24.0))
SEARCHES = {
    "newest page": Search(),
    "words": Search(text="777"),
    "by votes": Search(sort="votes"),
    "one person's, by votes": Search(user="person 3", sort="votes"),
}


def main(url: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = open_library(url, folder=folder)
        description = fill(library)
        for name, asked in SEARCHES.items():
            tell(name, lambda _, asked=asked: library.search(asked), 5)
        tell("save", lambda i: library.save(direction(i + 1), model=MODEL, user="person 1", description="d"), 30)
        tell("vote", lambda i: library.vote(description, 1 if i % 2 else -1, user="person 1"), 30)
        library.close()


def fill(library: Library) -> str:
    """N directions, each with a description and VOTES votes; answers one description's id."""
    entry = library.save(direction(0), model=MODEL, user="person 0", description="d")
    for number in range(1, PEOPLE):
        library.sign_in(f"person {number}")
    said = library.get(entry.id).descriptions[0].id
    with library.database.writing() as session:
        one = columns(session.get_one(tables.Direction, entry.id))
        other = columns(session.get_one(tables.Description, said))
        rows: dict[type, list[dict[str, Any]]] = {tables.Direction: [], tables.Description: [], tables.Vote: []}
        for i in range(1, N + 1):
            id, text_id, name = str(uuid4()), str(uuid4()), f"number {i}"
            mine = {"id": id, "name": name, "name_key": name, "created_at": one["created_at"] + i}
            rows[tables.Direction].append(one | mine | {"owner_id": 1 + i % PEOPLE})
            rows[tables.Description].append(other | {"id": text_id, "direction_id": id, "text": name, "text_key": name})
            for person in random.sample(range(1, PEOPLE + 1), VOTES):
                vote = {"description_id": text_id, "user_id": person, "value": random.choice([1, 1, -1]), "at": 1}
                rows[tables.Vote].append(vote)
        for table, held in rows.items():
            session.execute(insert(table), held)
    return said


def direction(seed: int) -> Direction:
    read = torch.randn(576, generator=torch.Generator().manual_seed(seed))
    return Direction(read, read, "resid_post.9", name=f"direction {seed}")


def columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.c}


def tell(name: str, do: Callable[[int], object], times: int) -> None:
    took = []
    for i in range(times):
        start = time.perf_counter()
        do(i)
        took.append(time.perf_counter() - start)
    print(f"{name:<24} {statistics.median(took) * 1000:6.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
