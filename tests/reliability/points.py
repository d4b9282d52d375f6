"""Kill a process in front of each step of a write, one after the other, and look what the next process finds.

A step is a call that changes a file (open to write, mkdir, rename, unlink, link, chmod, lock, half of a content, before and after
fsync) or a statement or commit of a database. `python -m reliability.points FOLDER PORT KINDS STEPS SEED` draws so many kinds and
of each so many steps, and prints a line of JSON for each; the last is a planted fault. PORT is that of a PostgreSQL server.
"""

import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import event
from sqlalchemy.engine import Engine

from reliability.writes import KINDS, PLANTED, Kind, Place
from residscope.drafts import DRAFT, sweep
from store.postgres import Postgres

CALLS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "fcntl.flock", "sqlite3.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Tried:
    """A kind of write: how many steps it has, at how many it was killed, and what was wrong after which of them."""

    kind: str
    steps: int = 0
    kills: int = 0
    wrong: list[str] = field(default_factory=list)


def kill_at(step: int) -> Callable[[], int]:
    """From now on this process is killed in front of its so-many-th step; answers how many it has made."""
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(name: str, args: tuple[Any, ...]) -> None:
        if name in CALLS or (name == "open" and args[2] & WRITING):
            count()

    def said(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            count()

    fsync = os.fsync

    def synced(handle: int) -> None:
        count()
        fsync(handle)
        count()

    def in_halves(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            count()
            return file.write(data[len(data) // 2 :])

    sys.addaudithook(heard)
    os.fsync = synced
    Path.write_bytes = in_halves  # type: ignore[method-assign, assignment]
    Path.write_text = lambda path, text, *_, **__: in_halves(path, text.encode())  # type: ignore[method-assign, assignment]
    for name in ("before_cursor_execute", "after_cursor_execute"):
        event.listen(Engine, name, said)
    event.listen(Engine, "commit", count)
    return lambda: made


def child(call: Callable[[], Any]) -> Any:
    """What a call answers in a fork, as JSON; None where that was killed. Raises RuntimeError where it failed."""
    told, tell = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(tell, json.dumps({"answer": call()}).encode())
        except BaseException:
            os.write(tell, json.dumps({"failed": traceback.format_exc()[-3000:]}).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    answer = json.loads(said) if said else {"answer": None}
    if "failed" in answer:
        raise RuntimeError(answer["failed"])
    return answer["answer"]


def killed(kind: Kind, place: Place, step: int) -> int | None:
    """Write, killed at a step: None; or how many steps there were, where it was done before."""

    def write() -> int:
        made = kill_at(step)
        kind.write(place)
        return made()

    return child(write)


def wrong(kind: Kind, place: Place) -> Iterator[str]:
    """What is wrong after a kill, for the next process: it starts, reads, and writes the same again."""
    found = child(lambda: _started(kind, place))
    if found not in (kind.old, kind.new):
        yield f"found {found}"
    yield from half_made(place.folder)
    again = child(lambda: _again(kind, place))
    if again != kind.new:
        yield f"found {again} once it was written again"
    yield from half_made(place.folder)


def half_made(folder: Path) -> list[str]:
    """Drafts, and files that were moved aside as damaged."""
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if DRAFT.match(path.name) or ".damaged" in path.name
    ]


def tried(kind: Kind, folder: Path, url: str, most: int, draw: random.Random) -> Tried:
    """Kills at so many steps of a kind of write, drawn where it has more, and what was wrong after each."""
    template = Place(folder / "before", url, 0)
    template.folder.mkdir(parents=True)
    child(lambda: str(kind.before(template)))

    def at(step: int) -> int | None:
        place = Place(folder / str(step), url, step)
        shutil.copytree(template.folder, place.folder)
        steps = killed(kind, place, step)
        told.wrong += [f"step {step} of {told.steps or steps}: {said}" for said in wrong(kind, place)]
        shutil.rmtree(place.folder)
        return steps

    told = Tried(kind.name)
    told.steps = at(0) or 0
    for step in draw.sample(range(1, told.steps + 1), min(most, told.steps)):
        told.kills += at(step) is None
    return told


def _started(kind: Kind, place: Place) -> list[str]:
    sweep(place.folder, below=True)  # as `residscope open` does with the data folder
    return kind.found(place)


def _again(kind: Kind, place: Place) -> list[str]:
    kind.write(place)
    return kind.found(place)


def main(folder: Path, port: int, kinds: int, most: int, seed: str) -> None:
    torch.set_num_threads(1)  # a process that has once run torch's threads cannot be forked
    draw = random.Random(seed)
    for kind in [*draw.sample(KINDS, min(kinds, len(KINDS))), PLANTED]:
        database = Postgres(port).fresh() if "PostgreSQL" in kind.name else ""
        print(json.dumps(asdict(tried(kind, folder / kind.name, database, most, draw))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
