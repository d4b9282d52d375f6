"""How soon the processor is idle after a cancel, or once a client has left, for each way of working."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import residscope as rs
from bench.harness import Row
from bench.jobs import PC
from bench.page import prose
from residscope.errors import Cancelled
from residscope.methods.evidence.blind_contexts import CONTEXTS
from residscope.session import Session

IDLE = 1.0  # second
LOOK, LITTLE = 0.2, 0.1  # seconds between two looks, and the share of them that an idle process may spend
LIVE, CORPUS = {"kind": "live"}, {"kind": "builtin", "name": "python-docs"}
IOI = {"kind": "task", "task": "ioi", "n": 200}
JOBS: dict[str, tuple[str, dict[str, Any], int]] = {  # method, arguments, tokens of the live prompt
    "a sweep": ("ablation-sweep", {"prompts": LIVE, "metric": LIVE}, 256),
    "gradients": ("saliency", {"prompt": LIVE, "metric": LIVE}, 2000),
    "a lens of every token": ("logit-lens", {"prompt": LIVE}, 1000),
    "a fit": ("pca", {"corpus": CORPUS, "site": "mlp_post.10", "tokens": 4000}, 16),
    "a search for non-negative parts": (
        "nmf",
        {"corpus": CORPUS, "site": "mlp_post.10", "n": 50, "clip": True, "tokens": 4000},
        16,
    ),
    "a probe": ("probe-map", {"data": IOI, "site": "resid_mid.12", "position": "S2", "label": "order"}, 16),
    "training": ("sae-train", {"corpus": CORPUS, "sites": ["resid_post.8"], "tokens": 1_000_000}, 16),
    "a graph": (
        "causal-graph",
        {"prompt": LIVE, "dictionaries": [f"pca@resid_post.{layer}" for layer in (8, 9, 10)]},
        24,
    ),
    "a generation": ("continuations", {"prompt": LIVE, "max_new_tokens": 400}, 256),
    "heads on repeated tokens": ("head-scores", {}, 16),
}


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    session = Session(load=rs.load)
    try:
        session.load(model, named="smollm2-135m")
        session.wait()
        for name, (method, args, tokens) in JOBS.items():
            yield _row(name, [_job(session, method, args, prose(model, tokens), after) for after in _when(quick)])
        yield _row("a blind test", [_blind(session, after) for after in _when(quick)])
        yield _row("a run", [_run(session, prose(model, 4000), after) for after in _when(quick)])
        yield _row("a map of 500 tokens", [_query(session, "map", after) for after in _when(quick)])
        yield _row("a load", [_load(session, after) for after in _when(quick)])
    finally:
        session.close()


def _when(quick: bool) -> tuple[float, ...]:
    """Seconds after which each is stopped."""
    return (0.7,) if quick else (0.2, 0.7, 1.5)


def _job(session: Session, method: str, args: dict[str, Any], text: str, after: float) -> float:
    session.intent("set_prompt", {"text": text})
    session.wait()
    return _stopped(session, session.intent("start", {"method": method, "args": args})["job"], after)


def _blind(session: Session, after: float) -> float:
    return _stopped(session, session.begin(CONTEXTS, {"direction": PC, "source": CORPUS, "seed": 0}).id, after)


def _stopped(session: Session, job: str, after: float) -> float:
    def now() -> Any:
        return next(one for one in session.state.jobs if one.id == job)

    while now().phase == "waiting":
        time.sleep(0.01)
    time.sleep(after)
    seconds = _until_idle(lambda: session.intent("cancel", {"job": job}), lambda: now().ended)
    if now().phase != "cancelled":
        raise RuntimeError(f"{now().method} had ended by then: {now().phase}, {now().error}")
    return seconds


def _run(session: Session, text: str, after: float) -> float:
    session.intent("set_prompt", {"text": text})
    time.sleep(after)
    return _until_idle(lambda: session.intent("cancel_run"), lambda: session.wait(0))


def _query(session: Session, name: str, after: float) -> float:
    """A query whose client leaves."""
    session.intent("set_prompt", {"text": prose(session.model, 500)})
    session.wait()
    session.maps.clear()
    run, left = session.snapshot()[1]["runs"][-1]["id"], threading.Event()

    def ask() -> None:
        with suppress(Cancelled):
            session.query(name, {"run": run, "positive": 5, "negative": 7}, gone=left.is_set)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        time.sleep(after)
        return _until_idle(left.set, asked.done)


def _load(session: Session, after: float) -> float:
    session.load("planted")
    time.sleep(after / 5)
    return _until_idle(lambda: session.intent("keep_model"), lambda: session.wait(0))


def _until_idle(stop: Callable[[], object], ended: Callable[[], bool]) -> float:
    """Seconds from a stop until the work has ended, and the process spends next to nothing."""
    began = time.perf_counter()
    stop()
    while not ended():
        time.sleep(0.01)
    while True:
        at, spent = time.perf_counter(), time.process_time()
        time.sleep(LOOK)
        if time.process_time() - spent < LITTLE * LOOK:
            return at - began


def _row(name: str, seconds: list[float]) -> Row:
    """The slowest counts."""
    low, high = min(seconds), max(seconds)
    note = "until the processor is idle after a cancel, the slowest, against 1 s"
    return Row(f"stopped: {name}", high, IDLE, high / IDLE, low / IDLE, high / IDLE, 1.0, len(seconds), note)
