"""How soon work makes way: a long run for a short prompt, and whatever runs for a cancel, a client that has left, an end."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import residscope as rs
from bench import stopping
from bench.harness import Row
from residscope.progress import asking
from residscope.session import Session

TOKENS, IDLE = 8_000, 1.0
SHORT = "The capital of France is"


def rows(*, quick: bool = False) -> Iterator[Row]:
    tokens = 2_048 if quick else TOKENS
    model = rs.load("smollm2-135m")
    text = " the" * tokens
    ids = model.encode(text)[:tokens]
    session = Session(load=lambda name, **_: model)
    try:
        session.load(model.name)
        session.wait()
        block = _block(model, ids)
        yield from _short_prompt(session, ids, block, n=1 if quick else 3)
        yield from _left(session, text, tokens, n=1 if quick else 3)
    finally:
        session.close()
    yield _closed(model, ids)
    yield from stopping.rows(quick=quick)


def _short_prompt(session: Session, ids: list[int], block: float, *, n: int) -> Iterator[Row]:
    waits = []
    for i in range(n):
        session.intent("set_tokens", {"ids": ids[: len(ids) - i]})
        time.sleep(1.5 * block)
        behind = _seconds(lambda: _run(session, SHORT + " now" * (i + 1)))  # noqa: B023
        waits.append(behind - _seconds(lambda: _run(session, SHORT + " then" * (i + 1))))  # noqa: B023
    note = f"{len(ids):,} tokens under way; what it waits beyond a run of its own, against one block's time"
    yield _row("a short prompt behind a long one", waits, block, 1.3, note)


def _left(session: Session, text: str, tokens: int, *, n: int) -> Iterator[Row]:
    """A query that needs a long run, whose asker leaves in the middle of it."""
    waits = []
    for _ in range(n):
        left, ended = threading.Event(), threading.Event()

        def ask(left: threading.Event = left, ended: threading.Event = ended) -> None:
            try:
                session.query("prompts", {"own": [text]}, gone=left.is_set)
            except rs.errors.Cancelled:
                pass
            finally:
                ended.set()

        threading.Thread(target=ask).start()
        time.sleep(2.0)
        waits.append(_seconds(lambda: (left.set(), ended.wait())))  # noqa: B023
    yield _row(
        "a page of prompts whose client left", waits, IDLE, 1.0, f"{tokens:,} tokens; until nothing runs, against 1 s"
    )


def _closed(model: Any, ids: list[int]) -> Row:
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    session.wait()
    session.intent("set_tokens", {"ids": ids})
    time.sleep(2.0)
    return _row(
        "a session closed in a long run", [_seconds(session.close)], IDLE, 1.0, f"{len(ids):,} tokens, against 1 s"
    )


def _block(model: Any, ids: list[int]) -> float:
    """The median time of a block, of the first few of a run."""
    at: list[float] = []

    def tell(done: int | None = None) -> None:
        if done is None:
            at.append(time.perf_counter())
        if len(at) > 4:
            raise rs.errors.Cancelled("enough")

    try:
        with asking(tell, tell):
            model.run([ids], ["resid_post"])
    except rs.errors.Cancelled:
        pass
    gaps = sorted(b - a for a, b in pairwise(at))
    return gaps[len(gaps) // 2]


def _run(session: Session, text: str) -> None:
    session.intent("set_prompt", {"text": text})
    while session.state.status.phase != "idle":
        time.sleep(0.005)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _row(name: str, ours: list[float], theirs: float, reach: float, note: str) -> Row:
    ours = sorted(ours)
    middle = ours[len(ours) // 2]
    return Row(name, middle, theirs, middle / theirs, ours[0] / theirs, ours[-1] / theirs, reach, len(ours), note)
