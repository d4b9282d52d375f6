"""Two hundred pages on one server: what it answers at a rate, at four times that rate, and at the rate again.

PYTHONPATH=tests python -m reliability --minutes 30 --only load
"""

import asyncio
import math
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

from reliability import FAULT
from reliability.pages import PATIENCE, Page, Told, at_rate
from reliability.serving import Serving, serving

PAGES, PEOPLE = 200, 90  # a server takes 100 new names at once
RUNS, CHANGES = 5.0, 50.0  # a second, of all together
TIMES = 4
EVERY = 0.5  # seconds between two looks at the server's memory
COMING = 20  # pages that open at a time: as when people come one after the other
MODEL = "smollm2-135m"
MB = 1 << 20
MOST_GROWN = 1.05  # the last third against the second
SECTION = f"""\
## Load

{{minutes:g}} minutes on {{cpus}} CPUs, which the pages share with the server: `residscope open {MODEL}` with {PAGES} connected
pages of {PEOPLE} people, each reading all that it is told. Together they ask {RUNS:g} times a second for a run of the model (the
prompt of all, or one of their own), and {CHANGES:g} times a second for a change that is kept (seven in ten are votes, two save a
direction, one a prompt); then {TIMES} times as much; then as before. Requests begin when they are due, whether or not those
before are answered. Refused: 429 with `Retry-After`. Wrong: any other answer than the one asked for.

| | request | answered | p50 ms | p95 ms | p99 ms | refused | come back in s | wrong |
|---|---|---|---|---|---|---|---|---|
{{rows}}

Memory of the server: {{before:.0f}} MB before the pages came, {{second:.0f}} MB in the second third, {{last:.0f}} MB in the last.
Pages that lost their connection or missed a message: {{lost}}. They were told {{messages:,}} messages of {{told:,.0f}} MB in all.
The machine's load was {{load:.1f}} when it began and {{after:.1f}} when it ended; the pages' own process was late by
{{late:.0f}} ms (p95), once or more in each of the times above.

{{faults}}
"""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class Phase:
    """What was asked at one rate, by kind; the server's memory meanwhile, in bytes; by how many seconds the pages were late."""

    name: str
    times: int
    seconds: float
    kinds: dict[str, Told] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def of(self, kind: str) -> Told:
        return self.kinds.setdefault(kind, Told())

    @property
    def wrong(self) -> list[str]:
        return [f"{kind}: {said}" for kind, told in self.kinds.items() for said in told.wrong]

    @property
    def refused(self) -> int:
        return sum(len(told.refused) for told in self.kinds.values())


@dataclass
class Found:
    """phases: in order. memory: the server's in bytes, before the pages came and at each half second from then on. lost: why
    pages heard no more. load: the machine's, before and after."""

    phases: list[Phase]
    memory: list[int]
    lost: list[str]
    messages: int
    octets: int
    load: tuple[float, float]


class Crowd:
    """Pages, and what they ask."""

    def __init__(self, pages: Sequence[Page], seed: str) -> None:
        self._pages, self._random = pages, random.Random(seed)
        self._count = count()
        self._descriptions: list[str] = []

    async def settle(self, phase: Phase) -> None:
        """Directions to vote on."""
        for _ in range(20):
            if (saved := await self.save(phase)) is not None:
                said = await self._one().post(
                    phase.of("describe"), "intents/library_describe", id=saved["value"]["id"], text="what it is"
                )
                self._descriptions.append(said["value"]["id"])

    def _one(self) -> Page:
        return self._random.choice(self._pages)

    async def save(self, phase: Phase) -> "dict[str, dict[str, str]] | None":
        positive, negative = self._random.sample(LETTERS, 2)
        direction = {"kind": "logit_diff", "positive": positive, "negative": negative}
        found: dict[str, dict[str, str]] | None = await self._one().post(
            phase.of("save a direction"), "intents/library_save", direction=direction, name=f"n{next(self._count)}"
        )
        return found

    async def change(self, phase: Phase) -> None:
        """A vote, seven times in ten; else a direction is saved, or a prompt."""
        kind = self._random.random()
        if kind < 0.7:
            id, value = self._random.choice(self._descriptions), self._random.choice((-1, 0, 1))
            await self._one().post(phase.of("vote"), "intents/library_vote", id=id, value=value)
        elif kind < 0.9:
            await self.save(phase)
        else:
            intent = self._random.choice(("save_prompt", "forget_prompt"))
            await self._one().do(phase.of("save a prompt"), intent, text=f"prompt {self._random.randrange(20)}")

    async def run(self, phase: Phase) -> None:
        """A prompt for everybody, or one of one's own on a page of prompts."""
        text = f"Mary gave {next(self._count)} to John and"
        if self._random.random() < 0.5:
            await self._one().do(phase.of("set the prompt"), "set_prompt", text=text)
        else:
            await self._one().post(phase.of("run own prompts"), "queries/prompts", own=[text])


async def ask(serving: Serving, seconds: float, seed: str, *, pages: int = PAGES, people: int = PEOPLE) -> Found:
    """Half of the time at the rate, a quarter at four times the rate, a quarter at the rate again."""
    memory, load = [serving.memory], os.getloadavg()[0]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=pages, keepalive_expiry=3)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as http:
        names = [await Page(serving, http, "").sign_in(f"person {n}") for n in range(people)]
        all_pages = [Page(serving, http, names[n % people]) for n in range(pages)]
        owner = Page(serving, http, await Page(serving, http, "").sign_in("owner"))
        for first in range(0, pages, COMING):
            await asyncio.gather(*(page.open() for page in all_pages[first : first + COMING]))
        await owner.open()
        crowd = Crowd(all_pages, seed)
        begun = Phase("settling", 1, 0)
        await crowd.settle(begun)
        shares = (("at the rate", 1, 0.5), (f"at {TIMES}x", TIMES, 0.25), ("at the rate again", 1, 0.25))
        phases = [Phase(name, times, seconds * share) for name, times, share in shares]
        for phase in phases:
            await _measured(phase, crowd, owner, serving)
            memory += phase.memory
        lost = [page.lost for page in (*all_pages, owner) if page.lost]
        await asyncio.gather(*(page.close() for page in (*all_pages, owner)))
    heard = sum(page.messages for page in all_pages), sum(page.octets for page in all_pages)
    return Found([begun, *phases], memory, lost, *heard, (load, os.getloadavg()[0]))


async def _measured(phase: Phase, crowd: Crowd, owner: Page, serving: Serving) -> None:
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(phase, serving))
        asked: list[Awaitable[None]] = [
            at_rate(CHANGES * phase.times, phase.seconds, lambda: crowd.change(phase)),
            at_rate(RUNS * phase.times, phase.seconds, lambda: crowd.run(phase)),
            at_rate(1, phase.seconds, lambda: owner.post(phase.of("the owner asks"), "queries/library_me")),
            at_rate(1, phase.seconds, lambda: owner.do(phase.of("the owner acts"), "select", layer=0, pos=0)),
        ]
        await asyncio.gather(*asked)
        watch.cancel()


async def _watch(phase: Phase, serving: Serving) -> None:
    while True:
        phase.memory.append(serving.memory)
        since = time.perf_counter()
        await asyncio.sleep(EVERY)
        phase.late.append(time.perf_counter() - since - EVERY)


def part(minutes: float, seed: str) -> str:
    """The section of the report."""
    with tempfile.TemporaryDirectory() as folder, serving(MODEL, Path(folder)) as running:
        found = asyncio.run(ask(running, 60 * minutes, seed))
    return section(found, minutes)


def faults(found: Found) -> list[str]:
    """What gave way: an answer that is neither what was asked for nor a time to come back, a page let go, memory that grows."""
    second, last = thirds(found.memory)
    grown = [f"memory grew from {second / MB:.0f} to {last / MB:.0f} MB"] if last > MOST_GROWN * second else []
    return [*(said for phase in found.phases for said in phase.wrong), *found.lost, *grown]


def thirds(memory: Sequence[int]) -> tuple[float, float]:
    """The mean of the second third, and of the last."""
    third = len(memory) // 3
    return statistics.mean(memory[third : 2 * third]), statistics.mean(memory[-third:])


def section(found: Found, minutes: float) -> str:
    rows = [_row(phase, kind, told) for phase in found.phases for kind, told in phase.kinds.items()]
    second, last = thirds(found.memory)
    gave_way = faults(found) + [f"{p.refused} refused {p.name}" for p in found.phases if p.times == 1 and p.refused]
    return SECTION.format(
        minutes=minutes,
        cpus=os.cpu_count(),
        rows="\n".join(rows),
        before=found.memory[0] / MB,
        second=second / MB,
        last=last / MB,
        lost=len(found.lost),
        messages=found.messages,
        told=found.octets / MB,
        load=found.load[0],
        after=found.load[1],
        late=1000 * at([late for phase in found.phases for late in phase.late], 0.95),
        faults="\n".join(
            [f"{FAULT} {times} x {one}" for one, times in Counter(gave_way).most_common(20)] or ["Nothing gave way."]
        ),
    )


def _row(phase: Phase, kind: str, told: Told) -> str:
    times = " | ".join(f"{1000 * at(told.seconds, share):.0f}" for share in (0.5, 0.95, 0.99))
    later = f"{min(told.refused):.0f} to {max(told.refused):.0f}" if told.refused else ""
    return (
        f"| {phase.name} | {kind} | {len(told.seconds)} | {times} | {len(told.refused)} | {later} | {len(told.wrong)} |"
    )


def at(values: Sequence[float], share: float) -> float:
    """The value below which a share of them lies; NaN of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else math.nan
