"""What a harvest costs from one laptop to a thousand GPUs: a simulation of its events, and the table of docs/scaling.md.

    python recipes/harvest_at_scale.py            prints the table
    python recipes/harvest_at_scale.py --write    puts it into docs/scaling.md

Events are those of `residscope.corpus.harvest`: a reader cuts shards one after the other; each worker takes the next, reads it,
and its partial travels to the one that merges, in the order of the text. Workers fail at random and lose their shard. Above one
merger's rate, partials are first merged in groups (a tree). Every constant is below: measured here, or said where it is from.
"""

import argparse
import heapq
import random
from dataclasses import dataclass, replace
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
MARKS = ("<!-- table -->\n", "<!-- end of table -->\n")


@dataclass(frozen=True)
class Setting:
    """One way to harvest. Rates in tokens and bytes a second, times in seconds."""

    name: str
    tokens: float
    workers: int
    speed: float  # tokens a second of one worker
    shard: int  # tokens
    partial: float  # bytes of a shard's partial
    cutting: float = 85e3  # tokens a second that one process cuts (measured)
    readers: int = 1  # that cut, each its own files
    merging: float = 0.67e9  # bytes a second of partials that one merger reads, checks and adds (measured)
    mergers: int = 1
    network: float = 1.2e9  # bytes a second into one merger: 10 Gbit/s
    between: float = (
        50_000 * 3600.0
    )  # between two failures of one worker: Llama 3's GPUs (arXiv:2407.21783, section 3.3.4)
    restart: float = 120.0  # until a worker that failed reads again: start, weights


@dataclass
class Outcome:
    hours: float
    busy: float  # share of the workers' time that is reading which counts
    lost: float  # tokens read twice
    failures: int
    moved: float  # bytes into the mergers
    waiting: int  # most partials that wait to be merged


def simulate(one: Setting, seed: int = 0) -> Outcome:
    """Run it event by event: (time, kind, worker). A shard counts once its partial is merged."""
    chance = random.Random(seed)
    shards = max(1, round(one.tokens / one.shard))
    cut_each, read_each = one.shard / (one.cutting * one.readers), one.shard / one.speed
    merge_each = max(one.partial / one.merging, one.partial / one.network) / one.mergers
    again, cut, done, failures, lost, most = 0, 0, 0, 0, 0.0, 0
    cut_at = merged_at = now = 0.0
    events = [(0.0, worker) for worker in range(min(one.workers, shards))]
    waiting: list[float] = []
    heapq.heapify(events)
    while events:
        now, worker = heapq.heappop(events)
        if again:
            again, starts = again - 1, now
        elif cut < shards:
            cut, cut_at = cut + 1, max(cut_at + cut_each, cut_each)
            starts = max(now, cut_at)
        else:
            continue
        fails = chance.expovariate(1 / one.between)
        if fails < read_each:
            failures, lost, again = failures + 1, lost + fails * one.speed, again + 1
            heapq.heappush(events, (starts + fails + one.restart, worker))
            continue
        ends = starts + read_each
        merged_at = max(merged_at, ends) + merge_each
        waiting = [at for at in waiting if at > ends]
        waiting.append(merged_at)
        most, done = max(most, len(waiting)), done + 1
        heapq.heappush(events, (ends, worker))
    total = max(now, merged_at)
    return Outcome(total / 3600, done * read_each / (total * one.workers), lost, failures, done * one.partial, most)


MB = 1e6
LAPTOP = Setting("a laptop, 2 cores, SmolLM2", 1e6, 1, 900.0, 16_384, 30 * MB, between=1e9)
CARD = Setting("one GPU, a 1B model", 1e9, 1, 62_000.0, 1 << 20, 300 * MB)
RACK = Setting("8 GPUs, a 7B model", 1e10, 8, 9_000.0, 1 << 21, 1200 * MB)
HALL = Setting("1,000 GPUs, a 7B model", 1e12, 1000, 9_000.0, 1 << 23, 1200 * MB, readers=128, mergers=16)
SETTINGS = (
    LAPTOP,
    CARD,
    RACK,
    replace(HALL, name="1,000 GPUs, one reader of text", readers=1, tokens=1e11),
    replace(HALL, name="1,000 GPUs, one merger", mergers=1, tokens=1e11),
    replace(HALL, name="1,000 GPUs, shards of 2M tokens", shard=1 << 21, tokens=1e11),
    HALL,
    replace(HALL, name="1,000 GPUs that fail ten times as often", between=HALL.between / 10),
)


def table() -> str:
    lines = [
        "| harvest | tokens | shards | partial | hours | busy | read twice | failures | moved | most waiting |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in SETTINGS:
        out = simulate(one)
        cells = [one.name, f"{one.tokens:.0e}", f"{round(one.tokens / one.shard):,}", f"{one.partial / MB:,.0f} MB"]
        cells += [f"{out.hours:,.1f}", f"{out.busy:.1%}", f"{out.lost / one.tokens:.2g}", f"{out.failures:,}"]
        cells += [f"{out.moved / 1e12:.3g} TB", f"{out.waiting:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    if parser.parse_args().write:
        page = PAGE.read_text()
        before, rest = page.split(MARKS[0])
        PAGE.write_text(before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1])[1])
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
