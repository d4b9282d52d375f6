"""What the page said to a session of version 0.1, said to today's: the one place here that knows how a session is spoken to.

`fit` and `cancel_fit` are intents of 0.1 alone: a fit is `start` with the method and its arguments, and is stopped by `cancel`.
So are `fit_probe` and `cancel_probe`: a probe is fitted by `start` with `probe-map`. `read_data` changes nothing, and is a query.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from residscope.engine.model import Model
from residscope.session import Session

PATIENCE = 120  # seconds
JOBS = {"load_model", "start", "fit", "fit_probe"}  # whose end a line that follows may count on
DOCS = {"kind": "builtin", "name": "python-docs"}
ENDS = {"FIRST": 0, "LAST": -1}  # runs that a line does not name
VOLATILE = {"seconds", "forward_ms", "threads", "certificate", "progress", "versions", "device"}


@contextmanager
def opened(model: Model, *, folder: Path | None = None) -> Iterator[Session]:
    """A session that loads this model whatever name it is told, and has it."""
    session = Session(load=lambda name, **_: model, folder=folder)
    try:
        session.load(model)
        assert session.wait(PATIENCE)
        yield session
    finally:
        session.close()


def say(session: Session, lines: Iterable[Mapping[str, Any]], files: Path) -> list[Any]:
    """Each line once the jobs before it are done; what was answered."""
    answers = []
    for line in lines:
        if "import" in line:
            answers.append(session.import_direction((files / line["import"]).read_bytes()))
            continue
        args = dict(line.get("args") or {})
        if args.get("run") in ENDS:
            settle(session)
            args["run"] = state_of(session)["runs"][ENDS[args["run"]]]["id"]
        if line["intent"] in MOVED:
            answers.append(MOVED[line["intent"]](session, args))
            if line["intent"] in JOBS:
                settle(session)
            continue
        answers.append(session.intent(line["intent"], args))
        if line["intent"] in JOBS:
            settle(session)
    settle(session)
    return answers


def as_now(intent: str, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A fit of 0.1 as today's sessions take it."""
    method, site = args.pop("method"), args.get("site")
    if method == "unembedding":
        return "start", {"method": "unembedding-rows", "args": {"tokens": args["words"]}}
    text = args.pop("text", DOCS)
    if method == "mean_difference":
        both = {"first": text, "second": args.pop("second")}
        return "start", {"method": "mean-difference", "args": {**args, "corpora": both}}
    if site == "stream":
        method, _ = f"{method}-stream", args.pop("site")
    return "start", {"method": method, "args": {**args, "corpus": text}}


def gather(session: Session, args: dict[str, Any]) -> Any:
    asked = {"direction": args["direction"], "corpus": args["text"], "tokens": args["tokens"]}
    return session.intent("start", {"method": "evidence", "args": asked})


def cancel_last(session: Session, args: dict[str, Any]) -> Any:
    return session.intent("cancel", {"job": session.state.jobs[-1].id})


def fit(session: Session, args: dict[str, Any]) -> Any:
    intent, asked = as_now("fit", dict(args))
    return session.intent(intent, asked)


def fit_probe(session: Session, args: dict[str, Any]) -> Any:
    return session.intent("start", {"method": "probe-map", "args": dict(args)})


def read_data(session: Session, args: dict[str, Any]) -> Any:
    return session.query("read_data", args)


def nothing(session: Session, args: dict[str, Any]) -> None:
    """What it would stop is waited for."""


# intents of 0.1 that are methods and queries now: the page came with its server, so nothing else says them
MOVED = {
    "gather_evidence": gather, "cancel_evidence": cancel_last, "fit": fit, "cancel_fit": nothing, "fit_probe": fit_probe,
    "cancel_probe": nothing, "read_data": read_data,
}  # fmt: skip


def settle(session: Session) -> None:
    """Until runs and jobs are done; what is only filled in afterwards (deltas, saved prompts' next tokens) is not waited for."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        state = session.snapshot()[1]
        under_way = any(job["phase"] in ("waiting", "running") for job in state["jobs"])
        if not under_way and state["status"]["phase"] in ("idle", "empty", "failed"):
            return
        time.sleep(0.005)
    raise AssertionError("the session did not come to rest")


def state_of(session: Session) -> dict[str, Any]:
    """The state as the page is sent it."""
    return json.loads(json.dumps(session.snapshot()[1], allow_nan=False))
