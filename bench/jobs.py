"""The live run beside twenty sweeps and 45 blind tests: from the prompt's change to its numbers, against the same with no job."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import residscope as rs
from bench.harness import Row
from residscope.methods.evidence.blind_contexts import CONTEXTS
from residscope.session import Session

JOBS, BLIND, RUNS = 20, 45, 8
TEXT = "When John and Mary went to the store, John gave a bottle of milk number {} to"
PC = {"kind": "mix", "terms": [{"dictionary": "pca@resid_post.20", "index": 3, "weight": 1.0}]}
SWEEP = {"prompts": {"kind": "live"}, "metric": {"kind": "live"}}


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Medians of a few runs each time, in turn. Raises RuntimeError where the jobs ended before the runs, or one was lost."""
    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    session.load(model)
    session.wait(120)
    live = _Live(session)
    for _ in range(3):
        live.run()
    for name, start in (("twenty jobs", _sweeps), ("45 blind tests", _blind_tests)):
        pairs = [(_busy(session, live, start), _idle(session, live)) for _ in range(3 if quick else 9)]
        low, ratio, high = statistics.quantiles([busy / idle for busy, idle in pairs], n=4)
        busy, idle = (statistics.median(column) for column in zip(*pairs, strict=True))
        note = "the same live run, no job"
        yield Row(f"live run beside {name}", busy, idle, ratio, low, high, 1.3, len(pairs), note)
    session.close()


class _Live:
    """Live runs, each of a prompt that was not run before."""

    def __init__(self, session: Session) -> None:
        self._session, self._n, self._there = session, 0, threading.Event()
        session.subscribe(self._hear)

    def run(self) -> float:
        """Seconds until the page has the run's numbers."""
        self._n += 1
        text = TEXT.format(self._n)
        self._there.clear()
        began = time.perf_counter()
        self._session.intent("set_prompt", {"text": text})
        if not self._there.wait(60):
            raise RuntimeError("the live run did not come")
        return time.perf_counter() - began

    def _hear(self, seq: int, patch: dict[str, Any]) -> None:
        if patch.get("status", {}).get("phase") == "idle" and "runs" in patch:
            self._there.set()


def _idle(session: Session, live: _Live) -> float:
    times = []
    for _ in range(RUNS):
        time.sleep(0.1)
        times.append(live.run())
    return statistics.median(times)


def _sweeps(session: Session) -> list[str]:
    return [session.intent("start", {"method": "ablation-sweep", "args": SWEEP})["job"] for _ in range(JOBS)]


def _blind_tests(session: Session) -> list[str]:
    args = {"direction": PC, "source": {"kind": "builtin", "name": "python-docs"}}
    return [session.begin(CONTEXTS, {**args, "seed": i}).id for i in range(BLIND)]


def _busy(session: Session, live: _Live, start: Callable[[Session], list[str]]) -> float:
    started = start(session)
    time.sleep(0.5)
    seconds = _idle(session, live)
    phases = {job.id: job.phase for job in session.state.jobs}
    if {*started} - {*phases} or not any(phases[id] == "running" for id in started):
        raise RuntimeError(f"jobs were lost, or had ended: {phases}")
    for id in started:
        session.intent("cancel", {"job": id})
    if not session.wait(120):
        raise RuntimeError("the jobs did not end")
    return seconds
