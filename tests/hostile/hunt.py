"""A reader's crafted cases and so many random ones, and what came of them."""

import logging
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hostile.crafted import crafted
from hostile.mutations import changed, resealed
from hostile.readers import READERS
from hostile.watched import Outcome, watched
from hostile.whole import Reader, put

MOST_TOLD = 400
LEVELS = logging.CRITICAL


@dataclass
class Tried:
    """What was tried on one reader. faults: how to draw each again, and what it did."""

    name: str
    seed: str
    ends: Counter[str] = field(default_factory=Counter)
    crafted: int = 0
    random: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def note(self, which: str, outcome: Outcome) -> None:
        self.ends[outcome.how] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        if not outcome.good:
            self.faults.append(f"{which}: {outcome.how} after {outcome.seconds:.1f} s: {outcome.said}"[:MOST_TOLD])

    def line(self) -> str:
        ends = ", ".join(f"{n} {how}" for how, n in sorted(self.ends.items()))
        return f"{self.name}: {self.random} random, {self.crafted} crafted: {ends}; slowest {self.slowest:.2f} s"


def hunt(name: str, each: int, seed: str, *, crafts: int | None = None) -> Tried:
    """crafts: how many of the crafted cases, drawn by the seed; all unless said."""
    reader, tried = READERS[name], Tried(name, seed)
    level = logging.root.manager.disable
    logging.disable(LEVELS)
    try:
        _warm(name)
        for which, files in drawn(name, each, seed):
            tried.note(which, _read(reader, files))
            tried.random += 1
        made = list(crafted(name))
        for which, make in made if crafts is None else random.Random(f"{seed} {name}").sample(made, crafts):
            with tempfile.TemporaryDirectory() as place:
                size = make(Path(place), reader)
                tried.note(which, watched(lambda: reader.read(Path(place)), size))
            tried.crafted += 1
    finally:
        logging.disable(level)
    return tried


@cache
def _warm(name: str) -> None:
    """What is whole is read, unwatched: what is imported and made once, and no case pays for."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        put(reader.start(), Path(place))
        reader.read(Path(place))


def drawn(name: str, each: int, seed: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Random cases by a name that draws them again."""
    reader = READERS[name]
    for number in range(each):
        draw = random.Random(f"{seed} {name} {number}")
        files = dict(reader.start())
        at = draw.choice(sorted(reader.changed or files))
        if reader.draw is not None:
            files[at] = reader.draw(draw)
        elif reader.sealed and draw.random() < 0.6:
            files[at] = resealed(draw, files[at])
        else:
            files[at] = changed(draw, at, files[at])
        yield f"{seed} {number} ({at})", files


def _read(reader: Reader, files: dict[str, bytes]) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        size = put(files, Path(place))
        return watched(lambda: reader.read(Path(place)), size)


INTRODUCTION = """\
# Hostile bytes

`python -m hostile` (a part of `make prove`) gives every reader files that were changed at random, in their bytes, their JSON,
their headers or their zips, sealed anew where files are sealed, and cases made by hand, as many as there are kinds: deep nesting,
halves of characters, numbers of any size, pipes and devices in the place of files, links that lead outside, archives that grow,
shapes that lie. Each must be read or refused by a typed error, within 5 seconds, without asking for memory that its size does not
account for (64 times its size and 768 MiB of address space). Over HTTP and a WebSocket it says what a grammar draws from the
shapes of all that may be asked: valid, nearly valid, and no words of it; no answer is a 5xx or a mistake of ours, no line of the
log tells of one. schemathesis says over HTTP what it draws from the same shapes, as OpenAPI. What goes on after it was answered
(loading a model, starting a job, exports) is not drawn there. A share link is read by the page, under the same kinds of changes:
`web/tests/hash.test.ts`. These are the last outputs, each reader's with the seed that draws it again (`--seed`).
"""
HEADS = (
    "| reader | seed | random | crafted | read | refused | raw, slow or large | slowest, s |",
    "|---|---|---|---|---|---|---|---|",
)


def table(found: list[Tried], before: str = "") -> str:
    """docs/hostile.md; before: what it was, whose rows of readers that were not tried now stay."""
    rows = {
        line.split(" | ")[0]: line for line in before.splitlines() if line.startswith("| ") and line.count(" | ") == 7
    }
    rows |= {f"| {tried.name}": _row(tried) for tried in found}
    rows.pop(HEADS[0].split(" | ")[0], None)
    faults = [f"\n```text\n{fault}\n```" for tried in found for fault in tried.faults[:5]]
    return "\n".join([INTRODUCTION, *HEADS, *rows.values(), *faults]) + "\n"


def _row(tried: Tried) -> str:
    return (
        f"| {tried.name} | `{tried.seed}` | {tried.random:,} | {tried.crafted} | {tried.ends['read']:,} | "
        f"{tried.ends['refused']:,} | {len(tried.faults)} | {tried.slowest:.2f} |"
    )
